"""SGLang's priority scheduling: the order of the queue, and preemption for waiting requests (`_sort_by_priority_and_fcfs` and `PrefillAdder.preempt_to_schedule` in sglang/srt/managers/schedule_policy.py, `_get_new_batch_prefill_raw` and `_add_request_to_queue` in scheduler.py, 0.5.9).

Priorities are compared as keys, smaller first: `F_KEY` times a sign. A requeued request counts as new: among equals it
is last.
"""

from __future__ import annotations

from ....workloads.jit import compiled_code, compiled_inside, compiled_part, int64
from ...batching import state as col
from ...batching.queues import enqueue, link_in
from ...batching.radix import K_EVICTABLE, K_FREE
from ...batching.state import State
from .adder import still_to_come
from .cache import retract
from .state import A_PAGES, CLIP, S_FULL, S_LIST, U_CAME, U_OUT, Sglang

I_CAME = col.I_NOTED
"""Column of `State.ints`, which these rules do not use otherwise: place among all entries to a queue."""


@compiled_part
def append(state: State, sglang: Sglang, rank_index: int, index: int) -> None:
    """Put a request at the end of a rank's queue."""
    rank = state.ranks[rank_index]
    link_in(state, rank, col.R_HEAD, col.R_TAIL, index, rank[col.R_TAIL], int64(-1))
    rank[col.R_WAITING] += 1


@compiled_inside
def key_of(state: State, sglang: Sglang, index: int) -> float:
    """A request's priority, the smaller the sooner."""
    return float(state.floats[index, col.F_KEY] * sglang.urgent.sign)


@compiled_part
def queue_by_priority(state: State, sglang: Sglang, rank_index: int, index: int) -> None:
    """Queue a request behind all that go before it."""
    if not preempts(sglang):
        append(state, sglang, rank_index, index)
        return
    rank, key = state.ranks[rank_index], key_of(state, sglang, index)
    state.ints[index, I_CAME] = sglang.urgent.marks[U_CAME]
    sglang.urgent.marks[U_CAME] += 1
    before, after = rank[col.R_TAIL], int64(-1)
    if before >= 0 and key_of(state, sglang, before) > key:
        before, after = int64(-1), rank[col.R_HEAD]
        while key_of(state, sglang, after) <= key:
            before, after = after, state.ints[after, col.I_NEXT]
    link_in(state, rank, col.R_HEAD, col.R_TAIL, index, before, after)
    rank[col.R_WAITING] += 1


@compiled_inside
def preempts(sglang: Sglang) -> bool:
    """Return whether running requests may be preempted, so that a full batch is always checked."""
    return bool(sglang.urgent.threshold >= 0)


@compiled_inside
def look_again(sglang: Sglang, rank: int) -> None:
    """A full batch may have room by now (`try_preemption`)."""
    if preempts(sglang):
        sglang.ranks[rank, S_FULL] = 0
        sglang.urgent.marks[U_OUT] = 0


@compiled_part
def choose(state: State, sglang: Sglang, rank: int, index: int) -> bool:
    """Mark running requests to preempt for a waiting one; return whether they suffice.

    The least urgent first, of these the one that came last, each less urgent by more than the threshold,
    until what they were expected to take is as much as is missing.
    """
    request, mark = state.ints[index], sglang.order[1]
    have = (sglang.tree.tops[rank, K_FREE] + sglang.tree.tops[rank, K_EVICTABLE]) * sglang.rules.page
    missing = request[col.I_TARGET] - request[col.I_KEYED] * sglang.rules.page + min(request[col.I_OUTPUT], CLIP)
    need, size, freed = missing - (have - sglang.offset[0]), sglang.ranks[rank, S_LIST], int64(0)
    for j in range(size):
        mark[j] = 0
    while True:
        best = int64(-1)
        for j in range(size):
            other = state.running[rank, j]
            if mark[j] > 0 or state.ints[other, col.I_ORDER] >= 0:
                continue
            if best < 0 or later(state, sglang, other, state.running[rank, best]):
                best = int64(j)
        if best < 0:
            break
        other = state.running[rank, best]
        if key_of(state, sglang, other) - key_of(state, sglang, index) <= sglang.urgent.threshold:
            break
        freed += 1
        mark[best] = freed
        need -= still_to_come(state, sglang, rank, other)
        if need <= 0.0:
            break
    return bool(freed > 0 and need <= 0.0)


@compiled_inside
def later(state: State, sglang: Sglang, index: int, position: int) -> bool:
    """Whether a request is less urgent than another, or as urgent and came later."""
    one, other = key_of(state, sglang, index), key_of(state, sglang, position)
    if one != other:
        return bool(one > other)
    return bool(state.ints[index, I_CAME] > state.ints[position, I_CAME])


@compiled_part
def give_way(state: State, sglang: Sglang, rank: int, index: int, others: int) -> None:
    """Take a marked request's memory, and what is expected of it off the step's budget."""
    sglang.offset[0] -= still_to_come(state, sglang, rank, index)
    if sglang.rules.mixed and state.ints[index, col.I_ROOM] % sglang.rules.page == 0:
        sglang.adder[A_PAGES] -= 1
    retract(state, sglang, rank, index, others)


@compiled_part
def preempt_for(state: State, sglang: Sglang, rank_index: int, index: int) -> bool:
    """Preempt running requests for a waiting one that has no room, if that can make enough."""
    if not preempts(sglang) or not choose(state, sglang, rank_index, index):
        return False
    rank_state, rank, mark, out = sglang.ranks[rank_index], state.ranks[rank_index], sglang.order[1], sglang.urgent.out
    size, remaining, gone, before = rank_state[S_LIST], int64(0), int64(0), sglang.urgent.marks[U_OUT]
    for j in range(size):
        other = state.running[rank_index, j]
        if mark[j] > 0:
            out[before + mark[j] - 1] = other
            gone += 1
            give_way(state, sglang, rank_index, other, size - gone)
        else:
            state.running[rank_index, remaining] = other
            remaining += 1
    for j in range(rank[col.R_RUNNING] - size):  # the step's prompts stand behind
        state.running[rank_index, remaining + j] = state.running[rank_index, size + j]
        state.fresh[rank_index, remaining + j] = state.fresh[rank_index, size + j]
    rank_state[S_LIST] = remaining
    rank[col.R_RUNNING] -= gone
    sglang.urgent.marks[U_OUT] += gone
    return bool(sglang.urgent.threshold >= 0)


@compiled_part
def queue_preempted(state: State, sglang: Sglang, rank: int) -> None:
    """Queue the requests that made way in this step, those chosen first before the others."""
    for k in range(sglang.urgent.marks[U_OUT]):
        queue_by_priority(state, sglang, rank, sglang.urgent.out[k])
    sglang.urgent.marks[U_OUT] = 0


@compiled_code
def queue_urgent(sglang: Sglang, state: State, rank: int, index: int) -> None:
    """Queue a request that has come."""
    if preempts(sglang):
        queue_by_priority(state, sglang, rank, index)
    else:
        enqueue(state, rank, index)
