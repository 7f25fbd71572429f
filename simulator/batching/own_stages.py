"""Steps of an engine's own scheduler with pipeline parallel, and which hooks of `loop.advance` are whose.

As in SGLang's ``event_loop_pp`` (sglang/srt/managers/scheduler_pp_mixin.py, 0.5.9) and TensorRT-LLM's
``_executor_loop_pp`` (tensorrt_llm/_torch/pyexecutor/py_executor.py, 1.2) there are as many batches as stages, which
take turns: one is planned by what has come and sent off, then the results of the next one, if it is in flight, are
waited for. A batch that has nothing to run is passed over. A prompt that is cut goes on in the next batch, while its
chunks before are in flight. SGLang's batches have running requests of their own, over one queue and one tree;
TensorRT-LLM plans each batch from all active requests but those whose last token is in flight, and takes no memory
from what is.
"""

from __future__ import annotations

from ...workloads.jit import compiled_given, compiled_part
from ..parts.drafts.verify import log_draft
from ..parts.pipeline import batches as pipeline
from ..parts.pipeline.batches import P_COUNT, P_FIRST
from ..parts.sglang import steps as sglang_steps
from ..parts.tensorrt_llm import steps as trtllm_steps
from ..step.books import Books
from ..step.lowering import Plan
from . import exact
from . import state as col
from .kv import KvRules
from .plain import write_log
from .policies import Limits
from .state import State
from .status import AGAIN, GO, STUCK

take_up = compiled_given(exact.SGLANG, trtllm_steps.take_up)(sglang_steps.take_up)
put_down = compiled_given(exact.SGLANG, trtllm_steps.put_down)(sglang_steps.put_down)
elsewhere = compiled_given(exact.SGLANG, trtllm_steps.elsewhere)(sglang_steps.elsewhere)
seen = compiled_given(exact.SGLANG, trtllm_steps.seen)(sglang_steps.seen)


@compiled_part
def send(plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, place: int) -> None:
    """Send the planned batch through the stages."""
    counters, step, pipe = st.counters, st.exact.step[0], st.pipe
    pipeline.price_stages(plan, limits, st, books, step.decodes)
    start, end = pipeline.send_through(st, books.stages, st.clocks[col.T_NOW], False)
    pipe.ends[place], pipe.sizes[place, 0] = end, 1
    pipe.ring[P_COUNT] += 1
    counters[col.C_STEPS] += 1
    counters[col.C_STRETCH] = 1
    counters[col.C_PROMPT] += int(step.prompts)
    write_log(plan, st, books, start, end, 1, step)
    st.log[counters[col.C_LOG] - 1, col.L_RUNNING] += elsewhere(st, place)
    log_draft(st)
    exact.start_step(st, kv, 1)
    step.planned = step.tries = 0


@compiled_part
def take_turn(plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, arrival: float, until: float) -> int:
    """Plan the batch whose turn it is and send it off, then wait for the next one's results."""
    clocks, step, pipe = st.clocks, st.exact.step[0], st.pipe
    place, now, before = pipe.ring[P_FIRST], st.clocks[col.T_NOW], pipe.free[0]
    take_up(st, place)
    exact.plan_next(plan, kv, st)
    step.tries += 1
    if step.planned == 1:
        send(plan, limits, kv, st, books, place)
    put_down(st, place)
    pipe.ring[P_FIRST] = place = (place + 1) % plan.stages
    clocks[col.T_NOW] = seen(st, before)
    if pipe.sizes[place, 0] == 1:
        clocks[col.T_NOW] = max(pipe.ends[place], clocks[col.T_NOW])
        take_up(st, place)
        exact.take_results(st, kv, clocks[col.T_NOW], clocks[col.T_NOW])
        put_down(st, place)
        pipe.sizes[place, 0] = 0
        pipe.ring[P_COUNT] -= 1
    elif pipe.ring[P_COUNT] == 0 and step.tries == plan.stages:
        exact.fall_idle(st)
    clocks[col.T_KNOWN] = clocks[col.T_NOW]
    clocks[col.T_BUSY] += clocks[col.T_NOW] - now
    return STUCK if step.tries > 2 * plan.stages + 2 and pipe.ring[P_COUNT] == 0 else AGAIN


@compiled_part
def rest_all(plan: Plan, kv: KvRules, st: State) -> None:
    """`exact.rest` of every batch."""
    for place in range(plan.stages):
        take_up(st, place)
        exact.plan_next(plan, kv, st)
        put_down(st, place)
    st.exact.step[0].tries = 0
    exact.fall_idle(st)


@compiled_part
def not_yet(plan: Plan, limits: Limits, kv: KvRules, st: State) -> int:
    """Results are waited for with a step."""
    return GO


flies = compiled_given("st.pipe", otherwise=exact.flies)(pipeline.flies)
prepare = compiled_given("st.pipe", otherwise=exact.prepare)(
    compiled_given("st.exact", otherwise=pipeline.prepare)(not_yet)
)
take_step = compiled_given("st.pipe", otherwise=exact.take_step)(
    compiled_given("st.exact", otherwise=pipeline.take_step)(take_turn)
)
rest = compiled_given("st.pipe", otherwise=exact.rest)(compiled_given("st.exact", otherwise=exact.rest)(rest_all))
