"""Recording of plans, compiled only where a state has room for them, see `Plans`."""

from __future__ import annotations

from typing import NamedTuple

from ...workloads.jit import compiled_code, compiled_part
from ...workloads.jit_address import by_address
from ...workloads.records import Records, named, records
from .kv import KvRules
from .policies import Limits
from .state import State

ENTRY = named("request tokens cached", "")
"""A request, its tokens in the step (`PREEMPTED` if it was preempted), and how many of its tokens were in the cache
before."""

PREEMPTED = -1

COUNTS = named("plans entries", "")
"""How many there are."""

PLAN = named("end", "time free")
"""Where a plan's entries end; when it was made [s], free KV bytes of one device after it."""


@by_address
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
    """Steps of one plan: plans are recorded one by one."""
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
    """Let the latest entry of a request in the plan being made be of no tokens."""
    at = plans.counts[0].entries - 1
    while plans.entries[at].request != index:
        at -= 1
    plans.entries[at].tokens = 0


@compiled_code
def record_plan(plans: Plans, state: State, rank: int, now: float) -> None:
    """Record that a plan is made."""
    write_plan(plans, state.free[rank], now)


HOOKS = {
    "alike": one_by_one, "on_tokens_planned": record_tokens, "on_preempted": record_preempted,
    "on_undone": record_undone, "on_plan": record_plan,
}  # fmt: skip
