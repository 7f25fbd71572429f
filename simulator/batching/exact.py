"""Steps of engines whose own rules process a step's results while the next one runs.

SGLang's and TensorRT-LLM's executors plan a step, start it, and then wait for the one before it: its tokens, ends and
memory count from the plan after the next one on (`event_loop_overlap` in sglang/srt/managers/scheduler.py,
`_executor_loop_overlap` in tensorrt_llm/_torch/pyexecutor/ py_executor.py). A request that has just ended runs in one
more step. Without overlap results are processed at once. What is planned is the matter of each engine's rules, of which
only those that a run has are compiled.
"""

from __future__ import annotations

from ...workloads.batch import DECODES, PREFILL_TOKENS, TOKENS
from ...workloads.jit import compiled_given, compiled_part, int64
from ..parts.drafts.verify import log_draft, run_steps
from ..parts.sglang import steps as sglang_steps
from ..parts.sglang.priority import queue_by_priority
from ..parts.tensorrt_llm import steps as trtllm_steps
from ..step.books import Books
from ..step.lowering import Plan
from . import plain
from . import state as col
from .clients import next_arrival, take
from .holding import enqueue
from .kv import KvRules
from .policies import Limits
from .state import State
from .status import AGAIN, GO, STUCK

SGLANG = "st.exact.sglang"
"""Where it is None the rules are TensorRT-LLM's."""

plan_step = compiled_given(SGLANG, trtllm_steps.plan_ranks)(sglang_steps.plan_ranks)
start_step = compiled_given(SGLANG, trtllm_steps.start_ranks)(sglang_steps.start_ranks)
take_results = compiled_given(SGLANG, trtllm_steps.take_ranks)(sglang_steps.take_ranks)
most_steps = compiled_given(SGLANG, trtllm_steps.most_steps)(sglang_steps.most_steps)
rank_for = compiled_given(SGLANG, trtllm_steps.rank_for)(sglang_steps.rank_for)
fall_idle = compiled_given(SGLANG, lambda st: None)(sglang_steps.fall_idle)


@compiled_given("st.exact.sglang.urgent", otherwise=enqueue)
def queue_one(st: State, r: int, i: int) -> None:
    """Queue a request that has come."""
    queue_by_priority(st, st.exact.sglang, r, i)


@compiled_part
def queue_arrivals(st: State, known: float) -> None:
    """Queue requests that have arrived by a time."""
    counters = st.counters
    while next_arrival(st) <= known:
        i = take(st)
        queue_one(st, rank_for(st), i)
        counters[col.C_RELEASED] += 1


@compiled_part
def plan_next(plan: Plan, kv: KvRules, st: State) -> None:
    """Plan the next step of all ranks, and note what it is."""
    step = st.exact.step[0]
    st.counters[col.C_CHUNKS] = 0
    plan_step(st, kv, plan.windows, st.clocks[col.T_KNOWN])
    tokens, prompts, decodes, used = 0.0, 0.0, 0.0, 0.0
    for r in range(st.ranks.shape[0]):
        tokens += st.moments[r, TOKENS]
        prompts += st.moments[r, PREFILL_TOKENS]
        decodes += st.moments[r, DECODES]
        used += kv.capacity - st.free[r]
        st.clocks[col.T_KV_PEAK] = max(st.clocks[col.T_KV_PEAK], kv.capacity - st.free[r])
    step.prompts, step.decodes, step.used = prompts, decodes, used
    step.planned = tokens > 0.0


@compiled_part
def land(kv: KvRules, st: State) -> None:
    """Process the results of the step that ends now."""
    step = st.exact.step[0]
    take_results(st, kv, step.first_end, st.clocks[col.T_NOW])
    step.flying = 0
    st.log[st.counters[col.C_LOG] - 1, col.L_EMITTED] = st.counters[col.C_EMITTED]


@compiled_given("st.exact", otherwise=lambda st: False)
def is_planned(st: State) -> bool:
    """Whether the next step has been planned already."""
    return bool(st.exact.step[0].planned == 1)


@compiled_given("st.exact", otherwise=lambda st: False)
def flies(st: State) -> bool:
    """Whether a step has run whose results are not processed."""
    return bool(st.exact.step[0].flying == 1)


@compiled_given("st.exact", otherwise=plain.may_look)
def may_look(plan: Plan, limits: Limits, st: State, until: float) -> bool:
    """Whether all has been submitted that the next plan would find."""
    return bool(st.clocks[col.T_KNOWN] < until)


@compiled_given("st.exact", otherwise=plain.let_in)
def let_in(limits: Limits, kv: KvRules, st: State) -> float:
    """`plain.let_in`: a plan of nothing counts as a step between two looks."""
    step, counters = st.exact.step[0], st.counters
    if step.ran == 0:
        counters[col.C_POLL] += 1
    step.ran = 0
    if counters[col.C_POLL] >= limits.poll_steps:
        queue_arrivals(st, st.clocks[col.T_KNOWN])
        counters[col.C_POLL] = 0
    return next_arrival(st)


@compiled_given("st.exact", otherwise=plain.drop_all_late)
def rest(plan: Plan, kv: KvRules, st: State) -> None:
    """Have nothing to do: a plan of nothing lets go of what has ended."""
    plan_next(plan, kv, st)
    fall_idle(st)


@compiled_given("st.exact", otherwise=lambda plan, limits, kv, st: GO)
def prepare(plan: Plan, limits: Limits, kv: KvRules, st: State) -> int:
    """Plan the next step, then process the results of the one that has run meanwhile."""
    step, clocks = st.exact.step[0], st.clocks
    plan_next(plan, kv, st)
    if step.flying == 1:
        land(kv, st)
        if step.planned == 0:
            clocks[col.T_KNOWN] = clocks[col.T_NOW]
    elif step.planned == 0:
        fall_idle(st)
        step.tries += 1
        return STUCK if step.tries > limits.poll_steps + 2 else AGAIN
    step.tries = 0
    return AGAIN


@compiled_given("st.exact", otherwise=plain.take_step)
def take_step(plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, arrival: float, until: float) -> int:
    """Run the planned step, and those that are sure to be planned alike."""
    counters, clocks, start, step = st.counters, st.clocks, st.clocks[col.T_NOW], st.exact.step[0]
    most, cut, chunks = int64(1), until, counters[col.C_CHUNKS]
    if chunks == 0:
        most = most_steps(st)
        heeds = most < 0 or st.ranks.shape[0] > 1
        most = abs(most)
        if limits.poll_steps > 1:
            most = max(min(most, limits.poll_steps - counters[col.C_POLL]), 1)
        elif heeds:
            cut = min(next_arrival(st), until)
    first_end, now, done = run_steps(plan, limits, st, books, most, cut, step.decodes, chunks)
    clocks[col.T_NOW] = now
    clocks[col.T_BUSY] += now - start
    counters[col.C_STRETCH] = done
    plain.write_log(plan, st, books, start, now, done, step)
    log_draft(st)
    counters[col.C_PROMPT] += int(step.prompts)
    counters[col.C_POLL] += limits.poll_steps if chunks > 0 else done
    start_step(st, kv, done)
    step.first_end = first_end
    step.planned, step.flying, step.ran = 0, 1, 1
    if not st.exact.overlap:
        clocks[col.T_KNOWN] = now
        land(kv, st)
    return AGAIN
