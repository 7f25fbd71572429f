"""Hooks of TensorRT-LLM's executor: plans of all ranks, the start of a step, and its results."""

from __future__ import annotations

from ....workloads.jit import compiled_code, compiled_part, int64
from ...engine import hooks
from ...engine.exact import copy_lists
from ...engine.fast_forward import record_gap, stamp
from ...engine.kv import KvRules, blocks_of
from ...engine.queues import complete, lightest_rank
from ...engine.state import I8, State
from .blocks import count_free, end, give_back, store, take_block
from .plan import decodes, plan_all, results_pending
from .rules import Trtllm


@compiled_code
def plan_ranks(trtllm: Trtllm, state: State, kv_rules: KvRules, windows: I8, known: float) -> None:
    """Plan the next step of every rank."""
    plan_all(state, trtllm, windows, known)
    for r in range(state.ranks.shape[0]):
        count_free(state, kv_rules, trtllm, r)


@compiled_code
def start_ranks(trtllm: Trtllm, state: State, kv_rules: KvRules, steps: int) -> None:
    """Record the requests of the step that starts; of `steps` fast-forwarded steps, all but the last have ended.

    For each request in flight, the second list of `State.running` has the request. The third list has 0 for a decode, 1 for a
    prompt that is complete after this step, and 2 for a prompt that continues.
    """
    place, more = state.running.shape[1] // 3, steps - 1
    for r in range(state.ranks.shape[0]):
        size = int64(0)
        for j in range(state.ranks[r].running):
            i, tokens = state.running[r, j], state.fresh[r, j]
            if tokens == 0:
                continue
            request, content = state.requests[i], state.contents[i]
            prompt = request.cached < request.target
            if prompt or hooks.drafts_of(state) == 0:  # with drafts the number of accepted tokens decides
                request.cached += tokens
            kind = int64(0)
            if prompt:
                kind = int64(1 if request.cached >= request.target else 2)
            state.running[r, place + size], state.running[r, 2 * place + size] = i, kind
            size += 1
            request.in_flight += 1
            if more > 0:
                request.covered += more
                while content.blocks * trtllm.rules.block < request.covered:
                    take_block(state, trtllm, r, i)
                request.cached += more
                request.generated += more
                state.counters[0].emitted += more
        trtllm.ranks[r].in_flight = size
        if more > 0:
            count_free(state, kv_rules, trtllm, r)
    if trtllm.rules.even and more > 0:  # as `wait_even` counts plans without prompts
        trtllm.waited[0].waited = (trtllm.waited[0].waited + more) % trtllm.rules.even_steps


@compiled_part
def tokens_taken(state: State, trtllm: Trtllm, rank: int, index: int, prompt: bool) -> int:
    """Return the tokens that a step has produced for a request; free the blocks of rejected drafts."""
    if prompt or state.hooks.verified.size == 0:
        return int64(1)
    request = state.requests[index]
    count = hooks.verified(state, index, request.covered - request.cached)
    request.covered = request.cached
    give_back(state, trtllm, rank, index, blocks_of(request.covered, trtllm.rules.block))
    return int64(count)


@compiled_part
def take_rank(state: State, trtllm: Trtllm, rank: int, first_end: float, now: float) -> None:
    """Process the results of one rank: tokens, finished requests, and prompts that are cached from now on."""
    schedule, place = trtllm.ranks[rank], state.running.shape[1] // 3
    gap, gaps, together = 0.0, int64(0), int64(0)
    for k in range(schedule.in_flight):
        i, kind = state.running[rank, place + k], state.running[rank, 2 * place + k]
        request, content = state.requests[i], state.contents[i]
        paused = request.covered == 0
        request.in_flight -= 1
        if request.order >= 0 or kind == 2 or (kind == 1 and paused):
            continue  # finished before, or a prompt that continues or starts again
        count = tokens_taken(state, trtllm, rank, i, kind > 0)
        together += count - 1
        gap, gaps = stamp(state, i, count, first_end, now, gap, gaps)
        if request.generated == request.output:
            complete(state, i)
            if not paused:
                known = request.input + request.generated - 1
                end(state, trtllm, rank, i, min(known, content.hashed))
    if gaps > 0:
        record_gap(state.hist, state.clocks[0], gap, gaps)
    hooks.on_together(state, together)
    for k in range(schedule.in_flight):
        i, kind = state.running[rank, place + k], state.running[rank, 2 * place + k]
        request = state.requests[i]
        if kind > 0 and decodes(request) and not (kind == 2 and results_pending(trtllm, request)):
            known = request.input + request.generated - 1
            store(state, trtllm, rank, i, min(known, state.contents[i].hashed))
    schedule.in_flight = 0


