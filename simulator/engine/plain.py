"""Steps of the plain scheduler: plan, cost, set timestamps and finish, one step at a time.

Between two changes of the batch (arrival, admission, completion, a block that might be missing) decode steps differ
only in context. They are fast-forwarded: planned once, costed step by step, timestamped at the end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...workloads.batch import DECODES, PREFILL_TOKENS, TOKENS
from ...workloads.jit import compiled_inside, compiled_part, int64
from ..step.timed import joules_of
from . import hooks
from .allocation import allocate, drop_late
from .fast_forward import count_steps, fast_forward, fast_forward_limit, last_start, record_gap, same_plan, stamp
from .host import most_tokens, with_host_delay
from .kv import KvRules
from .planning import hold_back, plan_rank
from .policies import Limits
from .queues import complete, release
from .state import NUM_LOG, LogColumn, State, Status


@compiled_inside
def end_step(state: State, start: float) -> None:
    """Notify parts that a step that began at `start` [s] has ended, and for how long experts have used the host link so far."""
    if state.hooks.after_step.size > 0:
        hooks.after_step(state, hooks.host_link_s(state), start)


@compiled_inside
def run_steps(
    limits: Limits, state: State, most: int, cut: float, decodes: float, chunks: int
) -> tuple[float, float, int]:
    """Run the steps of one plan by a part's rule; default: `fast_forward`."""
    if state.hooks.run_steps.size > 0:
        return hooks.run_steps(state, limits, most, cut, decodes, chunks)  # type: ignore[no-any-return]
    return fast_forward(limits, state, most, cut, decodes, chunks)


@compiled_inside
def tokens_come(state: State, index: int, tokens: int, steps: int) -> int:
    """Process `tokens` computed tokens of a sequence in each of `steps` steps; return the emitted tokens: one per step."""
    if state.hooks.tokens_come.size > 0:
        return int(hooks.tokens_come(state, index, tokens, steps))
    request = state.requests[index]
    left = request.target - request.cached
    request.cached += tokens if left > 0 else steps
    return 0 if tokens < left else 1 if left > 0 else steps


@compiled_part
def finish(
    state: State, kv_rules: KvRules, rank_index: int, steps: int, first_end: float, now: float, ahead: bool
) -> None:
    """Set the timestamps of a rank's sequences after `steps` steps that ended at `now`; retire finished ones.

    The first of the steps ended at `first_end`: the gaps of its tokens start at each sequence's previous token. The
    caller records the gaps within the fast-forwarded steps.
    """
    rank, remaining, gap, gaps, together = state.ranks[rank_index], 0, 0.0, int64(0), int64(0)
    first_late, places = state.running.shape[1] // 3, 2 * state.running.shape[1] // 3
    for j in range(rank.running):
        i, q = state.running[rank_index, j], state.fresh[rank_index, j]
        request = state.requests[i]
        state.running[rank_index, remaining] = i
        remaining += 1
        count = tokens_come(state, i, q, steps) if q > 0 else 0
        if count == 0:
            continue  # not scheduled, or a prompt with further chunks
        if request.cached > request.covered:
            allocate(state, kv_rules, rank_index, i, request.cached)
        hooks.on_tokens(state, rank_index, i, count)
        together += count - 1
        gap, gaps = stamp(state, i, count, first_end, now, gap, gaps)
        if request.generated < request.output:
            continue
        remaining -= 1
        state.running[rank_index, first_late + rank.late] = i
        state.running[rank_index, places + rank.late] = remaining
        rank.late += 1
        complete(state, i)
    if gaps > 0:
        record_gap(state.hist, state.clocks[0], gap, gaps)
    hooks.on_together(state, together)
    state.clocks[0].kv_peak = max(state.clocks[0].kv_peak, kv_rules.capacity - state.free[rank_index])
    rank.running = remaining
    hooks.on_finished(state, rank_index)
    if not ahead:
        drop_late(state, kv_rules, rank_index)


class Planned(NamedTuple):
    """Totals of a planned step over all ranks."""

    prompts: float  # tokens of prompts
    decodes: float
    used: float  # KV bytes in use


@compiled_part
def write_log(state: State, start: float, end: float, steps: int, planned: Planned) -> None:
    """Append fast-forwarded steps to the log."""
    busy = state.costs.busy
    row = state.log[state.counters[0].logged]
    row[LogColumn.START], row[LogColumn.END], row[LogColumn.STEPS] = start, end, steps
    row[LogColumn.DECODES], row[LogColumn.PREFILL], row[LogColumn.PROMPTS] = (
        planned.decodes,
        planned.prompts,
        state.counters[0].chunks,
    )
    row[LogColumn.RUNNING], row[LogColumn.WAITING], row[LogColumn.KV] = 0.0, 0.0, planned.used
    row[LogColumn.EMITTED], row[LogColumn.JOULES] = state.counters[0].emitted, joules_of(state.costs)
    for r in range(state.ranks.shape[0]):
        row[LogColumn.RUNNING] += state.ranks[r].running
        row[LogColumn.WAITING] += state.ranks[r].waiting
    for p in range(busy.shape[1]):
        row[NUM_LOG + p] = busy[0, p] - busy[1, p]
        busy[1, p] = busy[0, p]
    state.counters[0].logged += 1


