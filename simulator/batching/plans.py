"""Recording of plans, compiled only where a state has room for them (`plan_log`)."""

from __future__ import annotations

from ...workloads.jit import compiled_given, compiled_part
from .plan_log import E_CACHED, E_REQUEST, E_TOKENS, N_ENTRIES, N_PLANS, P_END, P_FREE, P_TIME, PREEMPTED, Plans
from .state import I_CACHED, State


@compiled_part
def write_entry(plans: Plans, i: int, tokens: int, cached: int) -> None:
    """Append an entry to the plan being made."""
    row = plans.entries[plans.counts[N_ENTRIES]]
    row[E_REQUEST], row[E_TOKENS], row[E_CACHED] = i, tokens, cached
    plans.counts[N_ENTRIES] += 1


@compiled_part
def write_plan(plans: Plans, free: float, now: float) -> None:
    """End the plan being made."""
    row = plans.plans[plans.counts[N_PLANS]]
    row[P_TIME], row[P_FREE], row[P_END] = now, free, plans.counts[N_ENTRIES]
    plans.counts[N_PLANS] += 1


@compiled_given("st.plans", otherwise=lambda st: False)
def records(st: State) -> bool:
    """Whether plans are recorded, one by one."""
    return True


@compiled_given("st.plans", otherwise=lambda st, i, tokens: None)
def record_tokens(st: State, i: int, tokens: int) -> None:
    """Note the new tokens of a request in the plan being made."""
    if tokens > 0:
        write_entry(st.plans, i, tokens, st.ints[i, I_CACHED])


@compiled_given("st.plans", otherwise=lambda st, i: None)
def record_preempted(st: State, i: int) -> None:
    """Note that the plan being made preempts a request."""
    write_entry(st.plans, i, PREEMPTED, 0)


@compiled_part
def undo_entry(plans: Plans, i: int) -> None:
    """Let the latest entry of a request be of no tokens."""
    at = plans.counts[N_ENTRIES] - 1
    while plans.entries[at, E_REQUEST] != i:
        at -= 1
    plans.entries[at, E_TOKENS] = 0


@compiled_given("st.plans", otherwise=lambda st, i: None)
def record_undone(st: State, i: int) -> None:
    """Note that the plan being made has no tokens for a request after all."""
    undo_entry(st.plans, i)


@compiled_given("st.plans", otherwise=lambda st, r, now: None)
def record_plan(st: State, r: int, now: float) -> None:
    """Note that a plan is made."""
    write_plan(st.plans, st.free[r], now)
