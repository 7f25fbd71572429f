"""Who gives way where memory runs out: the sequence admitted last, or with priorities the last in order.

The second is vLLM's priority scheduling (``Scheduler.schedule`` in vllm/v1/core/sched/scheduler.py,
0.19): the running request of the largest (priority, arrival) goes back into the queue, wherever it stands
among the running ones; if the step had tokens for it already they go back to the budget. A request that is itself the
last in order ends the plan of running ones. The scheduler's place in its list moves back by one for a request that the
step had planned, and for no other: who stands next is then passed over in this step.
"""

from __future__ import annotations

from ...workloads.jit import compiled_given, compiled_part, int64
from ..parts.classes.lanes import M_UNDONE, O_LANE, O_PLACE, ClassLanes
from ..parts.drafts.state import N_WASTED
from .holding import drop, found_again, give_up, hold, note_content, preempt_last, preempt_late, put_back
from .kv import KvRules
from .plans import record_preempted, record_undone
from .state import I_CACHED, I_NOTED, I_PREEMPTED, R_LATE, R_RUNNING, State


@compiled_part
def last_gives_way(
    st: State, kv: KvRules, r: int, j: int, g: int, ended: bool, budget: int, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """Hold `tokens` tokens of a rank's running sequence `j`, preempting the latest admitted ones.

    Or of `g` of those that have `ended`, unknown to the plan. Returns whether it fits, both places, the budget, how
    many were preempted, and passed over behind it.
    """
    rank, lost = st.ranks[r], int64(0)
    i = st.running[r, st.running.shape[1] // 3 + g if ended else j]
    while g < rank[R_LATE] if ended else j < rank[R_RUNNING]:
        if hold(st, kv, r, i, tokens):
            return True, j, g, budget, lost, int64(0)
        if not preempt_late(st, kv, r):
            preempt_last(st, kv, r)
        lost += 1
    return False, j, g, budget, lost, int64(0)


@compiled_given("st.lanes", otherwise=last_gives_way)
def make_room(
    st: State, kv: KvRules, r: int, j: int, g: int, ended: bool, budget: int, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """`last_gives_way`, or by priority."""
    if not st.lanes.worst:
        return last_gives_way(st, kv, r, j, g, ended, budget, tokens)
    rank, size, lost, ahead = st.ranks[r], st.running.shape[1] // 3, int64(0), int64(0)
    i = st.running[r, size + g if ended else j]
    while not hold(st, kv, r, i, tokens):
        lost += 1
        p, late = worst_of(st, st.lanes, r)
        victim = st.running[r, size + p if late else p]
        if late:
            back = undo_ended(st, r, p)
            before = drop_late_one(st, kv, r, p)
            budget += back
            ahead += back == 0 and (p < g if ended else before <= j)
            g -= p < g
        else:
            planned = p < j and st.fresh[r, p] > 0
            if planned:
                budget += st.fresh[r, p]
            ahead += p < j and not planned
            take_out(st, kv, r, p, j, planned)
            j -= p < j
        if victim == i:  # the plan of all that runs ends
            for k in range(j, rank[R_RUNNING]):
                st.fresh[r, k] = 0
            return False, rank[R_RUNNING], rank[R_LATE], budget, lost, int64(0)
    return True, j, g, budget, lost, ahead


@compiled_given("st.spec", otherwise=lambda st, r, g: int64(0))
def undo_ended(st: State, r: int, g: int) -> int:
    """Take back the tokens that a plan has for a sequence that has ended; how many."""
    size = st.running.shape[1] // 3
    back = st.fresh[r, size - 1 - g]
    for k in range(g, st.ranks[r, R_LATE] - 1):
        st.fresh[r, size - 1 - k] = st.fresh[r, size - 2 - k]
    if back > 0:
        st.lanes.marks[M_UNDONE] = 1
        st.spec.counts[N_WASTED] -= 1
    return int(back)


@compiled_part
def worst_of(st: State, lanes: ClassLanes, r: int) -> tuple[int, bool]:
    """Last in order of a rank's sequences: its place, and whether it is one that the step in flight ends."""
    rank, size = st.ranks[r], st.running.shape[1] // 3
    found, late, key, place = int64(-1), False, int64(0), int64(0)
    for k in range(rank[R_RUNNING] + rank[R_LATE]):
        ended = k >= rank[R_RUNNING]
        p = k - rank[R_RUNNING] if ended else k
        of = lanes.of[st.running[r, size + p if ended else p]]
        own = lanes.keys[of[O_LANE]]
        if found < 0 or own > key or (own == key and of[O_PLACE] > place):
            found, late, key, place = int64(p), ended, own, of[O_PLACE]
    return found, late


@compiled_part
def drop_late_one(st: State, kv: KvRules, r: int, g: int) -> int:
    """Take the memory and place of a sequence that ends all the same; how many ran before it."""
    rank, size = st.ranks[r], st.running.shape[1] // 3
    give_up(st, kv, r, st.running[r, size + g])
    before = st.running[r, 2 * size + g]
    rank[R_LATE] -= 1
    for k in range(g, rank[R_LATE]):
        st.running[r, size + k] = st.running[r, size + k + 1]
        st.running[r, 2 * size + k] = st.running[r, 2 * size + k + 1]
    return int(before)


@compiled_part
def take_out(st: State, kv: KvRules, r: int, p: int, j: int, planned: bool) -> None:
    """Put a rank's running sequence `p` back into its queue, its tokens of this step undone."""
    rank, size = st.ranks[r], st.running.shape[1] // 3
    i = st.running[r, p]
    noted = st.ints[i, I_CACHED]
    if kv.cached:
        noted = st.ints[i, I_NOTED] if planned else found_again(st, i)
        note_content(st, kv, r, i, noted)
    drop(st, kv, r, i, noted)
    st.ints[i, I_PREEMPTED] += 1
    if planned:
        st.lanes.marks[M_UNDONE] = 1
        record_undone(st, i)
    record_preempted(st, i)
    rank[R_RUNNING] -= 1
    for k in range(p, rank[R_RUNNING]):
        st.running[r, k] = st.running[r, k + 1]
        if k + 1 < j:
            st.fresh[r, k] = st.fresh[r, k + 1]
    for g in range(rank[R_LATE]):
        st.running[r, 2 * size + g] -= st.running[r, 2 * size + g] > p
    put_back(st, r, i)


@compiled_given("st.lanes", otherwise=lambda st, r, j, g, ahead: (j, g))
def pass_over(st: State, r: int, j: int, g: int, ahead: int) -> tuple[int, int]:
    """Leave out sequences that a place that is `ahead` too far passes over; where it then stands.

    Of those that have ended some may stand between the running ones, see `drafts.plan_ended`.
    """
    rank, places = st.ranks[r], 2 * st.running.shape[1] // 3
    while ahead > 0 and (j < rank[R_RUNNING] or g < rank[R_LATE]):
        while g < rank[R_LATE] and st.running[r, places + g] < j:
            g += 1  # which have been looked at, or have nothing to be planned
        if g < rank[R_LATE] and st.running[r, places + g] == j:
            g += 1
        elif j < rank[R_RUNNING]:
            st.fresh[r, j] = 0
            j += 1
        else:
            break
        ahead -= 1
    return j, g
