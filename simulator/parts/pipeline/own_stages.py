"""Pipeline parallelism with the schedulers of SGLang and TensorRT-LLM, and the hooks that `loop.advance` calls for it.

As in SGLang's ``event_loop_pp`` (sglang/srt/managers/scheduler_pp_mixin.py, 0.5.9) and TensorRT-LLM's
``_executor_loop_pp`` (tensorrt_llm/_torch/pyexecutor/py_executor.py, 1.2), as many batches as stages take turns: one is
planned and launched, then the results of the next are awaited. Empty batches are skipped. A cut prompt continues in the
next batch. SGLang's batches have separate running requests and share one queue and tree; TensorRT-LLM plans each batch
from all active requests except those with their last token in flight.
"""

from __future__ import annotations

from typing import NamedTuple

from ....workloads.jit import compiled_code, compiled_part
from ....workloads.jit_address import by_address
from ...engine import exact, hooks
from ...engine.engine import Engine
from ...engine.engine_part import EnginePart
from ...engine.exact import Exact
from ...engine.kv import KvRules
from ...engine.plain import write_log
from ...engine.policies import Limits
from ...engine.state import GO, LogColumn, State, Status
from . import batches as pipeline
from .batches import Pipe, new_pipe


@by_address
class StagedBatches(NamedTuple):
    """State of the scheduler's steps, and the batches in flight."""

    exact: Exact
    pipe: Pipe


@compiled_part
def send(staged: StagedBatches, limits: Limits, kv_rules: KvRules, state: State, place: int) -> None:
    """Send the planned batch through the stages."""
    counters, step, pipe = state.counters[0], staged.exact.step[0], staged.pipe
    pipeline.price_stages(limits, state, step.decodes)
    start, end = pipeline.send_through(pipe, state, state.costs.stages, state.clocks[0].now, False)
    pipe.ends[place], pipe.sizes[place, 0] = end, 1
    pipe.ring[0].count += 1
    counters.steps += 1
    counters.fast_forward = 1
    counters.prompt_tokens += int(step.prompts)
    write_log(state, start, end, 1, step)
    state.log[counters.logged - 1, LogColumn.RUNNING] += hooks.elsewhere(state, place)
    hooks.on_log(state)
    hooks.on_start(state, kv_rules, 1)
    step.planned = step.tries = 0


@compiled_code
def take_turn(
    staged: StagedBatches, state: State, limits: Limits, kv_rules: KvRules, arrival: float, until: float
) -> int:
    """Plan and launch the batch whose turn it is, then wait for the results of the next batch."""
    clocks, step, pipe, stages = state.clocks[0], staged.exact.step[0], staged.pipe, state.costs.stages.size
    place, now, before = pipe.ring[0].first, state.clocks[0].now, pipe.free[0]
    hooks.take_up(state, place)
    exact.plan_next(staged.exact, kv_rules, state)
    step.tries += 1
    if step.planned == 1:
        send(staged, limits, kv_rules, state, place)
    hooks.put_down(state, place)
    pipe.ring[0].first = place = (place + 1) % stages
    clocks.now = hooks.seen(state, before, pipe.free[0])
    if pipe.sizes[place, 0] == 1:
        clocks.now = max(pipe.ends[place], clocks.now)
        hooks.take_up(state, place)
        hooks.take_results(state, kv_rules, clocks.now, clocks.now)
        hooks.put_down(state, place)
        pipe.sizes[place, 0] = 0
        pipe.ring[0].count -= 1
    elif pipe.ring[0].count == 0 and step.tries == stages:
        hooks.on_idle(state)
    clocks.known = clocks.now
    clocks.busy += clocks.now - now
    return Status.STUCK if step.tries > 2 * stages + 2 and pipe.ring[0].count == 0 else Status.AGAIN


@compiled_code
def rest_all(staged: StagedBatches, state: State, kv_rules: KvRules) -> None:
    """Plan every batch once when the engine has no requests, as `exact.idle` does for one batch."""
    for place in range(state.costs.stages.size):
        hooks.take_up(state, place)
        exact.plan_next(staged.exact, kv_rules, state)
        hooks.put_down(state, place)
    staged.exact.step[0].tries = 0
    hooks.on_idle(state)


@compiled_code
def not_yet(staged: StagedBatches, state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Return `GO`: results are processed in `take_turn`."""
    return GO


@compiled_code
def is_planned(staged: StagedBatches, state: State) -> bool:
    """Return whether a step is planned, as `exact.is_planned`."""
    return bool(staged.exact.step[0].planned == 1)


@compiled_code
def results_pending(staged: StagedBatches, state: State) -> bool:
    """Return whether any batch is in flight."""
    return bool(staged.pipe.ring[0].count > 0)


@compiled_code
def may_look(staged: StagedBatches, state: State, limits: Limits, until: float) -> bool:
    """Return whether the scheduler may look for arrivals before `until`, as `exact.may_look`."""
    return bool(state.clocks[0].known < until)


@compiled_code
def poll_arrivals(staged: StagedBatches, state: State, limits: Limits, kv_rules: KvRules) -> float:
    """Look for arrivals, as `exact.poll_arrivals`; return the time of the look [s]."""
    return float(exact.look(staged.exact, state, limits))


HOOKS = {
    "is_planned": is_planned, "results_pending": results_pending, "may_look": may_look, "poll_arrivals": poll_arrivals, "idle": rest_all,
    "prepare": not_yet, "run_step": take_turn,
}  # fmt: skip


class StagedEngine(EnginePart):
    """Batches in flight on the stages of one engine, planned by the core's scheduler or by an engine's own."""

    def start(self, engine: Engine) -> Pipe | StagedBatches:
        ranks, most, stages, rules = (
            engine.deployment.ranks,
            engine.policy.max_sequences,
            engine.plan.stages,
            engine.policy.rules,
        )
        steps = engine.parts.pop("exact", None)
        if steps is None or rules is None:
            self.hooks = (pipeline.HOOKS,)
            return new_pipe(stages, ranks, most)
        self.hooks = (HOOKS,)
        return StagedBatches(steps, new_pipe(stages, ranks, rules.most(most, stages)))
