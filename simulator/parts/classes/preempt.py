"""Who is preempted by priority: vLLM's priority scheduling (``Scheduler.schedule`` in vllm/v1/core/sched/scheduler.py, 0.19).

The running request of the largest (priority, arrival) goes back into the queue, wherever it stands among the running
ones; if the step had tokens for it already they go back to the budget. A request that is itself the last in order ends
the plan of running ones. The scheduler's place in its list moves back by one for a request that the step had planned,
and for no other: who stands next is then passed over in this step.
"""

from __future__ import annotations

from ....workloads.jit import compiled_code, compiled_part, int64
from ...engine import hooks
from ...engine.allocation import allocate, found_again, free_request, give_up, last_gives_way, note_content, put_back
from ...engine.counting import clear_sums, count_planned
from ...engine.kv import KvRules
from ...engine.state import State
from .class_queues import ClassLanes


@compiled_code
def preempt_until_fits(
    lanes: ClassLanes,
    state: State,
    kv_rules: KvRules,
    rank_index: int,
    position: int,
    ended_at: int,
    ended: bool,
    tokens: int,
) -> tuple[bool, int, int, int, int, int]:
    """Allocate KV for a running sequence, preempting by priority; without priorities as `last_gives_way`."""
    if not lanes.worst:
        return last_gives_way(state, kv_rules, rank_index, position, ended_at, ended, tokens)
    rank, size, lost, ahead, more = state.ranks[rank_index], state.running.shape[1] // 3, int64(0), int64(0), int64(0)
    i = state.running[rank_index, size + ended_at if ended else position]
    while not allocate(state, kv_rules, rank_index, i, tokens):
        lost += 1
        p, late = worst_of(state, lanes, rank_index)
        victim = state.running[rank_index, size + p if late else p]
        if late:
            back = hooks.undo_ended(state, rank_index, p)
            if back > 0:
                lanes.marks[0].undone = 1
            before = drop_late_one(state, kv_rules, rank_index, p)
            more += back
            ahead += back == 0 and (p < ended_at if ended else before <= position)
            ended_at -= p < ended_at
        else:
            planned = p < position and state.fresh[rank_index, p] > 0
            if planned:
                more += state.fresh[rank_index, p]
            ahead += p < position and not planned
            take_out(lanes, state, kv_rules, rank_index, p, position, planned)
            position -= p < position
        if victim == i:  # the plan of all that runs ends
            for k in range(position, rank.running):
                state.fresh[rank_index, k] = 0
            return False, rank.running, rank.late, more, lost, int64(0)
    return True, position, ended_at, more, lost, ahead


@compiled_part
def worst_of(state: State, lanes: ClassLanes, rank_index: int) -> tuple[int, bool]:
    """Return the lowest-priority sequence of a rank: its position, and whether the step in flight ends it."""
    rank, size = state.ranks[rank_index], state.running.shape[1] // 3
    victim, late, key, place = int64(-1), False, int64(0), int64(0)
    for k in range(rank.running + rank.late):
        ended = k >= rank.running
        p = k - rank.running if ended else k
        of = lanes.of[state.running[rank_index, size + p if ended else p]]
        key_own = lanes.keys[of.lane]
        if victim < 0 or key_own > key or (key_own == key and of.place > place):
            victim, late, key, place = int64(p), ended, key_own, of.place
    return victim, late


@compiled_part
def drop_late_one(state: State, kv_rules: KvRules, rank_index: int, ended_at: int) -> int:
    """Free the memory and batch slot of a sequence that ends anyway; return how many ran before it."""
    rank, size = state.ranks[rank_index], state.running.shape[1] // 3
    give_up(state, kv_rules, rank_index, state.running[rank_index, size + ended_at])
    before = state.running[rank_index, 2 * size + ended_at]
    rank.late -= 1
    for k in range(ended_at, rank.late):
        state.running[rank_index, size + k] = state.running[rank_index, size + k + 1]
        state.running[rank_index, 2 * size + k] = state.running[rank_index, 2 * size + k + 1]
    return int(before)


@compiled_part
def take_out(
    lanes: ClassLanes, state: State, kv_rules: KvRules, rank_index: int, p: int, position: int, planned: bool
) -> None:
    """Preempt a rank's running sequence `p`: queue it again and undo its tokens of this step."""
    rank, size = state.ranks[rank_index], state.running.shape[1] // 3
    i = state.running[rank_index, p]
    noted = state.requests[i].cached
    if kv_rules.cached:
        noted = state.requests[i].noted if planned else found_again(state, i)
        note_content(state, kv_rules, rank_index, i, noted)
    free_request(state, kv_rules, rank_index, i, noted)
    state.requests[i].preempted += 1
    if planned:
        lanes.marks[0].undone = 1
        hooks.on_undone(state, i)
    hooks.on_preempted(state, i)
    rank.running -= 1
    for k in range(p, rank.running):
        state.running[rank_index, k] = state.running[rank_index, k + 1]
        if k + 1 < position:
            state.fresh[rank_index, k] = state.fresh[rank_index, k + 1]
    for g in range(rank.late):
        state.running[rank_index, 2 * size + g] -= state.running[rank_index, 2 * size + g] > p
    put_back(state, rank_index, i)


@compiled_code
def skip(lanes: ClassLanes, state: State, rank_index: int, position: int, ended_at: int, ahead: int) -> tuple[int, int]:
    """Leave out sequences that a place that is `ahead` too far passes over; where it then stands.

    Of those that have ended some may stand between the running ones, see `drafts.hooks.plan_ended`.
    """
    rank, places = state.ranks[rank_index], 2 * state.running.shape[1] // 3
    while ahead > 0 and (position < rank.running or ended_at < rank.late):
        while ended_at < rank.late and state.running[rank_index, places + ended_at] < position:
            ended_at += 1  # which have been looked at, or have nothing to be planned
        if ended_at < rank.late and state.running[rank_index, places + ended_at] == position:
            ended_at += 1
        elif position < rank.running:
            state.fresh[rank_index, position] = 0
            position += 1
        else:
            break
        ahead -= 1
    return position, ended_at


@compiled_code
def count_again(lanes: ClassLanes, state: State, rank: int, chunks: int) -> None:
    """Sum a rank's planned batch again after tokens were taken back; `chunks` chunks belong to other ranks."""
    if lanes.marks[0].undone == 0:
        return
    lanes.marks[0].undone = 0
    clear_sums(state, rank)
    state.counters[0].chunks = chunks
    for j in range(state.ranks[rank].running):
        count_planned(state, state.costs.windows, rank, state.running[rank, j], state.fresh[rank, j])
    hooks.count_ended(state, rank)


HOOKS = {"preempt_until_fits": preempt_until_fits, "skip": skip, "on_rank": count_again}
