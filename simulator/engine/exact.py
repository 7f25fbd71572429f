"""Steps of the SGLang and TensorRT-LLM schedulers, which process the results of a step while the next one runs.

Their executors plan a step, start it, and then wait for the previous step (`event_loop_overlap` in
sglang/srt/managers/scheduler.py, `_executor_loop_overlap` in tensorrt_llm/_torch/pyexecutor/py_executor.py). So the plan of
a step does not know the tokens, completions and freed memory of the step in flight, and a request that has just ended runs in
one more step. Without overlap, results are processed at once. A part of each engine makes the plan; only the part of the
simulated engine is compiled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_code, compiled_part, int64
from ...workloads.jit_address import by_address
from ...workloads.records import named, records
from . import hooks, plain
from .kv import KvRules
from .policies import Limits
from .queues import next_arrival, queue_request, take
from .state import LogColumn, State, Status

I8 = npt.NDArray[np.int64]

STEP = named("planned flying ran tries", "prompts decodes used first_end")
"""State of the planned step.

`planned`: whether a planned step waits to run. `flying`: whether a step has run whose results are not processed. `ran`:
whether a step has run since arrivals were polled. `tries`: number of empty plans in a row. `prompts`, `decodes`, `used`:
prompt tokens, decodes and KV bytes in use of the plan. `first_end`: end of the first fast-forwarded step [s].
"""


@by_address
class Exact(NamedTuple):
    """State of a scheduler that may process the results of a step while the next step runs."""

    overlap: bool  # whether it does; if not, results are processed at the end of the step
    step: npt.NDArray[Any]  # [1] of `STEP`


def new_exact(overlap: bool) -> Exact:
    """Return the state of a scheduler before its first step."""
    return Exact(overlap, records(1, STEP))


@compiled_part
def copy_lists(source: I8, target: I8, running: int, flight: int) -> None:
    """Copy a rank's lists of sequences (`State.running`): the running ones, and those whose results are pending."""
    first = source.size // 3
    for j in range(running):
        target[j] = source[j]
    for j in range(flight):
        target[first + j], target[2 * first + j] = source[first + j], source[2 * first + j]


@compiled_part
def queue_arrivals(state: State, known: float) -> None:
    """Queue all requests that have arrived by the time `known`."""
    counters = state.counters[0]
    while next_arrival(state) <= known:
        i = take(state)
        queue_request(state, hooks.rank_for(state), i)
        counters.released += 1


@compiled_part
def plan_next(exact: Exact, kv_rules: KvRules, state: State) -> None:
    """Plan the next step of all ranks, and record its tokens and memory."""
    step = exact.step[0]
    state.counters[0].chunks = 0
    hooks.plan_next(state, kv_rules, state.costs.windows, state.clocks[0].known)
    step.prompts, step.decodes, step.used = plain.planned_of(kv_rules, state)
    step.planned = plain.planned_tokens(state) > 0.0


@compiled_part
def process_results(exact: Exact, kv_rules: KvRules, state: State) -> None:
    """Process the results of the step in flight: set timestamps and retire finished requests."""
    step = exact.step[0]
    hooks.take_results(state, kv_rules, step.first_end, state.clocks[0].now)
    step.flying = 0
    state.log[state.counters[0].logged - 1, LogColumn.EMITTED] = state.counters[0].emitted


@compiled_code
def is_planned(exact: Exact, state: State) -> bool:
    """Return whether the next step has been planned already."""
    return bool(exact.step[0].planned == 1)


@compiled_code
def results_pending(exact: Exact, state: State) -> bool:
    """Return whether a step has run whose results have not been processed."""
    return bool(exact.step[0].flying == 1)


@compiled_code
def may_look(exact: Exact, state: State, limits: Limits, until: float) -> bool:
    """Return whether all requests that the next plan could see have been submitted."""
    return bool(state.clocks[0].known < until)


@compiled_part
def look(exact: Exact, state: State, limits: Limits) -> float:
    """Poll arrivals as `plain.poll_arrivals`; here an empty plan also counts as a step between two polls."""
    step, counters = exact.step[0], state.counters[0]
    if step.ran == 0:
        counters.poll += 1
    step.ran = 0
    if counters.poll >= limits.poll_steps:
        queue_arrivals(state, state.clocks[0].known)
        counters.poll = 0
    return next_arrival(state)


@compiled_code
def poll_arrivals(exact: Exact, state: State, limits: Limits, kv_rules: KvRules) -> float:
    """Poll arrivals (`look`) and return the next arrival time [s]."""
    return float(look(exact, state, limits))


@compiled_code
def idle(exact: Exact, state: State, kv_rules: KvRules) -> None:
    """Make an empty plan, so that memory of completed requests is freed."""
    plan_next(exact, kv_rules, state)
    hooks.on_idle(state)


@compiled_code
def prepare(exact: Exact, state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Plan the next step, then process the results of the previous one."""
    step, clocks = exact.step[0], state.clocks[0]
    plan_next(exact, kv_rules, state)
    if step.flying == 1:
        process_results(exact, kv_rules, state)
        if step.planned == 0:
            clocks.known = clocks.now
    elif step.planned == 0:
        hooks.on_idle(state)
        step.tries += 1
        return Status.STUCK if step.tries > limits.poll_steps + 2 else Status.AGAIN
    step.tries = 0
    return Status.AGAIN


@compiled_code
def run_step(exact: Exact, state: State, limits: Limits, kv_rules: KvRules, arrival: float, until: float) -> int:
    """Run the planned step, and the following steps that are certain to have the same plan."""
    counters, clocks, start, step = state.counters[0], state.clocks[0], state.clocks[0].now, exact.step[0]
    most, cut, chunks = int64(1), until, counters.chunks
    if chunks == 0:
        most = hooks.most_steps(state)
        heeds = most < 0 or state.ranks.shape[0] > 1
        most = abs(most)
        if limits.poll_steps > 1:
            most = max(min(most, limits.poll_steps - counters.poll), 1)
        elif heeds:
            cut = min(next_arrival(state), until)
    first_end, now, done = plain.run_steps(limits, state, most, cut, step.decodes, chunks)
    clocks.now = now
    clocks.busy += now - start
    counters.fast_forward = done
    plain.write_log(state, start, now, done, step)
    hooks.on_log(state)
    counters.prompt_tokens += int(step.prompts)
    counters.poll += limits.poll_steps if chunks > 0 else done
    hooks.on_start(state, kv_rules, done)
    step.first_end = first_end
    step.planned, step.flying, step.ran = 0, 1, 1
    if not exact.overlap:
        clocks.known = now
        process_results(exact, kv_rules, state)
    return Status.AGAIN


HOOKS = {
    "is_planned": is_planned, "results_pending": results_pending, "may_look": may_look, "poll_arrivals": poll_arrivals, "idle": idle,
    "prepare": prepare, "run_step": run_step,
}  # fmt: skip
