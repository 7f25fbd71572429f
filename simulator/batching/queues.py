"""Queues of waiting requests: linked lists through `I_NEXT`, of which parts may have others."""

from __future__ import annotations

from ...workloads.jit import compiled_part, int64
from . import hooks
from .state import F_KEY, I8, I_NEXT, I_PREEMPTED, R_HEAD, R_TAIL, R_WAITING, State


@compiled_part
def link_in(state: State, row: I8, head: int, tail: int, index: int, before: int, after: int) -> None:
    """Put a request into a queue between two, either of which may be none (-1).

    Parameters
    ----------
    row : int64 array
        What is known of the queue; its columns `head` and `tail` are the first and the last request.
    """
    state.ints[index, I_NEXT] = after
    if before >= 0:
        state.ints[before, I_NEXT] = index
    else:
        row[head] = index
    if after < 0:
        row[tail] = index


@compiled_part
def enqueue(state: State, rank_index: int, index: int) -> None:
    """Put a request into a rank's queue: before the first with a larger key, else last.

    Preempted requests, which are at the front, stay before all others.
    """
    rank, key = state.ranks[rank_index], state.floats[index, F_KEY]
    before, after = rank[R_TAIL], int64(-1)
    if before >= 0 and state.ints[before, I_PREEMPTED] == 0 and state.floats[before, F_KEY] > key:
        before, after = int64(-1), rank[R_HEAD]
        while state.ints[after, I_PREEMPTED] > 0 or state.floats[after, F_KEY] <= key:
            before, after = after, state.ints[after, I_NEXT]
    link_in(state, rank, R_HEAD, R_TAIL, index, before, after)
    rank[R_WAITING] += 1


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
    rank[R_HEAD] = state.ints[index, I_NEXT]
    if rank[R_HEAD] < 0:
        rank[R_TAIL] = -1


@compiled_part
def count_left(state: State, rank: int, index: int) -> None:
    """Count one request fewer that waits on a rank."""
    state.ranks[rank, R_WAITING] -= 1
    hooks.on_left(state, index)


@compiled_part
def leave_queue(state: State, rank: int, index: int) -> None:
    """Take an admitted request, the head of its queue, out of it."""
    take_head(state, rank, index)
    count_left(state, rank, index)


@compiled_part
def cut_out(state: State, row: I8, head: int, tail: int, index: int) -> None:
    """Take a request out of a queue, wherever it is."""
    before, at = int64(-1), row[head]
    while at != index:
        before, at = at, state.ints[at, I_NEXT]
    if before < 0:
        row[head] = state.ints[index, I_NEXT]
    else:
        state.ints[before, I_NEXT] = state.ints[index, I_NEXT]
    if row[tail] == index:
        row[tail] = before


@compiled_part
def unqueue(state: State, rank: int, index: int) -> None:
    """Take a request that ends as it waits out of its queue."""
    if state.hooks.unqueue.size > 0:
        hooks.unqueue(state, rank, index)
        return
    cut_out(state, state.ranks[rank], R_HEAD, R_TAIL, index)
    state.ranks[rank, R_WAITING] -= 1


@compiled_part
def queue_again(state: State, rank_index: int, index: int) -> None:
    """Put a preempted request back into its queue, to the front."""
    if state.hooks.put_back.size > 0:
        hooks.put_back(state, rank_index, index)
        return
    rank = state.ranks[rank_index]
    state.ints[index, I_NEXT] = rank[R_HEAD]
    rank[R_HEAD] = index
    if rank[R_TAIL] < 0:
        rank[R_TAIL] = index
    rank[R_WAITING] += 1
