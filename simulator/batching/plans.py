"""Recording of plans, compiled only where a state has room for them (`plan_log`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.extending import overload

from ...workloads.jit import OPTIONS, compiled_part, lacks
from .plan_log import (
    E_CACHED,
    E_REQUEST,
    E_TOKENS,
    N_ENTRIES,
    N_PLANS,
    P_END,
    P_FREE,
    P_TIME,
    PREEMPTED,
    Plans,
)
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


def records(st: State) -> bool:
    """Whether plans are recorded, one by one."""
    return st.plans is not None


def record_tokens(st: State, i: int, tokens: int) -> None:
    """Note the new tokens of a request in the plan being made."""
    if st.plans is not None and tokens > 0:
        write_entry(st.plans, i, tokens, st.ints[i, I_CACHED])


def record_preempted(st: State, i: int) -> None:
    """Note that the plan being made preempts a request."""
    if st.plans is not None:
        write_entry(st.plans, i, PREEMPTED, 0)


def record_plan(st: State, r: int, now: float) -> None:
    """Note that a plan is made."""
    if st.plans is not None:
        write_plan(st.plans, st.free[r], now)


@overload(records, jit_options=OPTIONS, inline="always")
def _typed_records(st: Any) -> Callable[..., bool]:
    def absent(st: Any) -> bool:
        return False

    def present(st: Any) -> bool:
        return True

    return absent if lacks(st, "plans") else present


@overload(record_tokens, jit_options=OPTIONS, inline="always")
def _typed_tokens(st: Any, i: Any, tokens: Any) -> Callable[..., None]:
    def absent(st: Any, i: Any, tokens: Any) -> Any:
        return None

    def present(st: Any, i: Any, tokens: Any) -> Any:
        if tokens > 0:
            write_entry(st.plans, i, tokens, st.ints[i, I_CACHED])

    return absent if lacks(st, "plans") else present


@overload(record_preempted, jit_options=OPTIONS, inline="always")
def _typed_preempted(st: Any, i: Any) -> Callable[..., None]:
    def absent(st: Any, i: Any) -> Any:
        return None

    def present(st: Any, i: Any) -> Any:
        write_entry(st.plans, i, PREEMPTED, 0)

    return absent if lacks(st, "plans") else present


@overload(record_plan, jit_options=OPTIONS, inline="always")
def _typed_plan(st: Any, r: Any, now: Any) -> Callable[..., None]:
    def absent(st: Any, r: Any, now: Any) -> Any:
        return None

    def present(st: Any, r: Any, now: Any) -> Any:
        write_plan(st.plans, st.free[r], now)

    return absent if lacks(st, "plans") else present
