"""Cache for the costs of a layer's experts at loads from a pool of samples, so that each sample is costed once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...devices.cost import BOUNDS
from ...workloads.draws import U8, mix
from ...workloads.jit import compiled_part
from ...workloads.jit_address import by_address

A_TOKENS, A_ACTIVE, A_RUNS, A_OUTSIDE = range(len(BOUNDS), len(BOUNDS) + 4)
NUM_SHARE = len(BOUNDS) + 4
"""Columns of `StepTotals.share`, the experts of one part on one processor in one step, summed over all groups.

First the busy seconds by bound (`BOUNDS`), then tokens, active experts, runs, and runs outside the kernel tables.
"""

ENTRIES = 1 << 15
"""Number of entries of the cache; a new result replaces an old one."""

F8 = npt.NDArray[np.float64]


@by_address
class Memo(NamedTuple):
    """Cache of N entries for P processors."""

    marks: U8  # [N] key of the loads (`drawing.mark_of`); 0: empty
    totals: F8  # [N, 2] seconds of the slowest group, and bytes of partial sums
    shares: F8  # [N, P, NUM_SHARE]


def new_memo(processors: int) -> Memo:
    """Return an empty cache."""
    shares = np.zeros((ENTRIES, processors, NUM_SHARE))
    return Memo(np.zeros(ENTRIES, dtype=np.uint64), np.zeros((ENTRIES, 2)), shares)


@compiled_part
def entry_of(memo: Memo, mark: np.uint64) -> int:
    """Return the index of the entry that a key's results are stored in."""
    return int(np.int64(mix(mark) % np.uint64(memo.marks.size)))


@compiled_part
def copy_share(source: F8, target: F8) -> None:
    """Copy the totals of one step's experts."""
    for p in range(source.shape[0]):
        for a in range(NUM_SHARE):
            target[p, a] = source[p, a]


@compiled_part
def recall(memo: Memo, entry: int, share: F8) -> tuple[float, float]:
    """Return the totals of an entry and copy its share into `share`."""
    copy_share(memo.shares[entry], share)
    return memo.totals[entry, 0], memo.totals[entry, 1]


@compiled_part
def remember(memo: Memo, entry: int, mark: np.uint64, totals: tuple[float, float], share: F8) -> None:
    """Store the totals and the share of a key in an entry."""
    copy_share(share, memo.shares[entry])
    memo.totals[entry, 0], memo.totals[entry, 1] = totals
    memo.marks[entry] = mark
