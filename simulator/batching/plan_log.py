"""Every plan of an engine, where that is asked for: arrays that compiled code writes to."""

from __future__ import annotations

from typing import NamedTuple

from ...workloads.jit_held import held
from ...workloads.records import Records, named, records

ENTRY = named("request tokens cached", "")
"""A request, its tokens in the step (`PREEMPTED` if it was preempted), and how many of its tokens were in the cache
before."""

PREEMPTED = -1

COUNTS = named("plans entries", "")
"""How many there are."""

PLAN = named("end", "time free")
"""Where a plan's entries end; when it was made [s], free KV bytes of one device after it."""


@held
class Plans(NamedTuple):
    """Plans of one rank in order, each behind its entries."""

    plans: Records  # [P] of `PLAN`
    entries: Records  # [E] of `ENTRY`
    counts: Records  # [1] of `COUNTS`


def new_plans(plans: int, entries: int) -> Plans:
    """Return room for a number of plans and entries."""
    return Plans(records(plans, PLAN), records(entries, ENTRY), records(1, COUNTS))


def taken(log: Plans, have: list[tuple[Records, Records]], most: int | None) -> None:
    """Append the recorded plans to the existing ones, up to `most`."""
    made, entries = int(log.counts[0].plans), int(log.counts[0].entries)
    if most is None or sum(len(entry) for entry, _ in have) < most:
        have.append((log.plans[:made].copy(), log.entries[:entries].copy()))
    log.counts[:] = 0
