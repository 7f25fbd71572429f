"""The engine's inner loop, compiled: look who has come, plan, cost, advance the clock, stamp, repeat.

What is done at each place depends on the types of what it runs on (`jit.compiled_given`): steps one after the other
(`plain`), an engine's own rules, whose results come a step late (`exact`), or several batches in flight
(`pipeline`, `own_stages`); with drafts, tiers or lanes within them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...workloads.jit import compiled, compiled_part, int64
from ...workloads.jit_held import kept
from ..step.books import Books
from ..step.lowering import Plan
from . import state as col
from .exact import is_planned, let_in, may_look
from .kv import KvRules
from .own_stages import flies, prepare, rest, take_step
from .policies import Limits
from .state import State
from .status import AGAIN, GO, GOAL, LOG_FULL, REACHED, RESTING, RESTS

WRITE_DOWN = -1
"""Instead of a goal: let the engine be written down, as any call does, and no more."""


@kept
class EngineArrays(NamedTuple):
    """What the steps of one engine run on."""

    plan: Plan
    limits: Limits
    kv: KvRules
    state: State
    books: Books


@compiled_part
def advance(plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, until: float, goal: int) -> int:
    """Run steps until the clock reaches `until`, nothing is left, or the caller must act.

    Every request that arrives before `until` must have been submitted; a step that starts
    before `until` is finished. The step that brings completions up to `goal` is the last one; with `RESTING`
    for a goal the engine rests before the first step that requests yet unknown might change.

    Returns
    -------
    int
        A `status`.
    """
    counters, clocks, arrival = st.counters, st.clocks, 0.0
    while True:
        completed, status = counters[col.C_COMPLETED], int64(GO)
        if not is_planned(st):
            if not may_look(plan, limits, st, until):
                return REACHED
            arrival = let_in(limits, kv, st)
            if counters[col.C_RELEASED] == counters[col.C_COMPLETED] and not flies(st):  # idle
                if clocks[col.T_KNOWN] >= until:
                    return REACHED  # what comes next may yet be known to the next plan, which has not rested
                rest(plan, kv, st)
                if not arrival < until:
                    return REACHED
                clocks[col.T_NOW] = clocks[col.T_KNOWN] = max(arrival, clocks[col.T_NOW])
                continue
            if goal == RESTING and arrival == np.inf:
                return RESTS
            status = prepare(plan, limits, kv, st)
        if status == GO:
            if clocks[col.T_NOW] >= until:
                return REACHED
            if counters[col.C_LOG] + plan.stages > st.log.shape[0]:
                return LOG_FULL
            status = take_step(plan, limits, kv, st, books, arrival, until)
        if completed < goal and counters[col.C_COMPLETED] >= goal:
            return GOAL
        if status != AGAIN:
            return status


@compiled
def run(loop: EngineArrays, until: float, goal: int) -> int:
    """`advance` as Python and the events of a run (`play`) call it, which know engines by their addresses."""
    if goal == WRITE_DOWN:
        return REACHED
    return advance(loop.plan, loop.limits, loop.kv, loop.state, loop.books, until, goal)
