"""Recording of plans, compiled only where a state has room for them (`plan_log`)."""

from __future__ import annotations

from ...workloads.jit import compiled_code, compiled_part
from .kv import KvRules
from .plan_log import PREEMPTED, Plans
from .policies import Limits
from .state import State


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
    """Note the new tokens of a request in the plan being made."""
    if tokens > 0:
        write_entry(plans, index, tokens, state.requests[index].cached)


@compiled_code
def record_preempted(plans: Plans, state: State, index: int) -> None:
    """Note that the plan being made preempts a request."""
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
    """Note that a plan is made."""
    write_plan(plans, state.free[rank], now)


HOOKS = {
    "alike": one_by_one, "on_tokens_planned": record_tokens, "on_preempted": record_preempted,
    "on_undone": record_undone, "on_plan": record_plan,
}  # fmt: skip
