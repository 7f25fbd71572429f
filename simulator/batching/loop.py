"""The engine's inner loop, compiled: poll arrivals, plan, cost, advance the clock, set timestamps, repeat.

It is compiled once for all engines: step costs (`step.timed.Costs`) and hooks of parts (`hooks`) are called by address.
Steps run one after the other (`plain`), unless a part brings another scheduler: an engine's own rules with results one
step late (`exact`), or several batches in flight.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...workloads.jit import compiled, compiled_part, int64
from ...workloads.jit_held import held
from . import hooks, plain
from . import state as col
from .kv import KvRules
from .policies import Limits
from .state import State
from .status import AGAIN, GO, GOAL, LOG_FULL, REACHED, RESTING, RESTS


@held
class EngineArrays(NamedTuple):
    """What the steps of one engine run on."""

    limits: Limits
    kv: KvRules
    state: State


@compiled_part
def may_look(limits: Limits, st: State, until: float) -> bool:
    """Whether all has been submitted that the next plan would find."""
    if st.hooks.may_look.size > 0:
        return bool(hooks.may_look(st, limits, until))
    return bool(plain.may_look(limits, st, until))


@compiled_part
def let_in(limits: Limits, kv: KvRules, st: State) -> float:
    """Queue what has come; when the next request arrives."""
    if st.hooks.let_in.size > 0:
        return float(hooks.let_in(st, limits, kv))
    return float(plain.let_in(limits, kv, st))


@compiled_part
def rest(kv: KvRules, st: State) -> None:
    """Have nothing to do: a plan of nothing lets go of what has ended."""
    if st.hooks.rest.size > 0:
        hooks.rest(st, kv)
    else:
        plain.drop_all_late(kv, st)


@compiled_part
def advance(limits: Limits, kv: KvRules, st: State, until: float, goal: int) -> int:
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
        if not hooks.is_planned(st):
            if not may_look(limits, st, until):
                return REACHED
            arrival = let_in(limits, kv, st)
            if counters[col.C_RELEASED] == counters[col.C_COMPLETED] and not hooks.flies(st):  # idle
                if clocks[col.T_KNOWN] >= until:
                    return REACHED  # what comes next may yet be known to the next plan, which has not rested
                rest(kv, st)
                if not arrival < until:
                    return REACHED
                clocks[col.T_NOW] = clocks[col.T_KNOWN] = max(arrival, clocks[col.T_NOW])
                continue
            if goal == RESTING and arrival == np.inf:
                return RESTS
            status = hooks.prepare(st, limits, kv) if st.hooks.prepare.size > 0 else int64(GO)
        if status == GO:
            if clocks[col.T_NOW] >= until:
                return REACHED
            if counters[col.C_LOG] + st.costs.stages.size > st.log.shape[0]:
                return LOG_FULL
            if st.hooks.take_step.size > 0:
                status = hooks.take_step(st, limits, kv, arrival, until)
            else:
                status = plain.take_step(limits, kv, st, arrival, until)
        if completed < goal and counters[col.C_COMPLETED] >= goal:
            return GOAL
        if status != AGAIN:
            return status


@compiled
def run(loop: EngineArrays, until: float, goal: int) -> int:
    """`advance` as Python and the events of a run (`play`) call it, which know engines by their addresses."""
    return advance(loop.limits, loop.kv, loop.state, until, goal)
