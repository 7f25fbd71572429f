"""The engine's inner loop, compiled: poll arrivals, plan, cost, advance the clock, set timestamps, repeat.

It is compiled once for all engines: step costs (`step.timed.Costs`) and hooks of parts (`hooks`) are called by address.
Steps run one after the other (`plain`), unless a part replaces the scheduler: SGLang's and TensorRT-LLM's process results
one step late (`exact`), and pipeline parallelism has several batches in flight.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...workloads.jit import compiled, compiled_part, int64
from ...workloads.jit_address import by_address
from . import hooks, plain
from .kv import KvRules
from .policies import Limits
from .state import GO, RESTING, RESTS, State, Status


@by_address
class EngineArrays(NamedTuple):
    """Limits, KV rules and state arrays that one engine's compiled loop runs on."""

    limits: Limits
    kv: KvRules
    state: State


@compiled_part
def may_look(limits: Limits, state: State, until: float) -> bool:
    """Return whether all requests that the next plan could see have been submitted."""
    if state.hooks.may_look.size > 0:
        return bool(hooks.may_look(state, limits, until))
    return bool(plain.may_look(limits, state, until))


@compiled_part
def poll_arrivals(limits: Limits, kv_rules: KvRules, state: State) -> float:
    """Queue the requests that have arrived; return the next arrival time [s]."""
    if state.hooks.poll_arrivals.size > 0:
        return float(hooks.poll_arrivals(state, limits, kv_rules))
    return float(plain.poll_arrivals(limits, kv_rules, state))


@compiled_part
def idle(kv_rules: KvRules, state: State) -> None:
    """Free the memory of ended requests when there is nothing to plan."""
    if state.hooks.idle.size > 0:
        hooks.idle(state, kv_rules)
    else:
        plain.drop_all_late(kv_rules, state)


@compiled_part
def advance(limits: Limits, kv_rules: KvRules, state: State, until: float, goal: int) -> int:
    """Run steps until the clock reaches `until`, nothing is left, or the caller must act.

    Every request that arrives before `until` [s] must have been submitted. A step that starts before `until` is finished.
    The loop also stops after the step with which the number of completions reaches `goal`. If `goal` is `RESTING`, it
    stops before the first step that a request not yet submitted could change.

    Returns
    -------
    int
        A `Status`, or `RESTS`.
    """
    counters, clocks, arrival = state.counters[0], state.clocks[0], 0.0
    while True:
        completed, status = counters.completed, int64(GO)
        if not hooks.is_planned(state):
            if not may_look(limits, state, until):
                return Status.REACHED
            arrival = poll_arrivals(limits, kv_rules, state)
            if counters.released == counters.completed:  # all arrived requests have completed
                if clocks.known >= until:
                    return Status.REACHED  # the next plan may see requests that are not submitted yet
                if not hooks.results_pending(state):
                    idle(kv_rules, state)
                    if not arrival < until:
                        return Status.REACHED
                    clocks.now = clocks.known = max(arrival, clocks.now)
                    continue
            if goal == RESTING and arrival == np.inf:
                return RESTS
            status = hooks.prepare(state, limits, kv_rules) if state.hooks.prepare.size > 0 else int64(GO)
        if status == GO:
            if clocks.now >= until:
                return Status.REACHED
            if counters.logged + state.costs.stages.size > state.log.shape[0]:
                return Status.LOG_FULL
            if state.hooks.run_step.size > 0:
                status = hooks.run_step(state, limits, kv_rules, arrival, until)
            else:
                status = plain.run_step(limits, kv_rules, state, arrival, until)
        if completed < goal and counters.completed >= goal:
            return Status.GOAL
        if status != Status.AGAIN:
            return status


@compiled
def run(loop: EngineArrays, until: float, goal: int) -> int:
    """Run `advance` for callers that have only an engine's address: Python and the events of a run (`fleet`)."""
    return advance(loop.limits, loop.kv, loop.state, until, goal)