@compiled_part
def plan_ranks(limits: Limits, kv_rules: KvRules, state: State, known: float, closed: bool) -> tuple[Planned, int]:
    """Plan the next step of every rank for time `known`; return the plan's totals and the number of preempted sequences."""
    preemptions = int64(0)
    state.counters[0].chunks = 0
    for r in range(state.ranks.shape[0]):
        hooks.before_plan(state, kv_rules, r)
        preemptions += plan_rank(state, limits, kv_rules, state.costs.windows, r, known, closed)
        hooks.on_plan(state, r, known)
    state.counters[0].preemptions += preemptions
    return planned_of(kv_rules, state), preemptions


@compiled_part
def planned_of(kv_rules: KvRules, state: State) -> Planned:
    """Sum the planned step over all ranks, and record the peak of KV memory."""
    prompts, decodes, used = 0.0, 0.0, 0.0
    for r in range(state.ranks.shape[0]):
        prompts += state.moments[r, PREFILL_TOKENS]
        decodes += state.moments[r, DECODES]
        used += kv_rules.capacity - state.free[r]
        state.clocks[0].kv_peak = max(state.clocks[0].kv_peak, kv_rules.capacity - state.free[r])
    return Planned(prompts, decodes, used)


@compiled_part
def planned_tokens(state: State) -> float:
    """Return the number of tokens in the planned step, over all ranks."""
    tokens = 0.0
    for r in range(state.moments.shape[0]):
        tokens += state.moments[r, TOKENS]
    return tokens


@compiled_part
def most_alike(state: State, limits: Limits, kv_rules: KvRules, closed: bool) -> int:
    """Return the number of steps for which the present plan stays valid."""
    k = min(fast_forward_limit(state, kv_rules, limits.token_budget), same_plan(state, limits, closed))
    return int(min(k, hooks.alike(state, limits, kv_rules)))


@compiled_part
def wait_for(state: State, changed: bool, start: float, arrival: float, until: float) -> int:
    """Handle an empty plan: return `Status.AGAIN` for another plan, or the reason why `advance` returns."""
    clocks, soonest = state.clocks[0], hooks.next_event(state)
    if changed or clocks.known < start:
        clocks.known = start  # the step in flight is over: plan again with what is free now
        return Status.AGAIN
    if soonest == np.inf:
        return Status.STUCK
    soonest = min(soonest, arrival)
    if not soonest < until:
        return Status.REACHED
    clocks.now = clocks.known = max(soonest, start)
    return Status.AGAIN


@compiled_part
def drop_all_late(kv_rules: KvRules, state: State) -> None:
    """Free, on all ranks, the memory of sequences that had ended before the latest plan without the plan knowing it."""
    for r in range(state.ranks.shape[0]):
        drop_late(state, kv_rules, r)


@compiled_part
def may_look(limits: Limits, state: State, until: float) -> bool:
    """Set the time up to which the next plan knows of arrivals; return whether all of these have been submitted."""
    clocks = state.clocks[0]
    if not limits.ahead or state.costs.stages.size > 1:
        clocks.known = clocks.now
    hooks.on_time(state)
    return bool(limits.poll_steps <= 1 or clocks.now < until)


@compiled_part
def poll_arrivals(limits: Limits, kv_rules: KvRules, state: State) -> float:
    """Queue arrived requests if a poll is due; return the next arrival time [s] (infinity: none, or no poll)."""
    counters = state.counters[0]
    idle, poll = counters.released == counters.completed, limits.poll_steps
    if not idle and poll > 1 and counters.poll < poll:
        return np.inf
    counters.poll = 0
    return release(state, limits, kv_rules, state.clocks[0].known)


@compiled_part
def calm_until(limits: Limits, state: State, steps: int, decodes: float) -> float:
    """Return a time before which `steps` decode steps cannot end, with a margin for rounding; 0: unknown."""
    if steps == 0 or hooks.next_event(state) < np.inf:
        return 0.0
    least = with_host_delay(
        limits.host_delay, state.costs.least[0], most_tokens(state.moments), decodes / state.moments.shape[0], 0
    )
    return float(state.clocks[0].now + steps * least * (1.0 - 1e-9))


@compiled_part
def run_step(limits: Limits, kv_rules: KvRules, state: State, arrival: float, until: float) -> int:
    """Plan the next step and run it as long as the plan stays valid; return `Status.AGAIN` or the reason to stop."""
    counters, clocks, ranks = state.counters[0], state.clocks[0], state.ranks
    start = clocks.now
    closed, late = hold_back(state, limits, kv_rules), int64(0)
    planned, preemptions = plan_ranks(limits, kv_rules, state, clocks.known, closed)
    for r in range(ranks.shape[0]):
        late += ranks[r].late
        drop_late(state, kv_rules, r)
    if planned_tokens(state) == 0.0:
        return wait_for(state, late > 0 or preemptions > 0, start, arrival, until)
    chunks, k = counters.chunks, int64(1)
    if chunks == 0 and preemptions == 0 and late == 0:
        k = most_alike(state, limits, kv_rules, closed)
    clocks.now = start = max(hooks.begins(state, start), start)
    cut = last_start(state, limits, arrival, until)
    first_end, now, done = run_steps(limits, state, k, cut, planned.decodes, chunks)
    clocks.now = now
    clocks.busy += now - start
    counters.fast_forward = done
    hooks.on_time(state)
    end_step(state, start)
    write_log(state, start, now, done, planned)
    hooks.on_log(state)
    counters.prompt_tokens += int(planned.prompts)
    count_steps(state, limits, done, chunks)
    for r in range(ranks.shape[0]):
        finish(state, kv_rules, r, done, first_end, now, limits.ahead)
    clocks.calm = min(calm_until(limits, state, k - done, planned.decodes), arrival)
    state.log[counters.logged - 1, LogColumn.EMITTED] = counters.emitted
    return Status.AGAIN
