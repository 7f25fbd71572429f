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
from .state import R_LATE, R_RUNNING, State


@compiled_part
def last_gives_way(
    st: State, kv: KvRules, r: int, j: int, g: int, ended: bool, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """Hold `tokens` tokens of a rank's running sequence `j`, preempting the latest admitted ones.

    Or of `g` of the ended ones that the plan does not know. Returns whether it fits, both indices, tokens returned to
    the budget, the number of preempted requests, and of skipped ones behind it.
    """
    rank, lost = st.ranks[r], int64(0)
    i = st.running[r, st.running.shape[1] // 3 + g if ended else j]
    while g < rank[R_LATE] if ended else j < rank[R_RUNNING]:
        if hold(st, kv, r, i, tokens):
            return True, j, g, int64(0), lost, int64(0)
        if not preempt_late(st, kv, r):
            preempt_last(st, kv, r)
        lost += 1
    return False, j, g, int64(0), lost, int64(0)


@compiled_part
def make_room(
    st: State, kv: KvRules, r: int, j: int, g: int, ended: bool, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """`last_gives_way`, or what a part preempts."""
    if st.hooks.make_room.size > 0:
        return hooks.make_room(st, kv, r, j, g, ended, tokens)  # type: ignore[no-any-return]
    return last_gives_way(st, kv, r, j, g, ended, tokens)


@compiled_part
def pass_over(st: State, r: int, j: int, g: int, ahead: int) -> tuple[int, int]:
    """Where a plan stands that passes `ahead` sequences over."""
    if ahead > 0 and st.hooks.pass_over.size > 0:
        return hooks.pass_over(st, r, j, g, ahead)  # type: ignore[no-any-return]
    return j, g
