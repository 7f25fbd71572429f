"""TensorRT-LLM's executor step by step: plans of all ranks, what starts, and what results change."""

from __future__ import annotations

from ....workloads.jit import compiled_code, compiled_part, int64
from ...batching import hooks
from ...batching import state as col
from ...batching.clients import complete, lightest_rank
from ...batching.exact_state import copy_lists
from ...batching.kv import KvRules, blocks_of
from ...batching.state import I8, State
from ...batching.stretch import record_gap, stamp
from .blocks import count_free, end, give_back, store, take_block
from .plan import decodes, flies, plan_all
from .state import T_FLIGHT, T_FREE, W_WAITED, Trtllm


@compiled_code
def plan_ranks(x: Trtllm, st: State, kv: KvRules, windows: I8, known: float) -> None:
    """Plan the next step of every rank."""
    plan_all(st, x, windows, known)
    for r in range(st.ranks.shape[0]):
        count_free(st, kv, x, r)


@compiled_code
def start_ranks(x: Trtllm, st: State, kv: KvRules, steps: int) -> None:
    """Note what the step that starts holds; of `steps` steps, that all but the last have ended.

    Of a request in flight the first list has it, and the second 0 for a decode, 1 for a prompt that
    ends in this step and 2 for one that goes on.
    """
    place, more = st.running.shape[1] // 3, steps - 1
    for r in range(st.ranks.shape[0]):
        size = int64(0)
        for j in range(st.ranks[r, col.R_RUNNING]):
            i, tokens = st.running[r, j], st.fresh[r, j]
            if tokens == 0:
                continue
            request = st.ints[i]
            prompt = request[col.I_CACHED] < request[col.I_TARGET]
            if prompt or hooks.drafts_of(st) == 0:  # else what is accepted says
                request[col.I_CACHED] += tokens
            kind = int64(0)
            if prompt:
                kind = int64(1 if request[col.I_CACHED] >= request[col.I_TARGET] else 2)
            st.running[r, place + size], st.running[r, 2 * place + size] = i, kind
            size += 1
            request[col.I_FLIGHT] += 1
            if more > 0:
                request[col.I_ROOM] += more
                while request[col.I_BLOCKS] * x.rules.block < request[col.I_ROOM]:
                    take_block(st, x, r, i)
                request[col.I_CACHED] += more
                request[col.I_GENERATED] += more
                st.counters[col.C_EMITTED] += more
        x.ranks[r, T_FLIGHT] = size
        if more > 0:
            count_free(st, kv, x, r)
    if x.rules.even and more > 0:  # as `wait_even` counts plans without prompts
        x.waited[W_WAITED] = (x.waited[W_WAITED] + more) % x.rules.even_steps


@compiled_part
def tokens_taken(st: State, x: Trtllm, r: int, i: int, prompt: bool) -> int:
    """Tokens that a step has brought a request; blocks of rejected drafts are free again."""
    if prompt or st.hooks.verified.size == 0:
        return int64(1)
    request = st.ints[i]
    count = hooks.verified(st, i, request[col.I_ROOM] - request[col.I_CACHED])
    request[col.I_ROOM] = request[col.I_CACHED]
    give_back(st, x, r, i, blocks_of(request[col.I_ROOM], x.rules.block))
    return int64(count)


@compiled_part
def take_rank(st: State, x: Trtllm, r: int, first_end: float, now: float) -> None:
    """Process the results of one rank: tokens, ends, and prompts that others can find from now on."""
    own, place = x.ranks[r], st.running.shape[1] // 3
    gap, gaps, together = 0.0, int64(0), int64(0)
    for k in range(own[T_FLIGHT]):
        i, kind = st.running[r, place + k], st.running[r, 2 * place + k]
        request = st.ints[i]
        paused = request[col.I_ROOM] == 0
        request[col.I_FLIGHT] -= 1
        if request[col.I_ORDER] >= 0 or kind == 2 or (kind == 1 and paused):
            continue  # ended before, or a prompt that goes on or begins anew
        count = tokens_taken(st, x, r, i, kind > 0)
        together += count - 1
        gap, gaps = stamp(st, i, count, first_end, now, gap, gaps)
        if request[col.I_GENERATED] == request[col.I_OUTPUT]:
            complete(st, i)
            if not paused:
                known = request[col.I_INPUT] + request[col.I_GENERATED] - 1
                end(st, x, r, i, min(known, request[col.I_HASHED]))
    if gaps > 0:
        record_gap(st.hist, st.clocks, gap, gaps)
    hooks.on_together(st, together)
    for k in range(own[T_FLIGHT]):
        i, kind = st.running[r, place + k], st.running[r, 2 * place + k]
        request = st.ints[i]
        if kind > 0 and decodes(request) and not (kind == 2 and flies(x, request)):
            store(st, x, r, i, min(request[col.I_INPUT] + request[col.I_GENERATED] - 1, request[col.I_HASHED]))
    own[T_FLIGHT] = 0


