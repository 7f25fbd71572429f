"""Steps with pipeline parallelism: several batches in flight, one after another.

As in vLLM (``EngineCore.step_with_batch_queue`` in vllm/v1/engine/core.py), the scheduler plans a new batch as long as
fewer than `pp` batches are in flight; otherwise it waits for the oldest one. An empty plan counts as a batch in flight,
and the scheduler then waits for the oldest batch at once.

Without asynchronous scheduling a decode is in one batch at a time, because its next input is the token of that batch. The
next chunk of a prompt may follow the previous chunk. With asynchronous scheduling a decode is in every batch. The first
stage then waits for the last stage's tokens before its next batch (``sample_tokens`` in vllm/v1/worker/gpu_model_runner.py),
so batches do not overlap. At most `pp` batches are in flight in both cases (``max_concurrent_batches`` in
vllm/v1/executor/multiproc_executor.py). Each stage runs one batch at a time, in order, and sends its activations before it
starts the next batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....workloads.jit import compiled_code, compiled_part, int64
from ....workloads.jit_address import by_address
from ....workloads.records import Records, named, records
from ...engine import hooks
from ...engine.allocation import found_again, free_request
from ...engine.fast_forward import record_gap, stamp
from ...engine.host import most_tokens, starting, with_host_delay
from ...engine.kv import KvRules
from ...engine.plain import end_step, plan_ranks, planned_tokens, write_log
from ...engine.policies import Limits
from ...engine.queues import complete, unqueue
from ...engine.state import F8, GO, I8, State, Status
from ...step.timed import cost_step

WORK = named("request tokens cached life", "")
"""Fields of a request in a batch.

`tokens` is the number of tokens that it produces (0 or 1), or minus the number of tokens that it verifies. `cached` counts
its tokens in the KV cache after the batch, and `life` its preemptions before the batch.
"""

RING = named("first count", "")
"""Fields of the ring: index of the oldest batch in flight, and the number of batches in flight."""


@by_address
class Pipe(NamedTuple):
    """Batches in flight on P stages and R ranks, of at most B sequences each; a ring of P entries."""

    work: Records  # [P, R, B] of `WORK`
    sizes: I8  # [P, R] sequences of each batch; 0 after its results are processed
    ends: F8  # [P] time at which each batch leaves the last stage [s]
    free: F8  # [P] time at which each stage is free [s]
    ring: Records  # [1] of `RING`


def new_pipe(stages: int, ranks: int, sequences: int) -> Pipe:
    """Return an empty pipeline."""
    return Pipe(
        records((stages, ranks, sequences), WORK),
        np.zeros((stages, ranks), dtype=np.int64),
        np.zeros(stages),
        np.zeros(stages),
        records(1, RING),
    )


@compiled_part
def price_stages(limits: Limits, state: State, decodes: float) -> None:
    """Set the time of a planned batch on each stage; the host plans it once."""
    chunks, stages = state.counters[0].chunks, state.costs.stages
    for r in range(state.ranks.shape[0]):
        hooks.on_sums(state, limits, r, int64(0))
    tokens, sequences = most_tokens(state.moments), (decodes + chunks) / state.moments.shape[0]
    if state.hooks.batch_seconds.size > 0:
        hooks.batch_seconds(state, limits, decodes)
    else:
        step = state.counters[0].steps
        cost_step(state.costs, state.moments, step, int(decodes), state.chunks, chunks, True, limits.captured)
    stages[0] = with_host_delay(limits.host_delay, stages[0], tokens, sequences, chunks)
    launching = starting(limits.host_delay, tokens, chunks)
    for s in range(1, stages.size):
        stages[s] = max(stages[s], launching)


@compiled_part
def send_through(pipe: Pipe, state: State, seconds: F8, now: float, waits: bool) -> tuple[float, float]:
    """Run a planned batch through the stages; return its start and end times [s].

    With `waits`, the first stage starts only when the last stage has produced the tokens of the previous batch.
    """
    ready = max(now, pipe.free[pipe.free.size - 1 if waits else 0])
    end = start = max(hooks.begins(state, ready), ready)
    for s in range(seconds.size):
        end = max(end, pipe.free[s]) + seconds[s]
        pipe.free[s] = end
    return float(start), float(end)


@compiled_part
def send(state: State, index: int, tokens: int, ahead: bool) -> int:
    """Send `tokens` tokens of a sequence; return the number of tokens that they produce, or minus the number verified."""
    if state.hooks.send.size > 0:
        return int(hooks.send(state, index, tokens, ahead))
    request = state.requests[index]
    request.cached += tokens
    total = request.input + request.generated + request.in_flight
    brings = int64(request.cached >= total)
    if ahead:
        request.in_flight += brings
    return brings


@compiled_part
def note_work(pipe: Pipe, state: State, place: int, rank: int, ahead: bool) -> None:
    """Record the rank's planned batch and count its tokens as cached."""
    size = int64(0)
    for j in range(state.ranks[rank].running):
        i, q = state.running[rank, j], state.fresh[rank, j]
        if q == 0:
            continue
        entry = pipe.work[place, rank, size]
        entry.request, entry.tokens = i, send(state, i, q, ahead)
        entry.cached, entry.life = state.requests[i].cached, state.requests[i].preempted
        size += 1
    pipe.sizes[place, rank] = size


