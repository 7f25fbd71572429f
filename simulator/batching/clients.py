"""What an engine's clients do: requests arrive, complete, and others come after them.

They arrive at times of their own; or, in a closed loop, when the request before them completes; or,
in a session, after the one that they follow (`chains`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import overload

from ...workloads.jit import OPTIONS, compiled_part, lacks
from .chains import arrived, go_on, soonest_of
from .holding import enqueue
from .state import (
    C_COMPLETED,
    C_OPENED,
    C_RELEASED,
    C_SUBMITTED,
    C_WALK,
    F_ARRIVAL,
    I_DONE,
    I_ORDER,
    R_RUNNING,
    R_WAITING,
    State,
)


@compiled_part
def next_row(st: State, closed_loop: bool) -> int:
    """Return the next request in order of the rows; -1 where none is known to arrive."""
    counters = st.counters
    known = counters[C_OPENED] if closed_loop else counters[C_SUBMITTED]
    return int(counters[C_WALK] if counters[C_WALK] < known else -1)


@compiled_part
def open_next(st: State, now: float, closed_loop: bool) -> None:
    """Let the next request of a closed loop arrive."""
    counters = st.counters
    if closed_loop and counters[C_OPENED] < counters[C_SUBMITTED]:
        st.floats[counters[C_OPENED], F_ARRIVAL] = now
        counters[C_OPENED] += 1


def soonest(st: State, closed_loop: bool) -> int:
    """Return the request that arrives next; -1 where none is known to."""
    if st.chain is None:
        return next_row(st, closed_loop)
    return soonest_of(st, st.chain, closed_loop)


def take(st: State, i: int) -> None:
    """Count the request that `soonest` gave as arrived."""
    if st.chain is None:
        st.counters[C_WALK] += 1
    else:
        arrived(st, st.chain, i)


def follow(st: State, i: int, now: float, closed_loop: bool) -> None:
    """Open what comes after a completed request."""
    if st.chain is None:
        open_next(st, now, closed_loop)
    else:
        go_on(st, st.chain, i, now, closed_loop)


@overload(soonest, jit_options=OPTIONS, inline="always")
def _typed_soonest(st: Any, closed_loop: Any) -> Callable[..., int]:
    def absent(st: Any, closed_loop: Any) -> Any:
        return next_row(st, closed_loop)

    def present(st: Any, closed_loop: Any) -> Any:
        return soonest_of(st, st.chain, closed_loop)

    return absent if lacks(st, "chain") else present


@overload(take, jit_options=OPTIONS, inline="always")
def _typed_take(st: Any, i: Any) -> Callable[..., None]:
    def absent(st: Any, i: Any) -> Any:
        st.counters[C_WALK] += 1

    def present(st: Any, i: Any) -> Any:
        arrived(st, st.chain, i)

    return absent if lacks(st, "chain") else present


@overload(follow, jit_options=OPTIONS, inline="always")
def _typed_follow(st: Any, i: Any, now: Any, closed_loop: Any) -> Callable[..., None]:
    def absent(st: Any, i: Any, now: Any, closed_loop: Any) -> Any:
        open_next(st, now, closed_loop)

    def present(st: Any, i: Any, now: Any, closed_loop: Any) -> Any:
        go_on(st, st.chain, i, now, closed_loop)

    return absent if lacks(st, "chain") else present


@compiled_part
def release(st: State, closed_loop: bool, known_at: float, waiting_load: int) -> float:
    """Queue requests that arrived by `known_at`; returns when the next arrives (infinity: none).

    A request goes to the rank with the fewest requests, a waiting one counting `waiting_load` times.
    """
    counters, ranks = st.counters, st.ranks
    while True:
        i = soonest(st, closed_loop)
        if i < 0:
            return np.inf
        if st.floats[i, F_ARRIVAL] > known_at:
            return float(st.floats[i, F_ARRIVAL])
        take(st, i)
        best, fewest = 0, 1 << 40
        for r in range(ranks.shape[0]):
            load = ranks[r, R_RUNNING] + waiting_load * ranks[r, R_WAITING]
            if load < fewest:
                best, fewest = r, load
        enqueue(st, best, i)
        counters[C_RELEASED] += 1


@compiled_part
def complete(st: State, i: int, now: float, closed_loop: bool) -> None:
    """Count a request that has its last token; its client goes on, or in a closed loop the next."""
    counters = st.counters
    st.ints[i, I_ORDER] = counters[C_COMPLETED]
    st.ints[counters[C_COMPLETED], I_DONE] = i
    counters[C_COMPLETED] += 1
    follow(st, i, now, closed_loop)
