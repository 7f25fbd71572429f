"""Who is preempted by priority: vLLM's priority scheduling (``Scheduler.schedule`` in vllm/v1/core/sched/scheduler.py, 0.19).

The running request of the largest (priority, arrival) goes back into the queue, wherever it stands among the running
ones; if the step had tokens for it already they go back to the budget. A request that is itself the last in order ends
the plan of running ones. The scheduler's place in its list moves back by one for a request that the step had planned,
and for no other: who stands next is then passed over in this step.
"""

from __future__ import annotations

from ....workloads.jit import compiled_code, compiled_part, int64
from ...batching import hooks
from ...batching.counting import clear_sums, count_planned
from ...batching.holding import drop, found_again, give_up, hold, note_content, put_back
from ...batching.kv import KvRules
from ...batching.preempting import last_gives_way
from ...batching.state import C_CHUNKS, I_CACHED, I_NOTED, I_PREEMPTED, R_LATE, R_RUNNING, State
from .lanes import M_UNDONE, O_LANE, O_PLACE, ClassLanes


@compiled_code
def make_room(
    lanes: ClassLanes, st: State, kv: KvRules, r: int, j: int, g: int, ended: bool, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """`last_gives_way`, or by priority."""
    if not lanes.worst:
        return last_gives_way(st, kv, r, j, g, ended, tokens)
    rank, size, lost, ahead, more = st.ranks[r], st.running.shape[1] // 3, int64(0), int64(0), int64(0)
    i = st.running[r, size + g if ended else j]
    while not hold(st, kv, r, i, tokens):
        lost += 1
        p, late = worst_of(st, lanes, r)
        victim = st.running[r, size + p if late else p]
        if late:
            back = hooks.undo_ended(st, r, p)
            if back > 0:
                lanes.marks[M_UNDONE] = 1
            before = drop_late_one(st, kv, r, p)
            more += back
            ahead += back == 0 and (p < g if ended else before <= j)
            g -= p < g
        else:
            planned = p < j and st.fresh[r, p] > 0
            if planned:
                more += st.fresh[r, p]
            ahead += p < j and not planned
            take_out(lanes, st, kv, r, p, j, planned)
            j -= p < j
        if victim == i:  # the plan of all that runs ends
            for k in range(j, rank[R_RUNNING]):
                st.fresh[r, k] = 0
            return False, rank[R_RUNNING], rank[R_LATE], more, lost, int64(0)
    return True, j, g, more, lost, ahead


@compiled_part
def worst_of(st: State, lanes: ClassLanes, r: int) -> tuple[int, bool]:
    """Last in order of a rank's sequences: its place, and whether it is one that the step in flight ends."""
    rank, size = st.ranks[r], st.running.shape[1] // 3
    victim, late, key, place = int64(-1), False, int64(0), int64(0)
    for k in range(rank[R_RUNNING] + rank[R_LATE]):
        ended = k >= rank[R_RUNNING]
        p = k - rank[R_RUNNING] if ended else k
        of = lanes.of[st.running[r, size + p if ended else p]]
        key_own = lanes.keys[of[O_LANE]]
        if victim < 0 or key_own > key or (key_own == key and of[O_PLACE] > place):
            victim, late, key, place = int64(p), ended, key_own, of[O_PLACE]
    return victim, late


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
def take_out(lanes: ClassLanes, st: State, kv: KvRules, r: int, p: int, j: int, planned: bool) -> None:
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
        lanes.marks[M_UNDONE] = 1
        hooks.on_undone(st, i)
    hooks.on_preempted(st, i)
    rank[R_RUNNING] -= 1
    for k in range(p, rank[R_RUNNING]):
        st.running[r, k] = st.running[r, k + 1]
        if k + 1 < j:
            st.fresh[r, k] = st.fresh[r, k + 1]
    for g in range(rank[R_LATE]):
        st.running[r, 2 * size + g] -= st.running[r, 2 * size + g] > p
    put_back(st, r, i)


@compiled_code
def pass_over(lanes: ClassLanes, st: State, r: int, j: int, g: int, ahead: int) -> tuple[int, int]:
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


@compiled_code
def count_again(lanes: ClassLanes, st: State, r: int, chunks: int) -> None:
    """Sum the planned batch of a rank again after tokens were taken back; `chunks` belong to others."""
    if lanes.marks[M_UNDONE] == 0:
        return
    lanes.marks[M_UNDONE] = 0
    clear_sums(st, r)
    st.counters[C_CHUNKS] = chunks
    for j in range(st.ranks[r, R_RUNNING]):
        count_planned(st, st.costs.windows, r, st.running[r, j], st.fresh[r, j])
    hooks.count_ended(st, r)


HOOKS = {"make_room": make_room, "pass_over": pass_over, "on_rank": count_again}
