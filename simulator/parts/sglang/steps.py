"""Hooks of SGLang's scheduler: plans of all ranks, the start of a step, and its results."""

from __future__ import annotations

from ....workloads.jit import compiled_code, compiled_part, int64
from ...engine import hooks
from ...engine.exact import copy_lists
from ...engine.fast_forward import record_gap, stamp
from ...engine.kv import KvRules, blocks_of
from ...engine.queues import complete
from ...engine.state import I8, State
from . import state as sched
from .cache import count_free, give_up, keep_prompt, take_tokens
from .plan import plan_step
from .priority import preempts, queue_urgent
from .state import Sglang


@compiled_code
def plan_ranks(sglang: Sglang, state: State, kv_rules: KvRules, windows: I8, known: float) -> None:
    """Plan the next step of every rank."""
    for r in range(state.ranks.shape[0]):
        plan_step(state, sglang, windows, r, known)
        count_free(state, kv_rules, sglang, r)


@compiled_code
def start_ranks(sglang: Sglang, state: State, kv_rules: KvRules, steps: int) -> None:
    """Record the requests of the step that starts; of `steps` fast-forwarded steps, all but the last have ended."""
    place, more = state.running.shape[1] // 3, steps - 1
    for r in range(state.ranks.shape[0]):
        schedule, size, tokens = sglang.ranks[r], int64(0), state.moments[r, 0]
        if tokens > 0.0:
            for j in range(state.ranks[r].running):
                i = state.running[r, j]
                if state.fresh[r, j] == 0:
                    continue
                request = state.requests[i]
                prompt = schedule.extended == 1 and request.cached < request.target
                state.running[r, place + size] = -1 - i if prompt else i
                size += 1
                if more > 0:
                    take_tokens(state, sglang, r, i, more)
                    request.generated += more
                    state.counters[0].emitted += more
                if prompt or hooks.drafts_of(state) == 0:  # with drafts the number of accepted tokens decides
                    request.cached = request.covered
            if more > 0:
                for _ in range(more):
                    sglang.ratio[r] = max(sglang.ratio[r] - sglang.rules.decay, sglang.rules.min_ratio)
                count_free(state, kv_rules, sglang, r)
        schedule.in_flight = size
        schedule.flight_chunk = schedule.last_chunk if schedule.extended == 1 else -1


@compiled_part
def tokens_taken(state: State, sglang: Sglang, rank: int, index: int, prompt: bool) -> int:
    """Return the tokens that a step has produced for a request; free the memory of rejected drafts."""
    if prompt or state.hooks.verified.size == 0:
        return int64(1)
    request, page, content = state.requests[index], sglang.rules.page, state.contents[index]
    count = hooks.verified(state, index, request.covered - request.cached)
    back = blocks_of(request.covered, page) - blocks_of(request.cached, page)
    request.covered = request.cached
    content.blocks -= back
    sglang.tree.tops[rank].free += back
    return int64(count)


@compiled_part
def lose_last(state: State, index: int, first_end: float, now: float) -> None:
    """Correct the timestamps of a retracted request, which gets no token in the last fast-forwarded step."""
    if state.counters[0].fast_forward > 1:
        before = state.clocks[0].known
        record_gap(state.hist, state.clocks[0], first_end - state.requests[index].last, 1)
        record_gap(state.hist, state.clocks[0], now - before, -1)
        state.requests[index].last = before


@compiled_part
def take_rank(state: State, sglang: Sglang, rank: int, first_end: float, now: float) -> None:
    """Process the results of one rank: tokens, finished requests, and prompts that are cached from now on."""
    schedule, place = sglang.ranks[rank], state.running.shape[1] // 3
    gap, gaps, together = 0.0, int64(0), int64(0)
    for k in range(schedule.in_flight):
        entry = state.running[rank, place + k]
        prompt = entry < 0
        i = -1 - entry if prompt else entry
        request = state.requests[i]
        if request.order >= 0 or i == schedule.flight_chunk:
            continue  # finished before, or a prompt that continues
        if request.covered == 0:
            lose_last(state, i, first_end, now)
            continue
        count = tokens_taken(state, sglang, rank, i, prompt)
        together += count - 1
        gap, gaps = stamp(state, i, count, first_end, now, gap, gaps)
        if request.generated == request.output:
            complete(state, i)
            give_up(state, sglang, rank, i, True)
        elif prompt:
            keep_prompt(state, sglang, rank, i, request.target)
    if gaps > 0:
        record_gap(state.hist, state.clocks[0], gap, gaps)
    hooks.on_together(state, together)
    schedule.in_flight = 0


