"""Every plan of an engine, where that is asked for: arrays that compiled code writes to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit_held import held

(E_REQUEST, E_TOKENS, E_CACHED) = range(3)
"""Columns of `Plans.entries`: a request, its tokens in the step (`PREEMPTED` if it was preempted),
and how many of its tokens were in the cache before."""

PREEMPTED = -1

(N_PLANS, N_ENTRIES) = range(2)
"""Entries of `Plans.counts`."""

(P_TIME, P_FREE, P_END) = range(3)
"""Columns of `Plans.plans`: when it was made [s], free KV bytes of one device after it, and where its entries end."""


@held
class Plans(NamedTuple):
    """Plans of one rank in order, each behind its entries."""

    plans: npt.NDArray[np.float64]  # [P, 3]
    entries: npt.NDArray[np.int64]  # [E, 3]
    counts: npt.NDArray[np.int64]  # [2]


def new_plans(plans: int, entries: int) -> Plans:
    """Return room for a number of plans and entries."""
    return Plans(np.zeros((plans, 3)), np.zeros((entries, 3), dtype=np.int64), np.zeros(2, dtype=np.int64))


def taken(log: Plans, have: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]], most: int | None) -> None:
    """Append the recorded plans to the existing ones, up to `most`."""
    made, entries = int(log.counts[N_PLANS]), int(log.counts[N_ENTRIES])
    if most is None or sum(len(entry) for entry, _ in have) < most:
        have.append((log.plans[:made].copy(), log.entries[:entries].copy()))
    log.counts[:] = 0