@compiled_part
def send_nothing(pipe: Pipe, now: float) -> None:
    """Add an empty batch to the batches in flight."""
    place = (pipe.ring[0].first + pipe.ring[0].count) % pipe.ends.size
    pipe.ends[place] = now
    pipe.ring[0].count += 1


@compiled_part
def launch(pipe: Pipe, limits: Limits, kv_rules: KvRules, state: State) -> bool:
    """Plan one more batch and start it; if nothing can run, add an empty batch and return False."""
    counters, clocks = state.counters[0], state.clocks[0]
    planned, _ = plan_ranks(limits, kv_rules, state, clocks.now, False)
    if planned_tokens(state) == 0.0:
        send_nothing(pipe, clocks.now)
        return False
    place = (pipe.ring[0].first + pipe.ring[0].count) % pipe.ends.size
    for r in range(state.ranks.shape[0]):
        note_work(pipe, state, place, r, limits.ahead)
    price_stages(limits, state, planned.decodes)
    start, end = send_through(pipe, state, state.costs.stages, clocks.now, limits.ahead)
    pipe.ends[place] = end
    pipe.ring[0].count += 1
    end_step(state, start)
    counters.steps += 1
    counters.prompt_tokens += int(planned.prompts)
    write_log(state, start, end, int64(1), planned)
    hooks.on_log(state)
    return True


@compiled_part
def tokens_landed(state: State, index: int, count: int) -> None:
    """Update a request for `count` tokens that now have timestamps, except for its end."""
    request = state.requests[index]
    if request.cached < request.target:
        request.target += count  # computed again with the other tokens
    if request.in_flight > 0:
        request.in_flight -= 1
        if request.cached > 0:
            request.noted = max(request.noted, request.cached - request.in_flight)


@compiled_part
def end_request(state: State, kv_rules: KvRules, rank: int, index: int) -> None:
    """Free the memory of a finished request, or remove it from the queue."""
    if state.requests[index].cached == 0:  # preempted while its token was in flight
        unqueue(state, rank, index)
    else:
        known = hooks.known_at_end(state, index) if state.hooks.known_at_end.size > 0 else found_again(state, index)
        free_request(state, kv_rules, rank, index, known)
    state.requests[index].in_flight = 0  # tokens planned beyond its end are discarded
    complete(state, index)


