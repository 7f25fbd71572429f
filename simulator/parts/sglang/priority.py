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
def append(st: State, x: Sglang, r: int, i: int) -> None:
    """Put a request at the end of a rank's queue."""
    rank = st.ranks[r]
    link_in(st, rank, col.R_HEAD, col.R_TAIL, i, rank[col.R_TAIL], int64(-1))
    rank[col.R_WAITING] += 1


@compiled_inside
def key_of(st: State, x: Sglang, i: int) -> float:
    """A request's priority, the smaller the sooner."""
    return float(st.floats[i, col.F_KEY] * x.urgent.sign)


@compiled_part
def queue_by_priority(st: State, x: Sglang, r: int, i: int) -> None:
    """Queue a request behind all that go before it."""
    if not preempts(x):
        append(st, x, r, i)
        return
    rank, key = st.ranks[r], key_of(st, x, i)
    st.ints[i, I_CAME] = x.urgent.marks[U_CAME]
    x.urgent.marks[U_CAME] += 1
    before, after = rank[col.R_TAIL], int64(-1)
    if before >= 0 and key_of(st, x, before) > key:
        before, after = int64(-1), rank[col.R_HEAD]
        while key_of(st, x, after) <= key:
            before, after = after, st.ints[after, col.I_NEXT]
    link_in(st, rank, col.R_HEAD, col.R_TAIL, i, before, after)
    rank[col.R_WAITING] += 1


@compiled_inside
def preempts(x: Sglang) -> bool:
    """Return whether running requests may be preempted, so that a full batch is always checked."""
    return bool(x.urgent.threshold >= 0)


@compiled_inside
def look_again(x: Sglang, r: int) -> None:
    """A full batch may have room by now (`try_preemption`)."""
    if preempts(x):
        x.ranks[r, S_FULL] = 0
        x.urgent.marks[U_OUT] = 0


@compiled_part
def choose(st: State, x: Sglang, r: int, i: int) -> bool:
    """Mark running requests to preempt for a waiting one; return whether they suffice.

    The least urgent first, of these the one that came last, each less urgent by more than the threshold,
    until what they were expected to take is as much as is missing.
    """
    request, mark = st.ints[i], x.order[1]
    have = (x.tree.tops[r, K_FREE] + x.tree.tops[r, K_EVICTABLE]) * x.rules.page
    missing = request[col.I_TARGET] - request[col.I_KEYED] * x.rules.page + min(request[col.I_OUTPUT], CLIP)
    need, size, freed = missing - (have - x.offset[0]), x.ranks[r, S_LIST], int64(0)
    for j in range(size):
        mark[j] = 0
    while True:
        best = int64(-1)
        for j in range(size):
            other = st.running[r, j]
            if mark[j] > 0 or st.ints[other, col.I_ORDER] >= 0:
                continue
            if best < 0 or later(st, x, other, st.running[r, best]):
                best = int64(j)
        if best < 0:
            break
        other = st.running[r, best]
        if key_of(st, x, other) - key_of(st, x, i) <= x.urgent.threshold:
            break
        freed += 1
        mark[best] = freed
        need -= still_to_come(st, x, r, other)
        if need <= 0.0:
            break
    return bool(freed > 0 and need <= 0.0)


@compiled_inside
def later(st: State, x: Sglang, i: int, j: int) -> bool:
    """Whether a request is less urgent than another, or as urgent and came later."""
    one, other = key_of(st, x, i), key_of(st, x, j)
    if one != other:
        return bool(one > other)
    return bool(st.ints[i, I_CAME] > st.ints[j, I_CAME])


@compiled_part
def give_way(st: State, x: Sglang, r: int, i: int, others: int) -> None:
    """Take a marked request's memory, and what is expected of it off the step's budget."""
    x.offset[0] -= still_to_come(st, x, r, i)
    if x.rules.mixed and st.ints[i, col.I_ROOM] % x.rules.page == 0:
        x.adder[A_PAGES] -= 1
    retract(st, x, r, i, others)


@compiled_part
def preempt_for(st: State, x: Sglang, r: int, i: int) -> bool:
    """Preempt running requests for a waiting one that has no room, if that can make enough."""
    if not preempts(x) or not choose(st, x, r, i):
        return False
    rank_state, rank, mark, out = x.ranks[r], st.ranks[r], x.order[1], x.urgent.out
    size, remaining, gone, before = rank_state[S_LIST], int64(0), int64(0), x.urgent.marks[U_OUT]
    for j in range(size):
        other = st.running[r, j]
        if mark[j] > 0:
            out[before + mark[j] - 1] = other
            gone += 1
            give_way(st, x, r, other, size - gone)
        else:
            st.running[r, remaining] = other
            remaining += 1
    for j in range(rank[col.R_RUNNING] - size):  # the step's prompts stand behind
        st.running[r, remaining + j] = st.running[r, size + j]
        st.fresh[r, remaining + j] = st.fresh[r, size + j]
    rank_state[S_LIST] = remaining
    rank[col.R_RUNNING] -= gone
    x.urgent.marks[U_OUT] += gone
    return bool(x.urgent.threshold >= 0)


@compiled_part
def queue_preempted(st: State, x: Sglang, r: int) -> None:
    """Queue the requests that made way in this step, those chosen first before the others."""
    for k in range(x.urgent.marks[U_OUT]):
        queue_by_priority(st, x, r, x.urgent.out[k])
    x.urgent.marks[U_OUT] = 0


@compiled_code
def queue_urgent(x: Sglang, st: State, r: int, i: int) -> None:
    """Queue a request that has come."""
    if preempts(x):
        queue_by_priority(st, x, r, i)
    else:
        enqueue(st, r, i)
