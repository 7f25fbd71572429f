"""What an engine's clients do: requests arrive, complete, and others come after them.

They arrive at times of their own; or, in a closed loop, when the request before them completes; or,
in a session, after the one that they follow (`chains`).
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled_given, compiled_inside, compiled_part
from . import state as col
from .chains import arrived, go_on, soonest_of
from .holding import enqueue
from .kv import KvRules
from .lane_queue import join_lane, turned_away
from .loading import come_near
from .policies import Limits
from .state import State


@compiled_part
def next_row(st: State, closed_loop: bool) -> int:
    """Return the next request in order of the rows; -1 where none is known to arrive."""
    counters = st.counters
    known = counters[col.C_OPENED] if closed_loop else counters[col.C_SUBMITTED]
    return int(counters[col.C_WALK] if counters[col.C_WALK] < known else -1)


@compiled_part
def take_next(st: State, i: int) -> None:
    """Count the next request in order of the rows as arrived."""
    st.counters[col.C_WALK] += 1


@compiled_part
def open_next(st: State, i: int, now: float, closed_loop: bool) -> None:
    """Let the next request of a closed loop arrive."""
    counters = st.counters
    if closed_loop and counters[col.C_OPENED] < counters[col.C_SUBMITTED]:
        st.floats[counters[col.C_OPENED], col.F_ARRIVAL] = now
        counters[col.C_OPENED] += 1


@compiled_given("st.chain", otherwise=next_row)
def soonest(st: State, closed_loop: bool) -> int:
    """Return the request that arrives next; -1 where none is known to."""
    return soonest_of(st, st.chain, closed_loop)


@compiled_given("st.chain", otherwise=take_next)
def take(st: State, i: int) -> None:
    """Count the request that `soonest` gave as arrived."""
    arrived(st, st.chain, i)


@compiled_given("st.chain", otherwise=open_next)
def follow(st: State, i: int, now: float, closed_loop: bool) -> None:
    """Open what comes after a completed request."""
    go_on(st, st.chain, i, now, closed_loop)


@compiled_inside
def lightest_rank(st: State, waiting_load: int) -> int:
    """The rank with the fewest requests, a waiting one counting `waiting_load` times."""
    best, fewest = 0, 1 << 40
    for r in range(st.ranks.shape[0]):
        load = st.ranks[r, col.R_RUNNING] + waiting_load * st.ranks[r, col.R_WAITING]
        if load < fewest:
            best, fewest = r, load
    return best


@compiled_given("st.lanes", otherwise=enqueue)
def join_queue(st: State, r: int, i: int) -> None:
    """Queue a request that has just come."""
    join_lane(st, st.lanes, r, i)


@compiled_part
def release(st: State, limits: Limits, kv: KvRules, closed_loop: bool, known_at: float) -> float:
    """Queue requests that arrived by `known_at`; returns when the next arrives (infinity: none).

    A request goes to the rank with the fewest requests, a waiting one counting `Policy.waiting_load` times.
    """
    while True:
        i = soonest(st, closed_loop)
        if i < 0:
            return np.inf
        if st.floats[i, col.F_ARRIVAL] > known_at:
            return float(st.floats[i, col.F_ARRIVAL])
        take(st, i)
        r = lightest_rank(st, limits.waiting_load)
        if turned_away(st, r, i):
            continue
        join_queue(st, r, i)
        come_near(st, limits, kv, r, i)
        st.counters[col.C_RELEASED] += 1


@compiled_part
def complete(st: State, i: int, now: float, closed_loop: bool) -> None:
    """Count a request that has its last token; its client goes on, or in a closed loop the next."""
    counters = st.counters
    st.ints[i, col.I_ORDER] = counters[col.C_COMPLETED]
    st.ints[counters[col.C_COMPLETED], col.I_DONE] = i
    counters[col.C_COMPLETED] += 1
    follow(st, i, now, closed_loop)