@compiled_code
def take_ranks(trtllm: Trtllm, state: State, kv_rules: KvRules, first_end: float, now: float) -> None:
    """Process the results of every rank."""
    for r in range(state.ranks.shape[0]):
        take_rank(state, trtllm, r, first_end, now)
        count_free(state, kv_rules, trtllm, r)


@compiled_part
def blocks_ahead(state: State, trtllm: Trtllm, rank: int, steps: int) -> int:
    """Return the blocks that a rank's requests need in the next steps."""
    blocks = int64(0)
    for j in range(state.ranks[rank].running):
        room = state.requests[state.running[rank, j]].covered
        if room > 0 and state.fresh[rank, j] > 0:
            blocks += blocks_of(room + steps, trtllm.rules.block) - blocks_of(room, trtllm.rules.block)
    return int(blocks)


@compiled_code
def most_steps(trtllm: Trtllm, state: State) -> int:
    """Return the number of steps for which one plan holds; negative if an arrival may change the plan.

    No request finishes before the last of these steps, and no waiting prompt could start before. A prompt that lacks memory
    or tokens stays blocked until a request finishes.
    """
    most, heeds = int64(1 << 40), False
    if hooks.drafts_of(state) > 0:
        return -1
    waits = trtllm.rules.evicts or trtllm.rules.wait_steps > 0 or trtllm.rules.even
    for r in range(state.ranks.shape[0]):
        size = state.ranks[r].running
        for j in range(size):
            request = state.requests[state.running[r, j]]
            if request.order >= 0:
                return -1
            if state.fresh[r, j] == 0:
                if waits or decodes(request):
                    return -1
                continue  # blocked until a request ends
            most = min(most, request.output - request.generated)
        heeds = heeds or size < trtllm.rules.requests
        if trtllm.rules.even and (state.ranks[r].waiting > 0 or size == 0):
            return -1
    for r in range(state.ranks.shape[0]):
        free, size = trtllm.ranks[r].free, state.ranks[r].running
        if size * (most // trtllm.rules.block + 1) <= free:
            continue
        low, high, middle = int64(1), most, most
        while low < high:
            if blocks_ahead(state, trtllm, r, middle) <= free:
                low = middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        most = low
    return int(-most if heeds else most)


@compiled_code
def rank_for(trtllm: Trtllm, state: State) -> int:
    """Return the rank of the next request: the rank with the fewest requests."""
    return lightest_rank(state, 1)


@compiled_code
def take_up(trtllm: Trtllm, state: State, place: int) -> None:
    """Load one of the batches in flight: copy its requests to where results are read."""
    for r in range(state.ranks.shape[0]):
        trtllm.ranks[r].in_flight = trtllm.flights.sizes[place, r]
        copy_lists(trtllm.flights.running[place, r], state.running[r], 0, trtllm.ranks[r].in_flight)


@compiled_code
def put_down(trtllm: Trtllm, state: State, place: int) -> None:
    """Save the active batch, the inverse of `take_up`."""
    for r in range(state.ranks.shape[0]):
        trtllm.flights.sizes[place, r] = trtllm.ranks[r].in_flight
        copy_lists(state.running[r], trtllm.flights.running[place, r], 0, trtllm.ranks[r].in_flight)


@compiled_code
def seen(trtllm: Trtllm, state: State, before: float, after: float) -> float:
    """Return the time at which the executor sees results: after the first stage's work on the batch before, or on this one.

    (`sampler_event` in py_executor.py.)
    """
    return float(max(after if trtllm.rules.serial else before, state.clocks[0].now))


HOOKS = {
    "plan_next": plan_ranks, "on_start": start_ranks, "take_results": take_ranks, "most_steps": most_steps,
    "rank_for": rank_for, "take_up": take_up, "put_down": put_down, "seen": seen,
}  # fmt: skip
BRINGS = (HOOKS,)
