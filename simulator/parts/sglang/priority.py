"""SGLang's priority scheduling: the order of the queue, and preemption for waiting requests.

(`_sort_by_priority_and_fcfs` and `PrefillAdder.preempt_to_schedule` in sglang/srt/managers/schedule_policy.py,
`_get_new_batch_prefill_raw` and `_add_request_to_queue` in scheduler.py, 0.5.9.) `noted` numbers the entries to queues.
Priorities are compared as keys, the smallest first: `key` times a sign. A requeued request counts as new: among equal
keys it is last.
"""

from __future__ import annotations

from ....workloads.jit import compiled_code, compiled_inside, compiled_part, int64
from ...engine.queues import enqueue, link_in
from ...engine.state import State
from .adder import still_to_come
from .cache import retract
from .state import CLIP, Sglang


@compiled_part
def append(state: State, sglang: Sglang, rank_index: int, index: int) -> None:
    """Append a request to the end of a rank's queue."""
    rank = state.ranks[rank_index]
    link_in(state, rank, index, rank.tail, int64(-1))
    rank.waiting += 1


@compiled_inside
def key_of(state: State, sglang: Sglang, index: int) -> float:
    """Return the sort key of a request's priority; the smallest key is first."""
    return float(state.requests[index].key * sglang.urgent.sign)


@compiled_part
def queue_by_priority(state: State, sglang: Sglang, rank_index: int, index: int) -> None:
    """Insert a request into the queue after all requests with an equal or smaller key."""
    if not preempts(sglang):
        append(state, sglang, rank_index, index)
        return
    rank, key = state.ranks[rank_index], key_of(state, sglang, index)
    state.requests[index].noted = sglang.urgent.marks[0].came
    sglang.urgent.marks[0].came += 1
    before, after = rank.tail, int64(-1)
    if before >= 0 and key_of(state, sglang, before) > key:
        before, after = int64(-1), rank.head
        while key_of(state, sglang, after) <= key:
            before, after = after, state.requests[after].next
    link_in(state, rank, index, before, after)
    rank.waiting += 1


@compiled_inside
def preempts(sglang: Sglang) -> bool:
    """Return whether running requests may be preempted, so that a full batch is always checked."""
    return bool(sglang.urgent.threshold >= 0)


@compiled_inside
def look_again(sglang: Sglang, rank: int) -> None:
    """Clear the mark of a full batch, since preemption may free memory (`try_preemption`)."""
    if preempts(sglang):
        sglang.ranks[rank].full = 0
        sglang.urgent.marks[0].out = 0


@compiled_part
def choose(state: State, sglang: Sglang, rank: int, index: int) -> bool:
    """Mark running requests to preempt for a waiting request; return whether they free enough.

    The request with the largest key is marked first, and the latest of equal ones. Each key must exceed the waiting
    request's key by more than the threshold. Marking stops when their expected tokens cover the missing tokens.
    """
    request, mark, content = state.requests[index], sglang.order[1], state.contents[index]
    have = (sglang.tree.tops[rank].free + sglang.tree.tops[rank].evictable) * sglang.rules.page
    missing = request.target - content.keyed * sglang.rules.page + min(request.output, CLIP)
    need, size, freed = missing - (have - sglang.offset[0]), sglang.ranks[rank].decoding, int64(0)
    for j in range(size):
        mark[j] = 0
    while True:
        best = int64(-1)
        for j in range(size):
            other = state.running[rank, j]
            if mark[j] > 0 or state.requests[other].order >= 0:
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
    """Return whether a request has a larger key than another, or the same key and a later entry."""
    one, other = key_of(state, sglang, index), key_of(state, sglang, position)
    if one != other:
        return bool(one > other)
    return bool(state.requests[index].noted > state.requests[position].noted)


@compiled_part
def give_way(state: State, sglang: Sglang, rank: int, index: int, others: int) -> None:
    """Preempt a marked request: free its memory, and subtract its expected tokens from the step's budget."""
    sglang.offset[0] -= still_to_come(state, sglang, rank, index)
    if sglang.rules.mixed and state.requests[index].covered % sglang.rules.page == 0:
        sglang.adder[0].pages -= 1
    retract(state, sglang, rank, index, others)


@compiled_part
def preempt_for(state: State, sglang: Sglang, rank_index: int, index: int) -> bool:
    """Preempt running requests for a waiting request that does not fit, if that frees enough; return whether it did."""
    if not preempts(sglang) or not choose(state, sglang, rank_index, index):
        return False
    rank_state, rank, mark, out = sglang.ranks[rank_index], state.ranks[rank_index], sglang.order[1], sglang.urgent.out
    size, remaining, gone, before = rank_state.decoding, int64(0), int64(0), sglang.urgent.marks[0].out
    for j in range(size):
        other = state.running[rank_index, j]
        if mark[j] > 0:
            out[before + mark[j] - 1] = other
            gone += 1
            give_way(state, sglang, rank_index, other, size - gone)
        else:
            state.running[rank_index, remaining] = other
            remaining += 1
    for j in range(rank.running - size):  # the prompts of the step follow them
        state.running[rank_index, remaining + j] = state.running[rank_index, size + j]
        state.fresh[rank_index, remaining + j] = state.fresh[rank_index, size + j]
    rank_state.decoding = remaining
    rank.running -= gone
    sglang.urgent.marks[0].out += gone
    return bool(sglang.urgent.threshold >= 0)


@compiled_part
def queue_preempted(state: State, sglang: Sglang, rank: int) -> None:
    """Requeue the requests that were preempted in this step, in the order in which they were chosen."""
    for k in range(sglang.urgent.marks[0].out):
        queue_by_priority(state, sglang, rank, sglang.urgent.out[k])
    sglang.urgent.marks[0].out = 0


@compiled_code
def queue_urgent(sglang: Sglang, state: State, rank: int, index: int) -> None:
    """Queue an arriving request, by priority if running requests may be preempted."""
    if preempts(sglang):
        queue_by_priority(state, sglang, rank, index)
    else:
        enqueue(state, rank, index)
