"""The inner loop of engines whose rules process a step's results while the next one runs.

SGLang's and TensorRT-LLM's executors plan a step, start it, and then wait for the one before it: its
tokens, ends and memory count from the plan after the next one on (`event_loop_overlap` in
sglang/srt/managers/scheduler.py, `_executor_loop_overlap` in tensorrt_llm/_torch/pyexecutor/
py_executor.py). A request that has just ended runs in one more step. Without overlap results are
processed at once. What is planned is the matter of each engine's rules, of which only those that a run
has are compiled.
"""

from __future__ import annotations

import numpy as np

from ...workloads.batch import DECODES, PREFILL_TOKENS, TOKENS
from ...workloads.jit import compiled, compiled_given, compiled_part, int64
from ..step.books import Books
from ..step.lowering import Plan
from . import sglang_steps, trtllm_steps
from . import state as col
from .clients import soonest, take
from .exact_state import Exact
from .holding import enqueue
from .kv import KvRules
from .loop import GOAL, LOG_FULL, REACHED, STUCK, write_log
from .policies import Limits
from .sglang_priority import come_back
from .state import State
from .verify import log_draft, run_steps

SGLANG = "exact.sglang"
"""Where it is None the rules are TensorRT-LLM's."""

plan_step = compiled_given(SGLANG, trtllm_steps.plan_ranks)(sglang_steps.plan_ranks)
start_step = compiled_given(SGLANG, trtllm_steps.start_ranks)(sglang_steps.start_ranks)
take_results = compiled_given(SGLANG, trtllm_steps.take_ranks)(sglang_steps.take_ranks)
most_steps = compiled_given(SGLANG, trtllm_steps.most_steps)(sglang_steps.most_steps)
rank_for = compiled_given(SGLANG, trtllm_steps.rank_for)(sglang_steps.rank_for)
fall_idle = compiled_given(SGLANG, lambda exact: None)(sglang_steps.fall_idle)


@compiled_part
def next_arrival(st: State, closed_loop: bool) -> float:
    """When the next request arrives; infinity where none is known to."""
    i = soonest(st, closed_loop)
    return np.inf if i < 0 else float(st.floats[i, col.F_ARRIVAL])


@compiled_part
def enqueue_one(x: Exact, st: State, r: int, i: int) -> None:
    """`queue_one` by the key of an order, if the policy has one."""
    enqueue(st, r, i)


@compiled_given("x.sglang.urgent", otherwise=enqueue_one)
def queue_one(x: Exact, st: State, r: int, i: int) -> None:
    """Queue a request that has come."""
    come_back(st, x.sglang, r, i)


@compiled_part
def queue_arrivals(x: Exact, st: State, closed_loop: bool, known: float) -> None:
    """Queue requests that have arrived by a time."""
    counters = st.counters
    while next_arrival(st, closed_loop) <= known:
        i = soonest(st, closed_loop)
        take(st, i)
        queue_one(x, st, rank_for(x, st), i)
        counters[col.C_RELEASED] += 1


@compiled_part
def plan_next(plan: Plan, kv: KvRules, st: State, x: Exact, known: float) -> None:
    """Plan the next step of all ranks, and note what it is."""
    st.counters[col.C_CHUNKS] = 0
    plan_step(x, st, kv, plan.windows, known)
    tokens, prompts, decodes, used = 0.0, 0.0, 0.0, 0.0
    for r in range(st.ranks.shape[0]):
        tokens += st.moments[r, TOKENS]
        prompts += st.moments[r, PREFILL_TOKENS]
        decodes += st.moments[r, DECODES]
        used += kv.capacity - st.free[r]
        st.clocks[col.T_KV_PEAK] = max(st.clocks[col.T_KV_PEAK], kv.capacity - st.free[r])
    x.step[0].prompts, x.step[0].decodes, x.step[0].used = prompts, decodes, used
    x.step[0].planned = tokens > 0.0


