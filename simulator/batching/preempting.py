"""Preemption if memory runs out: the last admitted sequence, or the last in order of priority.

The second is vLLM's priority scheduling (``Scheduler.schedule`` in vllm/v1/core/sched/scheduler.py, 0.19): the running
request with the largest (priority, arrival) is preempted; tokens that the step had planned for it return to the budget.
A request that is the last in order ends the plan of running ones. The scheduler's index moves back by one only for a
planned request, so the next one in the list is then skipped in this step.
"""

from __future__ import annotations

from ...workloads.jit import compiled_part, int64
from . import hooks
from .holding import hold, preempt_last, preempt_late
from .kv import KvRules
from .state import State


@compiled_part
def last_gives_way(
    state: State, kv_rules: KvRules, rank_index: int, position: int, ended_at: int, ended: bool, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """Hold `tokens` tokens of a rank's running sequence `position`, preempting the latest admitted ones.

    Or of `ended_at` of the ended ones that the plan does not know. Returns whether it fits, both indices, tokens returned to
    the budget, the number of preempted requests, and of skipped ones behind it.
    """
    rank, lost = state.ranks[rank_index], int64(0)
    i = state.running[rank_index, state.running.shape[1] // 3 + ended_at if ended else position]
    while ended_at < rank.late if ended else position < rank.running:
        if hold(state, kv_rules, rank_index, i, tokens):
            return True, position, ended_at, int64(0), lost, int64(0)
        if not preempt_late(state, kv_rules, rank_index):
            preempt_last(state, kv_rules, rank_index)
        lost += 1
    return False, position, ended_at, int64(0), lost, int64(0)


@compiled_part
def make_room(
    state: State, kv_rules: KvRules, rank: int, position: int, ended_at: int, ended: bool, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """`last_gives_way`, or what a part preempts."""
    if state.hooks.make_room.size > 0:
        return hooks.make_room(state, kv_rules, rank, position, ended_at, ended, tokens)  # type: ignore[no-any-return]
    return last_gives_way(state, kv_rules, rank, position, ended_at, ended, tokens)


@compiled_part
def pass_over(state: State, rank: int, position: int, ended_at: int, ahead: int) -> tuple[int, int]:
    """Where a plan stands that passes `ahead` sequences over."""
    if ahead > 0 and state.hooks.pass_over.size > 0:
        return hooks.pass_over(state, rank, position, ended_at, ahead)  # type: ignore[no-any-return]
    return position, ended_at
