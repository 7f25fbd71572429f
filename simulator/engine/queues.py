"""Queues of waiting requests: linked lists through the column `next`; parts may add further queues. Arrival and completion of requests."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...workloads.jit import compiled_inside, compiled_part, int64
from . import hooks
from .kv import KvRules
from .policies import Limits
from .state import State


@compiled_part
def link_in(state: State, queue: Any, index: int, before: int, after: int) -> None:
    """Insert a request into a queue between `before` and `after`, either of which may be none (-1).

    Parameters
    ----------
    queue : record
        Its `head` and `tail` are the first and the last request.
    """
    state.requests[index].next = after
    if before >= 0:
        state.requests[before].next = index
    else:
        queue.head = index
    if after < 0:
        queue.tail = index


@compiled_part
def enqueue(state: State, rank_index: int, index: int) -> None:
    """Insert a request into a rank's queue: before the first request with a larger key, else last.

    Preempted requests, which are at the front, stay before all others.
    """
    rank, key = state.ranks[rank_index], state.requests[index].key
    before, after = rank.tail, int64(-1)
    if before >= 0 and state.requests[before].preempted == 0 and state.requests[before].key > key:
        before, after = int64(-1), rank.head
        while state.requests[after].preempted > 0 or state.requests[after].key <= key:
            before, after = after, state.requests[after].next
    link_in(state, rank, index, before, after)
    rank.waiting += 1


@compiled_part
def queue_request(state: State, rank: int, index: int) -> None:
    """Queue an arriving request by a part's rule; default: `enqueue`."""
    if state.hooks.queue.size > 0:
        hooks.queue(state, rank, index)
    else:
        enqueue(state, rank, index)


@compiled_part
def take_head(state: State, rank_index: int, index: int) -> None:
    """Remove the head of a rank's queue."""
    if state.hooks.take_head.size > 0:
        hooks.take_head(state, rank_index, index)
        return
    rank = state.ranks[rank_index]
    rank.head = state.requests[index].next
    if rank.head < 0:
        rank.tail = -1


@compiled_part
def count_left(state: State, rank: int, index: int) -> None:
    """Reduce a rank's number of waiting requests by one."""
    state.ranks[rank].waiting -= 1
    hooks.on_left(state, index)


@compiled_part
def leave_queue(state: State, rank: int, index: int) -> None:
    """Remove an admitted request, the head of its queue, from the queue."""
    take_head(state, rank, index)
    count_left(state, rank, index)


@compiled_part
def cut_out(state: State, queue: Any, index: int) -> None:
    """Remove a request from any position of a queue."""
    before, at = int64(-1), queue.head
    while at != index:
        before, at = at, state.requests[at].next
    if before < 0:
        queue.head = state.requests[index].next
    else:
        state.requests[before].next = state.requests[index].next
    if queue.tail == index:
        queue.tail = before


@compiled_part
def unqueue(state: State, rank: int, index: int) -> None:
    """Remove a request that ends while it waits from its queue."""
    if state.hooks.unqueue.size > 0:
        hooks.unqueue(state, rank, index)
        return
    cut_out(state, state.ranks[rank], index)
    state.ranks[rank].waiting -= 1


@compiled_part
def queue_again(state: State, rank_index: int, index: int) -> None:
    """Queue a preempted request again, at the front of its queue."""
    if state.hooks.put_back.size > 0:
        hooks.put_back(state, rank_index, index)
        return
    rank = state.ranks[rank_index]
    state.requests[index].next = rank.head
    rank.head = index
    if rank.tail < 0:
        rank.tail = index
    rank.waiting += 1


@compiled_part
def next_arrival(state: State) -> float:
    """Return the time at which the next submitted request arrives [s]; infinity if there is none."""
    i = state.counters[0].walk
    return float(state.requests[i].arrival) if i < state.counters[0].submitted else np.inf


@compiled_part
def take(state: State) -> int:
    """Count the next request as arrived and return its row."""
    state.counters[0].walk += 1
    return int(state.counters[0].walk - 1)


@compiled_inside
def lightest_rank(state: State, waiting_load: int) -> int:
    """Return the rank with the fewest requests, where a waiting request counts `waiting_load` times."""
    best, fewest = 0, 1 << 40
    for r in range(state.ranks.shape[0]):
        load = state.ranks[r].running + waiting_load * state.ranks[r].waiting
        if load < fewest:
            best, fewest = r, load
    return best


@compiled_part
def release(state: State, limits: Limits, kv_rules: KvRules, known_at: float) -> float:
    """Queue the requests that arrived by `known_at`; return the next arrival time [s] (infinity: none).

    A request goes to the rank with the fewest requests, a waiting one counting `Policy.waiting_load` times.
    """
    while True:
        arrival = next_arrival(state)
        if not arrival <= known_at:
            return arrival
        i = take(state)
        r = lightest_rank(state, limits.waiting_load)
        if hooks.refuse(state, r, i):
            state.counters[0].refused += 1
            continue
        queue_request(state, r, i)
        hooks.on_arrival(state, limits, kv_rules, r, i)
        state.counters[0].released += 1


@compiled_part
def complete(state: State, index: int) -> None:
    """Count a request as completed, in order of completion."""
    counters = state.counters[0]
    state.requests[index].order = counters.completed
    state.requests[counters.completed].done = index
    counters.completed += 1