@compiled_code
def take_ranks(x: Trtllm, st: State, kv: KvRules, first_end: float, now: float) -> None:
    """Process the results of every rank."""
    for r in range(st.ranks.shape[0]):
        take_rank(st, x, r, first_end, now)
        count_free(st, kv, x, r)


@compiled_part
def blocks_ahead(st: State, x: Trtllm, r: int, steps: int) -> int:
    """Return the blocks that a rank's requests need in the next steps."""
    blocks = int64(0)
    for j in range(st.ranks[r, col.R_RUNNING]):
        room = st.ints[st.running[r, j], col.I_ROOM]
        if room > 0 and st.fresh[r, j] > 0:
            blocks += blocks_of(room + steps, x.rules.block) - blocks_of(room, x.rules.block)
    return int(blocks)


@compiled_code
def most_steps(x: Trtllm, st: State) -> int:
    """Steps of one plan; below 0 where an arrival may change it.

    None ends before the last of them, and no prompt waits that could begin before. What is blocked by
    memory that is kept for others, or by a step's tokens, is so until one ends.
    """
    most, heeds = int64(1 << 40), False
    if hooks.drafts_of(st) > 0:
        return -1
    waits = x.rules.evicts or x.rules.wait_steps > 0 or x.rules.even
    for r in range(st.ranks.shape[0]):
        size = st.ranks[r, col.R_RUNNING]
        for j in range(size):
            request = st.ints[st.running[r, j]]
            if request[col.I_ORDER] >= 0:
                return -1
            if st.fresh[r, j] == 0:
                if waits or decodes(request):
                    return -1
                continue  # blocked until a request ends
            most = min(most, request[col.I_OUTPUT] - request[col.I_GENERATED])
        heeds = heeds or size < x.rules.requests
        if x.rules.even and (st.ranks[r, col.R_WAITING] > 0 or size == 0):
            return -1
    for r in range(st.ranks.shape[0]):
        free, size = x.ranks[r, T_FREE], st.ranks[r, col.R_RUNNING]
        if size * (most // x.rules.block + 1) <= free:
            continue
        low, high, middle = int64(1), most, most
        while low < high:
            if blocks_ahead(st, x, r, middle) <= free:
                low = middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        most = low
    return int(-most if heeds else most)


@compiled_code
def rank_for(x: Trtllm, st: State) -> int:
    """The rank with the fewest requests takes the next."""
    return lightest_rank(st, 1)


@compiled_code
def take_up(x: Trtllm, st: State, place: int) -> None:
    """Look at one of the batches in flight: what it holds comes to where results are taken from."""
    for r in range(st.ranks.shape[0]):
        x.ranks[r, T_FLIGHT] = x.flights.sizes[place, r]
        copy_lists(x.flights.running[place, r], st.running[r], 0, x.ranks[r, T_FLIGHT])


@compiled_code
def put_down(x: Trtllm, st: State, place: int) -> None:
    """`take_up` the other way round."""
    for r in range(st.ranks.shape[0]):
        x.flights.sizes[place, r] = x.ranks[r, T_FLIGHT]
        copy_lists(st.running[r], x.flights.running[place, r], 0, x.ranks[r, T_FLIGHT])


@compiled_code
def seen(x: Trtllm, st: State, before: float, after: float) -> float:
    """Before it takes results the executor waits for the first stage's work (`sampler_event`) on the batch before, or on this."""
    return float(max(after if x.rules.serial else before, st.clocks[col.T_NOW]))


HOOKS = {
    "plan_next": plan_ranks, "on_start": start_ranks, "take_results": take_ranks, "most_steps": most_steps,
    "rank_for": rank_for, "take_up": take_up, "put_down": put_down, "seen": seen,
}  # fmt: skip
BRINGS = (HOOKS,)
