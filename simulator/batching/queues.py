"""Queues of waiting requests: linked lists through `I_NEXT`, of which parts may have others."""

from __future__ import annotations

from ...workloads.jit import compiled_part, int64
from . import hooks
from .state import F_KEY, I8, I_NEXT, I_PREEMPTED, R_HEAD, R_TAIL, R_WAITING, State


@compiled_part
def link_in(st: State, row: I8, head: int, tail: int, i: int, before: int, after: int) -> None:
    """Put a request into a queue between two, either of which may be none (-1).

    Parameters
    ----------
    row : int64 array
        What is known of the queue; its columns `head` and `tail` are the first and the last request.
    """
    st.ints[i, I_NEXT] = after
    if before >= 0:
        st.ints[before, I_NEXT] = i
    else:
        row[head] = i
    if after < 0:
        row[tail] = i


@compiled_part
def enqueue(st: State, r: int, i: int) -> None:
    """Put a request into a rank's queue: before the first with a larger key, else last.

    Preempted requests, which are at the front, stay before all others.
    """
    rank, key = st.ranks[r], st.floats[i, F_KEY]
    before, after = rank[R_TAIL], int64(-1)
    if before >= 0 and st.ints[before, I_PREEMPTED] == 0 and st.floats[before, F_KEY] > key:
        before, after = int64(-1), rank[R_HEAD]
        while st.ints[after, I_PREEMPTED] > 0 or st.floats[after, F_KEY] <= key:
            before, after = after, st.ints[after, I_NEXT]
    link_in(st, rank, R_HEAD, R_TAIL, i, before, after)
    rank[R_WAITING] += 1


@compiled_part
def queue_request(st: State, r: int, i: int) -> None:
    """Queue a request that has just come."""
    if st.hooks.queue.size > 0:
        hooks.queue(st, r, i)
    else:
        enqueue(st, r, i)


@compiled_part
def take_head(st: State, r: int, i: int) -> None:
    """Take the head of a rank's queue out of it."""
    if st.hooks.take_head.size > 0:
        hooks.take_head(st, r, i)
        return
    rank = st.ranks[r]
    rank[R_HEAD] = st.ints[i, I_NEXT]
    if rank[R_HEAD] < 0:
        rank[R_TAIL] = -1


@compiled_part
def count_left(st: State, r: int, i: int) -> None:
    """Count one request fewer that waits on a rank."""
    st.ranks[r, R_WAITING] -= 1
    hooks.on_left(st, i)


@compiled_part
def leave_queue(st: State, r: int, i: int) -> None:
    """Take an admitted request, the head of its queue, out of it."""
    take_head(st, r, i)
    count_left(st, r, i)


@compiled_part
def cut_out(st: State, row: I8, head: int, tail: int, i: int) -> None:
    """Take a request out of a queue, wherever it is."""
    before, at = int64(-1), row[head]
    while at != i:
        before, at = at, st.ints[at, I_NEXT]
    if before < 0:
        row[head] = st.ints[i, I_NEXT]
    else:
        st.ints[before, I_NEXT] = st.ints[i, I_NEXT]
    if row[tail] == i:
        row[tail] = before


@compiled_part
def unqueue(st: State, r: int, i: int) -> None:
    """Take a request that ends as it waits out of its queue."""
    if st.hooks.unqueue.size > 0:
        hooks.unqueue(st, r, i)
        return
    cut_out(st, st.ranks[r], R_HEAD, R_TAIL, i)
    st.ranks[r, R_WAITING] -= 1


@compiled_part
def queue_again(st: State, r: int, i: int) -> None:
    """Put a preempted request back into its queue, to the front."""
    if st.hooks.put_back.size > 0:
        hooks.put_back(st, r, i)
        return
    rank = st.ranks[r]
    st.ints[i, I_NEXT] = rank[R_HEAD]
    rank[R_HEAD] = i
    if rank[R_TAIL] < 0:
        rank[R_TAIL] = i
    rank[R_WAITING] += 1
