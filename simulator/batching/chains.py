"""Requests that follow each other on one engine: when the next one of a session arrives.

A session is a chain: what follows a request arrives when that one has ended and its client has
thought. What has been opened by another's end and has not arrived stands in a binary heap, soonest
first, those of one moment in the order in which they were opened.
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled_part, int64
from ...workloads.requests import RequestBlock
from . import state as col
from .state import Chain, State


@compiled_part
def sooner(st: State, i: int, j: int) -> bool:
    """Whether one opened request arrives before another."""
    one, other = st.floats[i, col.F_ARRIVAL], st.floats[j, col.F_ARRIVAL]
    return bool(one < other or (one == other and st.ints[i, col.I_NEXT] < st.ints[j, col.I_NEXT]))


@compiled_part
def open_request(st: State, chain: Chain, i: int, arrival: float, turn: int) -> None:
    """Let a request arrive at a time; `turn` breaks ties. It is in no queue yet: `I_NEXT` is free."""
    coming, counters = chain.coming, st.counters
    st.floats[i, col.F_ARRIVAL], st.ints[i, col.I_NEXT] = arrival, turn
    at = counters[col.C_COMING]
    counters[col.C_COMING] += 1
    while at > 0:
        above = (at - 1) // 2
        if not sooner(st, i, coming[above]):
            break
        coming[at] = coming[above]
        at = above
    coming[at] = i


@compiled_part
def take_soonest(st: State, chain: Chain) -> None:
    """Take the soonest of the opened requests out of the heap."""
    coming, counters = chain.coming, st.counters
    counters[col.C_COMING] -= 1
    size = counters[col.C_COMING]
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
def soonest_of(st: State, chain: Chain, closed_loop: bool) -> int:
    """`clients.soonest` where requests follow each other."""
    counters, i = st.counters, st.counters[col.C_WALK]
    # Those of a closed loop are all opened.
    while i < counters[col.C_SUBMITTED] and (closed_loop or chain.links[i, col.H_BEFORE] >= 0):
        i += 1
    counters[col.C_WALK] = i
    if i >= counters[col.C_SUBMITTED]:
        i = int64(-1)
    if counters[col.C_COMING] > 0:
        j = chain.coming[0]
        if i < 0 or st.floats[j, col.F_ARRIVAL] < st.floats[i, col.F_ARRIVAL]:
            return int(j)
    return int(i)


@compiled_part
def arrived(st: State, chain: Chain, i: int) -> None:
    """`clients.take` where requests follow each other."""
    if st.counters[col.C_COMING] > 0 and chain.coming[0] == i:
        take_soonest(st, chain)
    else:
        st.counters[col.C_WALK] += 1


@compiled_part
def go_on(st: State, chain: Chain, i: int, now: float, closed_loop: bool) -> None:
    """Open what follows a request that has just completed, or the next session of a closed loop."""
    counters = st.counters
    turn, j = counters[col.C_COMPLETED], chain.links[i, col.H_AFTER]
    if j >= 0:
        open_request(st, chain, j, max(st.floats[j, col.F_ARRIVAL], now + chain.think[j]), turn)
    elif closed_loop:
        j = counters[col.C_OPENED]
        while j < counters[col.C_SUBMITTED] and chain.links[j, col.H_BEFORE] >= 0:
            j += 1
        counters[col.C_OPENED] = min(j + 1, counters[col.C_SUBMITTED])
        if j < counters[col.C_SUBMITTED]:
            open_request(st, chain, j, now, turn)


def linked(st: State, block: RequestBlock) -> State:
    """Chain requests that have just been submitted; all of the stream are on this engine.

    Those whose predecessors have completed are opened.
    """
    turns, end = block.turns, int(st.counters[col.C_SUBMITTED])
    assert turns is not None
    rows = np.arange(end - len(block), end)
    chain = st.chain
    assert chain is not None
    if len(chain.coming) < len(st.ints):
        links = np.empty((len(st.ints), 2), dtype=np.int64)
        think, coming = np.empty(len(st.ints)), np.empty(len(st.ints), dtype=np.int64)
        have = len(chain.coming)
        links[:have], think[:have], coming[:have] = chain
        chain = Chain(links, think, coming)
        st = st._replace(chain=chain)
    chain.links[rows, col.H_BEFORE], chain.links[rows, col.H_AFTER] = turns.follows, -1
    chain.think[rows] = turns.think_s
    later = rows[turns.follows >= 0]
    before = chain.links[later, col.H_BEFORE]
    chain.links[before, col.H_AFTER] = later
    over = st.ints[before, col.I_ORDER] >= 0
    later, before = later[over], before[over]
    ready = st.floats[before, col.F_LAST] + chain.think[later]
    st.floats[later, col.F_ARRIVAL] = np.maximum(st.floats[later, col.F_ARRIVAL], ready)
    st.ints[later, col.I_NEXT] = st.ints[before, col.I_ORDER] + 1
    size = int(st.counters[col.C_COMING])
    known = np.concatenate([chain.coming[:size], later])
    known = known[np.lexsort((st.ints[known, col.I_NEXT], st.floats[known, col.F_ARRIVAL]))]
    chain.coming[: len(known)] = known  # sorted, which a heap may be
    st.counters[col.C_COMING] = len(known)
    return st


def open_first(st: State, clients: int) -> None:
    """Give the first requests of a closed loop their arrival at time 0, one a client."""
    counters = st.counters
    first = min(clients, int(counters[col.C_SUBMITTED]))
    if counters[col.C_OPENED] < first:
        st.floats[counters[col.C_OPENED] : first, col.F_ARRIVAL] = 0.0
        counters[col.C_OPENED] = first


def open_clients(st: State, clients: int) -> None:
    """Let the first sessions of a closed loop begin at time 0, one a client."""
    counters, chain = st.counters, st.chain
    assert chain is not None
    end = int(counters[col.C_SUBMITTED])
    first = np.flatnonzero(chain.links[:end, col.H_BEFORE] < 0)[:clients]
    st.floats[first, col.F_ARRIVAL] = 0.0
    st.ints[first, col.I_NEXT] = np.arange(len(first)) - len(first)
    chain.coming[: len(first)] = first
    counters[col.C_COMING] = len(first)
    counters[col.C_OPENED] = int(first[-1]) + 1 if len(first) else 0
