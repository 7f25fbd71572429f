"""Queues of waiting requests: linked lists through `next`, of which parts may have others."""

from __future__ import annotations

from typing import Any

from ...workloads.jit import compiled_part, int64
from . import hooks
from .state import State


@compiled_part
def link_in(state: State, queue: Any, index: int, before: int, after: int) -> None:
    """Put a request into a queue between two, either of which may be none (-1).

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
    """Put a request into a rank's queue: before the first with a larger key, else last.

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
    """Queue a request that has just come."""
    if state.hooks.queue.size > 0:
        hooks.queue(state, rank, index)
    else:
        enqueue(state, rank, index)


@compiled_part
def take_head(state: State, rank_index: int, index: int) -> None:
    """Take the head of a rank's queue out of it."""
    if state.hooks.take_head.size > 0:
        hooks.take_head(state, rank_index, index)
        return
    rank = state.ranks[rank_index]
    rank.head = state.requests[index].next
    if rank.head < 0:
        rank.tail = -1


@compiled_part
def count_left(state: State, rank: int, index: int) -> None:
    """Count one request fewer that waits on a rank."""
    state.ranks[rank].waiting -= 1
    hooks.on_left(state, index)


@compiled_part
def leave_queue(state: State, rank: int, index: int) -> None:
    """Take an admitted request, the head of its queue, out of it."""
    take_head(state, rank, index)
    count_left(state, rank, index)


@compiled_part
def cut_out(state: State, queue: Any, index: int) -> None:
    """Take a request out of a queue, wherever it is."""
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
    """Take a request that ends as it waits out of its queue."""
    if state.hooks.unqueue.size > 0:
        hooks.unqueue(state, rank, index)
        return
    cut_out(state, state.ranks[rank], index)
    state.ranks[rank].waiting -= 1


@compiled_part
def queue_again(state: State, rank_index: int, index: int) -> None:
    """Put a preempted request back into its queue, to the front."""
    if state.hooks.put_back.size > 0:
        hooks.put_back(state, rank_index, index)
        return
    rank = state.ranks[rank_index]
    state.requests[index].next = rank.head
    rank.head = index
    if rank.tail < 0:
        rank.tail = index
    rank.waiting += 1
