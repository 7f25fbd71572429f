"""Recording of every plan of an engine, compiled only into engines that keep plans (`Plans`)."""

from __future__ import annotations

from typing import NamedTuple

from ...workloads.jit import compiled_code, compiled_part
from ...workloads.jit_address import by_address
from ...workloads.records import Records, named, records
from .kv import KvRules
from .policies import Limits
from .state import State

ENTRY = named("request tokens cached", "")
"""Entry of a plan: a request, its tokens in the step (`PREEMPTED` if it was preempted), and its tokens in the cache before
the step.
"""

PREEMPTED = -1

COUNTS = named("plans entries", "")
"""Numbers of recorded plans and entries."""

PLAN = named("end", "time free")
"""A plan: the index after its last entry, the time when it was made [s], and one device's free KV bytes after it."""


@by_address
class Plans(NamedTuple):
    """Recorded plans of one rank in order of time, with one entry for each sequence of a plan."""

    plans: Records  # [P] of `PLAN`
    entries: Records  # [E] of `ENTRY`
    counts: Records  # [1] of `COUNTS`


def new_plans(plans: int, entries: int) -> Plans:
    """Return an empty record for a number of plans and entries."""
    return Plans(records(plans, PLAN), records(entries, ENTRY), records(1, COUNTS))


def taken(log: Plans, have: list[tuple[Records, Records]], most: int | None) -> None:
    """Append the recorded plans to the list `have`, up to `most` entries, and clear the record."""
    made, entries = int(log.counts[0].plans), int(log.counts[0].entries)
    if most is None or sum(len(entry) for entry, _ in have) < most:
        have.append((log.plans[:made].copy(), log.entries[:entries].copy()))
    log.counts[:] = 0


@compiled_part
def write_entry(plans: Plans, index: int, tokens: int, cached: int) -> None:
    """Append an entry to the plan being made."""
    row = plans.entries[plans.counts[0].entries]
    row.request, row.tokens, row.cached = index, tokens, cached
    plans.counts[0].entries += 1


@compiled_part
def write_plan(plans: Plans, free: float, now: float) -> None:
    """End the plan being made."""
    row = plans.plans[plans.counts[0].plans]
    row.time, row.free, row.end = now, free, plans.counts[0].entries
    plans.counts[0].plans += 1


@compiled_code
def one_by_one(plans: Plans, state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Return 1: with recording, no steps are fast-forwarded."""
    return 1


@compiled_code
def record_tokens(plans: Plans, state: State, index: int, tokens: int) -> None:
    """Record the new tokens of a request in the plan being made."""
    if tokens > 0:
        write_entry(plans, index, tokens, state.requests[index].cached)


@compiled_code
def record_preempted(plans: Plans, state: State, index: int) -> None:
    """Record that the plan being made preempts a request."""
    write_entry(plans, index, PREEMPTED, 0)


@compiled_code
def record_undone(plans: Plans, state: State, index: int) -> None:
    """Set the latest entry of a request in the plan being made to no tokens."""
    at = plans.counts[0].entries - 1
    while plans.entries[at].request != index:
        at -= 1
    plans.entries[at].tokens = 0


@compiled_code
def record_plan(plans: Plans, state: State, rank: int, now: float) -> None:
    """End the plan being made, with its time and the free KV bytes."""
    write_plan(plans, state.free[rank], now)


HOOKS = {
    "alike": one_by_one, "on_tokens_planned": record_tokens, "on_preempted": record_preempted,
    "on_undone": record_undone, "on_plan": record_plan,
}  # fmt: skip