@compiled_code
def take_ranks(sglang: Sglang, state: State, kv_rules: KvRules, first_end: float, now: float) -> None:
    """Process the results of every rank."""
    for r in range(state.ranks.shape[0]):
        take_rank(state, sglang, r, first_end, now)
        count_free(state, kv_rules, sglang, r)


@compiled_part
def pages_ahead(state: State, sglang: Sglang, rank: int, steps: int) -> int:
    """Return the pages that a rank's running requests need in the next steps."""
    pages = int64(0)
    for j in range(sglang.ranks[rank].decoding):
        room = state.requests[state.running[rank, j]].covered
        pages += blocks_of(room + steps, sglang.rules.page) - blocks_of(room, sglang.rules.page)
    return int(pages)


@compiled_code
def most_steps(sglang: Sglang, state: State) -> int:
    """Return the number of steps for which one plan holds; negative if an arrival may change the plan.

    No request finishes before the last of these steps, no prompt is cut or could be admitted, and memory suffices for one
    more step, so nothing is evicted.
    """
    most, heeds = int64(1 << 40), False
    if hooks.drafts_of(state) > 0:
        return -1
    for r in range(state.ranks.shape[0]):
        schedule = sglang.ranks[r]
        if schedule.chunked >= 0 or (state.ranks[r].waiting > 0 and (schedule.full == 0 or preempts(sglang))):
            return -1
        heeds = heeds or schedule.full == 0 or preempts(sglang)
        size = schedule.decoding
        for j in range(size):
            request = state.requests[state.running[r, j]]
            if request.order >= 0:
                return -1
            results_pending = (
                sglang.rules.patch >= sched.LENGTHS and request.covered > request.input + request.generated
            )
            most = min(most, request.output - request.generated - int64(results_pending))
    for r in range(state.ranks.shape[0]):
        top, size = sglang.tree.tops[r], sglang.ranks[r].decoding
        free = top.free - (size if top.heap > 0 else 0)
        if size * (most // sglang.rules.page + 1) <= free:
            continue
        low, high, middle = int64(1), most, most
        while low < high:
            if pages_ahead(state, sglang, r, middle) <= free:
                low = middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        most = low
    return int(-most if heeds else most)


@compiled_code
def fall_idle(sglang: Sglang, state: State) -> None:
    """Reset the estimate of output tokens (`self_check_during_idle`)."""
    for r in range(sglang.ratio.size):
        sglang.ratio[r] = sglang.rules.init_ratio


@compiled_code
def rank_for(sglang: Sglang, state: State) -> int:
    """Return the rank of the next request: ranks take requests in turn (`load_balance_method` round_robin)."""
    return int(state.counters[0].released % sglang.ratio.size)


@compiled_code
def take_up(sglang: Sglang, state: State, place: int) -> None:
    """Load one of the batches: copy its saved state to where plans read it."""
    for r in range(state.ranks.shape[0]):
        saved, chunked = sglang.turns.own[place, r], sglang.ranks[r].chunked
        sglang.ranks[r] = saved
        sglang.ranks[r].chunked = chunked  # common to all batches
        state.ranks[r].running = saved.running
        copy_lists(sglang.turns.running[place, r], state.running[r], saved.running, saved.in_flight)


@compiled_code
def put_down(sglang: Sglang, state: State, place: int) -> None:
    """Save the active batch, the inverse of `take_up`."""
    for r in range(state.ranks.shape[0]):
        saved = sglang.turns.own[place, r]
        sglang.turns.own[place, r] = sglang.ranks[r]
        saved.running = state.ranks[r].running
        copy_lists(state.running[r], sglang.turns.running[place, r], saved.running, saved.in_flight)


@compiled_code
def seen(sglang: Sglang, state: State, before: float, after: float) -> float:
    """Return the present time: the scheduler waits for results as soon as a batch has been sent."""
    return float(state.clocks[0].now)


@compiled_code
def elsewhere(sglang: Sglang, state: State, place: int) -> int:
    """Return the number of requests that run in the other batches."""
    turns, more = sglang.turns, int64(0)
    for other in range(turns.own.shape[0]):
        for r in range(state.ranks.shape[0]):
            if other != place:
                more += turns.own[other, r].running
    return int(more)


HOOKS = {
    "plan_next": plan_ranks, "on_start": start_ranks, "take_results": take_ranks, "most_steps": most_steps,
    "rank_for": rank_for, "on_idle": fall_idle, "take_up": take_up, "put_down": put_down, "elsewhere": elsewhere,
    "seen": seen, "queue": queue_urgent,
}  # fmt: skip
BRINGS = (HOOKS,)
