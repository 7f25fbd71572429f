"""What an engine's clients do: requests arrive, complete, and others come after them.

They arrive at times of their own; or, in a closed loop, when the request before them completes; or,
in a session, when the one that they follow has ended and its client has thought. What has been opened
by another's end and has not arrived stands in a binary heap, soonest first, those of one moment in
the order in which they were opened.
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled_part, int64
from ...workloads.requests import RequestBlock
from .state import (
    C_COMING,
    C_COMPLETED,
    C_OPENED,
    C_RELEASED,
    C_SUBMITTED,
    C_WALK,
    F_ARRIVAL,
    F_LAST,
    H_AFTER,
    H_BEFORE,
    I_DONE,
    I_NEXT,
    I_ORDER,
    R_HEAD,
    R_RUNNING,
    R_TAIL,
    R_WAITING,
    Chain,
    State,
)


@compiled_part
def sooner(st: State, i: int, j: int) -> bool:
    """Whether one opened request arrives before another."""
    one, other = st.floats[i, F_ARRIVAL], st.floats[j, F_ARRIVAL]
    return bool(one < other or (one == other and st.ints[i, I_NEXT] < st.ints[j, I_NEXT]))


@compiled_part
def open_request(st: State, i: int, arrival: float, turn: int) -> None:
    """Let a request arrive at a time; `turn` breaks ties. It is in no queue yet: `I_NEXT` is free."""
    coming, counters = st.chain.coming, st.counters
    st.floats[i, F_ARRIVAL], st.ints[i, I_NEXT] = arrival, turn
    at = counters[C_COMING]
    counters[C_COMING] += 1
    while at > 0:
        above = (at - 1) // 2
        if not sooner(st, i, coming[above]):
            break
        coming[at] = coming[above]
        at = above
    coming[at] = i


@compiled_part
def take_soonest(st: State) -> None:
    """Take the soonest of the opened requests out of the heap."""
    coming, counters = st.chain.coming, st.counters
    counters[C_COMING] -= 1
    size = counters[C_COMING]
    last, at, below = coming[size], int64(0), int64(1)
    while below < size:
        if below + 1 < size and sooner(st, coming[below + 1], coming[below]):
            below += 1
        if not sooner(st, coming[below], last):
            break
        coming[at] = coming[below]
        at, below = below, 2 * below + 1
    coming[at] = last


@compiled_part
def soonest(st: State, closed_loop: bool) -> int:
    """The request that arrives next; -1 where none is known to."""
    counters, chain = st.counters, st.chain
    known = counters[C_OPENED] if closed_loop else counters[C_SUBMITTED]
    i = counters[C_WALK]
    if chain.coming.size > 0:  # those of a closed loop are opened, every one of them
        while i < known and (closed_loop or chain.links[i, H_BEFORE] >= 0):
            i += 1
        counters[C_WALK] = i
    if i >= known:
        i = int64(-1)
    if counters[C_COMING] > 0:
        j = chain.coming[0]
        if i < 0 or st.floats[j, F_ARRIVAL] < st.floats[i, F_ARRIVAL]:
            return int(j)
    return int(i)


@compiled_part
def go_on(st: State, i: int, now: float, closed_loop: bool) -> None:
    """Open what follows a request that has just completed, or the next session of a closed loop."""
    counters, chain = st.counters, st.chain
    turn, j = counters[C_COMPLETED], chain.links[i, H_AFTER]
    if j >= 0:
        open_request(st, j, max(st.floats[j, F_ARRIVAL], now + chain.think[j]), turn)
    elif closed_loop:
        j = counters[C_OPENED]
        while j < counters[C_SUBMITTED] and chain.links[j, H_BEFORE] >= 0:
            j += 1
        counters[C_OPENED] = min(j + 1, counters[C_SUBMITTED])
        if j < counters[C_SUBMITTED]:
            open_request(st, j, now, turn)


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
        if counters[C_COMING] > 0 and st.chain.coming[0] == i:
            take_soonest(st)
        else:
            counters[C_WALK] += 1
        best, fewest = 0, 1 << 40
        for r in range(ranks.shape[0]):
            load = ranks[r, R_RUNNING] + waiting_load * ranks[r, R_WAITING]
            if load < fewest:
                best, fewest = r, load
        rank = ranks[best]
        st.ints[i, I_NEXT] = -1
        if rank[R_TAIL] >= 0:
            st.ints[rank[R_TAIL], I_NEXT] = i
        else:
            rank[R_HEAD] = i
        rank[R_TAIL] = i
        rank[R_WAITING] += 1
        counters[C_RELEASED] += 1


@compiled_part
def complete(st: State, i: int, now: float, closed_loop: bool) -> None:
    """Count a request that has its last token; its client goes on, or in a closed loop the next."""
    counters = st.counters
    st.ints[i, I_ORDER] = counters[C_COMPLETED]
    st.ints[counters[C_COMPLETED], I_DONE] = i
    counters[C_COMPLETED] += 1
    if st.chain.coming.size > 0:
        go_on(st, i, now, closed_loop)
    elif closed_loop and counters[C_OPENED] < counters[C_SUBMITTED]:
        st.floats[counters[C_OPENED], F_ARRIVAL] = now
        counters[C_OPENED] += 1


def linked(st: State, block: RequestBlock) -> State:
    """Chain requests that have just been submitted; all of the stream are on this engine.

    Those whose predecessors have completed are opened.
    """
    turns, end = block.turns, int(st.counters[C_SUBMITTED])
    assert turns is not None
    rows = np.arange(end - len(block), end)
    chain = st.chain
    if len(chain.coming) < len(st.ints):
        links = np.empty((len(st.ints), 2), dtype=np.int64)
        think, coming = np.empty(len(st.ints)), np.empty(len(st.ints), dtype=np.int64)
        have = len(chain.coming)
        links[:have], think[:have], coming[:have] = chain
        chain = Chain(links, think, coming)
        st = st._replace(chain=chain)
    chain.links[rows, H_BEFORE], chain.links[rows, H_AFTER] = turns.follows, -1
    chain.think[rows] = turns.think_s
    later = rows[turns.follows >= 0]
    before = chain.links[later, H_BEFORE]
    chain.links[before, H_AFTER] = later
    over = st.ints[before, I_ORDER] >= 0
    later, before = later[over], before[over]
    ready = st.floats[before, F_LAST] + chain.think[later]
    st.floats[later, F_ARRIVAL] = np.maximum(st.floats[later, F_ARRIVAL], ready)
    st.ints[later, I_NEXT] = st.ints[before, I_ORDER] + 1
    size = int(st.counters[C_COMING])
    known = np.concatenate([chain.coming[:size], later])
    known = known[np.lexsort((st.ints[known, I_NEXT], st.floats[known, F_ARRIVAL]))]
    chain.coming[: len(known)] = known  # sorted, which a heap may be
    st.counters[C_COMING] = len(known)
    return st


def open_clients(st: State, clients: int) -> None:
    """Let the first sessions of a closed loop begin at time 0, one a client."""
    counters, chain = st.counters, st.chain
    end = int(counters[C_SUBMITTED])
    first = np.flatnonzero(chain.links[:end, H_BEFORE] < 0)[:clients]
    st.floats[first, F_ARRIVAL] = 0.0
    st.ints[first, I_NEXT] = np.arange(len(first)) - len(first)
    chain.coming[: len(first)] = first
    counters[C_COMING] = len(first)
    counters[C_OPENED] = int(first[-1]) + 1 if len(first) else 0
