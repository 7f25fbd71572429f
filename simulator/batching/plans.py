"""Recording of plans, compiled only where a state has room for them (`plan_log`)."""

from __future__ import annotations

from ...workloads.jit import compiled_code, compiled_part
from .kv import KvRules
from .plan_log import E_CACHED, E_REQUEST, E_TOKENS, N_ENTRIES, N_PLANS, P_END, P_FREE, P_TIME, PREEMPTED, Plans
from .policies import Limits
from .state import I_CACHED, State


@compiled_part
def write_entry(plans: Plans, index: int, tokens: int, cached: int) -> None:
    """Append an entry to the plan being made."""
    row = plans.entries[plans.counts[N_ENTRIES]]
    row[E_REQUEST], row[E_TOKENS], row[E_CACHED] = index, tokens, cached
    plans.counts[N_ENTRIES] += 1


@compiled_part
def write_plan(plans: Plans, free: float, now: float) -> None:
    """End the plan being made."""
    row = plans.plans[plans.counts[N_PLANS]]
    row[P_TIME], row[P_FREE], row[P_END] = now, free, plans.counts[N_ENTRIES]
    plans.counts[N_PLANS] += 1


@compiled_code
def one_by_one(plans: Plans, state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Steps of one plan: plans are recorded one by one."""
    return 1


@compiled_code
def record_tokens(plans: Plans, state: State, index: int, tokens: int) -> None:
    """Note the new tokens of a request in the plan being made."""
    if tokens > 0:
        write_entry(plans, index, tokens, state.ints[index, I_CACHED])


@compiled_code
def record_preempted(plans: Plans, state: State, index: int) -> None:
    """Note that the plan being made preempts a request."""
    write_entry(plans, index, PREEMPTED, 0)


@compiled_code
def record_undone(plans: Plans, state: State, index: int) -> None:
    """Let the latest entry of a request in the plan being made be of no tokens."""
    at = plans.counts[N_ENTRIES] - 1
    while plans.entries[at, E_REQUEST] != index:
        at -= 1
    plans.entries[at, E_TOKENS] = 0


@compiled_code
def record_plan(plans: Plans, state: State, rank: int, now: float) -> None:
    """Note that a plan is made."""
    write_plan(plans, state.free[rank], now)


HOOKS = {
    "alike": one_by_one, "on_tokens_planned": record_tokens, "on_preempted": record_preempted,
    "on_undone": record_undone, "on_plan": record_plan,
}  # fmt: skip