@compiled_part
def run_planned(
    plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, x: Exact, until: float, closed_loop: bool
) -> None:
    """Run the planned step, and those that are sure to be planned alike."""
    counters, clocks, start = st.counters, st.clocks, st.clocks[col.T_NOW]
    prompts, decodes, chunks = x.step[0].prompts, x.step[0].decodes, counters[col.C_CHUNKS]
    most, cut = int64(1), until
    if chunks == 0:
        most = most_steps(x, st)
        heeds = most < 0 or st.ranks.shape[0] > 1
        most = abs(most)
        if limits.poll_steps > 1:
            most = max(min(most, limits.poll_steps - counters[col.C_POLL]), 1)
        elif heeds:
            cut = min(next_arrival(st, closed_loop), until)
    first_end, now, done = run_steps(plan, limits, st, books, most, cut, decodes, chunks)
    clocks[col.T_NOW] = now
    clocks[col.T_BUSY] += now - start
    counters[col.C_STRETCH] = done
    write_log(plan, st, books, start, now, done, decodes, prompts, x.step[0].used)
    log_draft(st)
    counters[col.C_PROMPT] += int(prompts)
    counters[col.C_POLL] += limits.poll_steps if chunks > 0 else done
    start_step(x, st, kv, done)
    x.step[0].first_end = first_end
    x.step[0].planned, x.step[0].flying, x.step[0].ran = 0, 1, 1
    if not x.overlap:
        clocks[col.T_KNOWN] = now


@compiled_part
def land(kv: KvRules, st: State, x: Exact, closed_loop: bool) -> None:
    """Process the results of the step that ends now."""
    take_results(x, st, kv, x.step[0].first_end, st.clocks[col.T_NOW], closed_loop)
    x.step[0].flying = 0
    st.log[st.counters[col.C_LOG] - 1, col.L_EMITTED] = st.counters[col.C_EMITTED]


@compiled
def advance_exact(
    plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, x: Exact, until: float,
    closed_loop: bool, goal: int,
) -> int:  # fmt: skip
    """`loop.advance` by an engine's own rules."""
    counters, clocks, step, tries = st.counters, st.clocks, x.step[0], int64(0)
    while True:
        if step.planned == 1:
            if clocks[col.T_NOW] >= until:
                return REACHED
            if counters[col.C_LOG] >= st.log.shape[0]:
                return LOG_FULL
            run_planned(plan, limits, kv, st, books, x, until, closed_loop)
        completed = counters[col.C_COMPLETED]
        if step.flying == 1 and not x.overlap:
            land(kv, st, x, closed_loop)
            if completed < goal and counters[col.C_COMPLETED] >= goal:
                return GOAL
        if clocks[col.T_KNOWN] >= until:
            return REACHED
        if step.ran == 0:
            counters[col.C_POLL] += 1
        step.ran = 0
        if counters[col.C_POLL] >= limits.poll_steps:
            queue_arrivals(x, st, closed_loop, clocks[col.T_KNOWN])
            counters[col.C_POLL] = 0
        if step.flying == 0 and counters[col.C_RELEASED] == counters[col.C_COMPLETED]:
            plan_next(plan, kv, st, x, clocks[col.T_KNOWN])  # lets go of what has ended
            fall_idle(x)
            arrival = next_arrival(st, closed_loop)
            if not arrival < until:
                return REACHED
            clocks[col.T_NOW] = max(clocks[col.T_NOW], arrival)
            clocks[col.T_KNOWN] = clocks[col.T_NOW]
            continue
        plan_next(plan, kv, st, x, clocks[col.T_KNOWN])
        if step.flying == 1:
            land(kv, st, x, closed_loop)
            if step.planned == 0:
                clocks[col.T_KNOWN] = clocks[col.T_NOW]
            if completed < goal and counters[col.C_COMPLETED] >= goal:
                return GOAL
        elif step.planned == 0:
            fall_idle(x)
            tries += 1
            if tries > limits.poll_steps + 2:
                return STUCK
            continue
        tries = int64(0)