@compiled_part
def stamp_batch(state: State, kv_rules: KvRules, rank: int, work: I8, size: int, now: float) -> None:
    """Set the timestamps of one rank's part of a batch that ended at `now`."""
    gap, gaps, together = 0.0, int64(0), int64(0)
    for j in range(size):
        i, tokens = work[j].request, work[j].tokens
        if state.requests[i].generated == state.requests[i].output:
            continue  # planned beyond the end of the request
        same = work[j].life == state.requests[i].preempted
        if same and tokens >= 0:
            hooks.on_computed(state, kv_rules, rank, i, work[j].cached, now)
        if tokens == 0:
            continue  # a prompt that continues
        count = tokens
        if state.hooks.tokens_of_batch.size > 0:
            count = hooks.tokens_of_batch(state, i, tokens)
        if same and tokens < 0:
            hooks.on_computed(state, kv_rules, rank, i, state.requests[i].cached, now)
        hooks.on_tokens(state, rank, i, count)
        together += count - 1
        gap, gaps = stamp(state, i, count, now, now, gap, gaps)
        tokens_landed(state, i, count)
        if state.requests[i].generated == state.requests[i].output:
            end_request(state, kv_rules, rank, i)
    if gaps > 0:
        record_gap(state.hist, state.clocks[0], gap, gaps)
    hooks.on_together(state, together)
    hooks.on_finished(state, rank)


@compiled_part
def process_results(pipe: Pipe, state: State, kv_rules: KvRules) -> float:
    """Wait for the oldest batch, set its timestamps and remove finished requests; return its end time [s]."""
    place = pipe.ring[0].first
    now = max(pipe.ends[place], state.clocks[0].now)
    completed = state.counters[0].completed
    for r in range(state.ranks.shape[0]):
        stamp_batch(state, kv_rules, r, pipe.work[place, r], pipe.sizes[place, r], now)
        pipe.sizes[place, r] = 0
    pipe.ring[0].first = (place + 1) % pipe.ends.size
    pipe.ring[0].count -= 1
    if state.counters[0].completed == completed:
        return float(now)
    for r in range(state.ranks.shape[0]):
        remaining = 0
        for j in range(state.ranks[r].running):
            i = state.running[r, j]
            if state.requests[i].generated < state.requests[i].output:
                state.running[r, remaining] = i
                remaining += 1
        state.ranks[r].running = remaining
    return float(now)


@compiled_code
def results_pending(pipe: Pipe, state: State) -> bool:
    """Return whether any batch is in flight, including empty ones."""
    return bool(pipe.ring[0].count > 0)


@compiled_code
def prepare(pipe: Pipe, state: State, limits: Limits, kv_rules: KvRules) -> int:
    """If all arrived requests have finished, wait for the oldest batch in flight: its tokens are beyond a request's end."""
    if state.counters[0].released > state.counters[0].completed:
        return GO
    state.clocks[0].now = process_results(pipe, state, kv_rules)
    return Status.AGAIN


@compiled_code
def run_step(pipe: Pipe, state: State, limits: Limits, kv_rules: KvRules, arrival: float, until: float) -> int:
    """Plan as many batches as there are free stages, then wait for the oldest one, even beyond `until`."""
    counters, clocks, now = state.counters[0], state.clocks[0], state.clocks[0].now
    more, preempted = True, counters.preemptions
    while more and pipe.ring[0].count < state.costs.stages.size:
        more = launch(pipe, limits, kv_rules, state)
        more = more and pipe.ends[pipe.ring[0].first] > now
    if counters.preemptions == preempted and not pipe.sizes.any():
        soonest = hooks.next_event(state)
        if soonest == np.inf:
            return Status.STUCK
        clocks.now = max(process_results(pipe, state, kv_rules), min(soonest, arrival, until))
        return Status.AGAIN
    clocks.now = process_results(pipe, state, kv_rules)
    clocks.busy += clocks.now - now
    return Status.AGAIN


HOOKS = {"results_pending": results_pending, "prepare": prepare, "run_step": run_step}
