"""TensorRT-LLM's next step: whose memory suffices, then who fits its tokens.

(`CapacityScheduler` in capacityScheduler.cpp, `MicroBatchScheduler` in microBatchScheduler.cpp, `_schedule`
in py_executor.py.) Active requests stay in the order in which they came, paused ones too.
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_inside, compiled_part, int64
from ...batching import hooks
from ...batching import state as col
from ...batching.counting import clear_sums, count_chunk, count_decodes, count_tokens, unbounded
from ...batching.kv import blocks_of
from ...batching.state import I8, State
from .blocks import begin, end, first_new, mark, take_block
from .state import T_FREE, W_BATCHED, W_WAITED, Trtllm


@compiled_inside
def decodes(request: I8) -> bool:
    """Whether all of a request's prompt is computed or runs."""
    return bool(request[col.I_ROOM] > 0 and request[col.I_CACHED] >= request[col.I_TARGET])


@compiled_inside
def brought(request: I8) -> bool:
    """Whether a request that has not begun here comes with its cache: it decodes at once."""
    return bool(request[col.I_ROOM] == 0 and request[col.I_CACHED] > 0)


@compiled_inside
def flies(x: Trtllm, request: I8) -> bool:
    """Whether a batch in flight has a request."""
    return bool(x.flights.sizes.size > 0 and request[col.I_FLIGHT] > 0)


@compiled_part
def take_active(st: State, x: Trtllm, r: int) -> None:
    """Drop ended requests, and take new ones as long as there is a place."""
    rank, remaining = st.ranks[r], 0
    for j in range(rank[col.R_RUNNING]):
        i = st.running[r, j]
        if st.ints[i, col.I_ORDER] < 0:
            st.running[r, remaining] = i
            remaining += 1
    while rank[col.R_HEAD] >= 0 and remaining < x.rules.active:
        i = rank[col.R_HEAD]
        st.running[r, remaining] = i
        remaining += 1
        rank[col.R_HEAD] = st.ints[i, col.I_NEXT]
        if rank[col.R_HEAD] < 0:
            rank[col.R_TAIL] = -1
        rank[col.R_WAITING] -= 1
    rank[col.R_RUNNING] = remaining


@compiled_part
def tell_cut(st: State, x: Trtllm, r: int) -> int:
    """Note what prompts that are being cut will let others find; how many there are."""
    told = int64(0)
    if not x.rules.reuse:
        return 0
    for j in range(st.ranks[r, col.R_RUNNING]):
        i = st.running[r, j]
        request = st.ints[i]
        if request[col.I_ROOM] > 0 and not decodes(request):
            key, parent = first_new(st, x, r, i, request[col.I_INPUT] + request[col.I_GENERATED])
            if key != 0:
                x.told[0, told], x.told[1, told] = key, parent
                told += 1
    return int(told)


@compiled_part
def better_later(st: State, x: Trtllm, r: int, i: int, told: int) -> tuple[bool, int]:
    """Whether a prompt that has not begun waits for what another computes now (`beneficialToSkip`)."""
    request = st.ints[i]
    if not x.rules.reuse or request[col.I_ROOM] > 0 or brought(request):
        return False, told
    key, parent = first_new(st, x, r, i, request[col.I_INPUT] + request[col.I_GENERATED])
    if key == 0:
        return False, told
    for k in range(told):
        if x.told[0, k] == key and x.told[1, k] == parent:
            return True, told
    x.told[0, told], x.told[1, told] = key, parent
    return False, told + 1


@compiled_inside
def to_the_end(request: I8, block: int, drafts: int) -> int:
    """Blocks that a request has still to take (`getRemainingBlocksToCompletion`)."""
    most = request[col.I_INPUT] + request[col.I_OUTPUT] + drafts
    return int(blocks_of(most, block) - request[col.I_BLOCKS])


@compiled_part
def choose_safe(st: State, x: Trtllm, r: int) -> None:
    """GUARANTEED_NO_EVICT: those that run, and prompts whose whole request has memory."""
    wanted, size, block = x.wanted[r], st.ranks[r, col.R_RUNNING], x.rules.block
    told, left = tell_cut(st, x, r), x.ranks[r, T_FREE]
    for j in range(size):
        request = st.ints[st.running[r, j]]
        wanted[j] = decodes(request)
        if wanted[j]:
            left -= to_the_end(request, block, hooks.drafts_of(st))
    for j in range(size):
        i = st.running[r, j]
        if wanted[j]:
            continue
        later, told = better_later(st, x, r, i, told)
        if later:
            continue
        need = to_the_end(st.ints[i], block, hooks.drafts_of(st))
        if need > left:
            return
        left -= need
        wanted[j] = 1


@compiled_inside
def next_blocks(request: I8, block: int, drafts: int, steps: int) -> int:
    """Blocks that a request's next steps take (`getNeededBlocksOneStep`)."""
    if request[col.I_ROOM] == 0:
        return blocks_of(request[col.I_TARGET] + brought(request) * (1 + drafts), block)
    if not decodes(request):
        return 0
    room = request[col.I_ROOM]
    most = request[col.I_INPUT] + request[col.I_OUTPUT] - room
    return blocks_of(room + min(steps * (1 + drafts), most + drafts), block) - blocks_of(room, block)


@compiled_inside
def keeps(x: Trtllm, request: I8) -> bool:
    """Whether no memory can be taken from a request."""
    return bool(request[col.I_ROOM] == 0 or flies(x, request))


@compiled_part
def choose_all(st: State, x: Trtllm, r: int) -> None:
    """MAX_UTILIZATION: whose next step has memory; the latest begun are paused for earlier ones."""
    wanted, block = x.wanted[r], x.rules.block
    told, free, taken = tell_cut(st, x, r), x.ranks[r, T_FREE], int64(0)
    stop, j = st.ranks[r, col.R_RUNNING], int64(0)
    for k in range(stop):
        wanted[k] = 0
    while j < stop:
        i = st.running[r, j]
        later, told = better_later(st, x, r, i, told)  # asked again after each pause
        need = next_blocks(st.ints[i], block, hooks.drafts_of(st), x.rules.looks)
        if later:
            j += 1
        elif taken + need <= free:
            taken += need
            wanted[j] = 1
            j += 1
        else:
            k = stop - 1
            while k >= j and keeps(x, st.ints[st.running[r, k]]):
                k -= 1
            if k < j:
                return
            free += mark(st, x, r, st.running[r, k])
            wanted[k], stop = -1, k


@compiled_part
def pause(st: State, x: Trtllm, r: int) -> None:
    """Pause those that memory is taken from, the latest first; their tokens become prompts."""
    for j in range(st.ranks[r, col.R_RUNNING] - 1, -1, -1):
        if x.wanted[r, j] >= 0:
            continue
        i = st.running[r, j]
        request = st.ints[i]
        request[col.I_TARGET] = request[col.I_INPUT] + request[col.I_GENERATED]
        end(st, x, r, i, request[col.I_TARGET] - 1)
        request[col.I_CACHED] = 0
        request[col.I_PREEMPTED] += 1
        st.counters[col.C_PREEMPTIONS] += 1
        hooks.on_preempted(st, i)


@compiled_inside
def cut_to(tokens: int, room: int, block: int) -> int:
    """Return the tokens of a prompt in a step with `room`: all, or whole blocks."""
    return int(tokens if tokens <= room else room // block * block)


@compiled_part
def choose_tokens(st: State, x: Trtllm, r: int) -> tuple[int, int, int]:
    """Tokens of each request in the step; prompts, tokens of these whole, and decodes."""
    rules, wanted, fresh = x.rules, x.wanted[r], st.fresh[r]
    size, tokens, cut, rank_tokens = st.ranks[r, col.R_RUNNING], int64(0), int64(0), int64(0)
    running, prompts, more = int64(0), int64(0), 1 + hooks.drafts_of(st)
    for j in range(size):
        fresh[j] = 0
    for j in range(size):
        request = st.ints[st.running[r, j]]
        if wanted[j] != 1 or (flies(x, request) and decodes(request)):
            continue  # its last token is waited for
        if decodes(request) or brought(request):
            if tokens + more > rules.tokens:
                break
            fresh[j] = more
            tokens += more
            running += 1
        elif rules.chunked:
            fresh[j] = request[col.I_TARGET] - request[col.I_CACHED]
            cut += fresh[j]
            prompts += 1
        else:
            target, room = request[col.I_INPUT] + request[col.I_GENERATED], rules.tokens - tokens
            fresh[j] = request[col.I_TARGET]
            if target > rules.tokens:  # which TensorRT-LLM refuses
                target = fresh[j] = cut_to(request[col.I_TARGET] - request[col.I_CACHED], room, rules.block)
            if target > room or target == 0:
                fresh[j] = 0
                break
            tokens += target
            prompts += 1
        if running + prompts >= rules.requests:
            break
    if rules.chunked and cut > rules.tokens - tokens:
        left, prompts = rules.tokens - tokens, int64(0)
        for j in range(size):
            request = st.ints[st.running[r, j]]
            if fresh[j] == 0 or decodes(request) or brought(request):
                continue
            fresh[j] = cut_to(fresh[j], left, rules.block)
            left -= fresh[j]
            prompts += fresh[j] > 0
    if rules.wait_steps > 0:
        for j in range(size):
            request = st.ints[st.running[r, j]]
            if fresh[j] > 0 and not decodes(request) and not brought(request):
                rank_tokens += request[col.I_INPUT] + request[col.I_GENERATED]
    return int(prompts), int(rank_tokens), int(running)


@compiled_part
def drop_prompts(st: State, r: int) -> None:
    """Let a rank's prompts wait for the next step."""
    for j in range(st.ranks[r, col.R_RUNNING]):
        request = st.ints[st.running[r, j]]
        if not decodes(request) and not brought(request):
            st.fresh[r, j] = 0


@compiled_part
def hold(st: State, x: Trtllm, windows: I8, r: int, known: float) -> None:
    """Give the planned requests their blocks, prompts first, and count them."""
    size, block = st.ranks[r, col.R_RUNNING], x.rules.block
    for j in range(size):
        i, tokens = st.running[r, j], st.fresh[r, j]
        request = st.ints[i]
        if tokens == 0 or decodes(request):
            continue
        if brought(request):
            begin(st, x, r, i)
            st.floats[i, col.F_SCHEDULED] = known
            continue
        if request[col.I_ROOM] == 0:
            reused = begin(st, x, r, i)
            request[col.I_CACHED] = reused
            st.counters[col.C_HITS] += reused
            if np.isnan(st.floats[i, col.F_SCHEDULED]):
                st.floats[i, col.F_SCHEDULED] = known
            if reused > 0 and reused + tokens < request[col.I_TARGET]:
                tokens = (reused + tokens) // block * block - reused
            tokens = min(tokens, request[col.I_TARGET] - reused)
            st.fresh[r, j] = tokens
        hooks.on_tokens_planned(st, i, tokens)
        count_chunk(st.moments[r], windows, request[col.I_CACHED], tokens)
        hooks.on_count(st, r, request[col.I_CACHED], tokens, True)
        c = st.counters[col.C_CHUNKS]
        st.chunks[0, c], st.chunks[1, c] = tokens, i
        st.counters[col.C_CHUNKS] += 1
    more, count, context = 1 + hooks.drafts_of(st), int64(0), int64(0)
    plain = unbounded(windows) and more == 1
    for j in range(size):
        i = st.running[r, j]
        request = st.ints[i]
        if st.fresh[r, j] == 0 or not decodes(request):
            continue
        request[col.I_ROOM] += more
        while request[col.I_BLOCKS] * block < request[col.I_ROOM]:
            take_block(st, x, r, i)
        hooks.on_tokens_planned(st, i, more)
        if plain:
            count += 1
            context += request[col.I_CACHED] + 1
        else:
            count_tokens(st, st.moments[r], windows, request[col.I_CACHED], more)
            hooks.on_count(st, r, request[col.I_CACHED], more, False)
    if plain:
        count_decodes(st.moments[r], count, context)


@compiled_part
def wait(x: Trtllm, prompts: int, tokens: int, running: int) -> bool:
    """Return whether prompts wait for more of them while others decode (`_waiting_requests`)."""
    waited = x.waited
    if x.rules.wait_steps == 0 or prompts == 0 or running == 0:
        return False
    if waited[W_WAITED] >= x.rules.wait_steps or tokens + running >= x.rules.wait_tokens:
        waited[W_WAITED] = 0
        return False
    waited[W_WAITED] += 1
    return True


@compiled_part
def wait_even(x: Trtllm, places: bool, prompts: bool, running: bool) -> bool:
    """Whether prompts wait until every rank has one (`_balance_adp_requests`)."""
    waited = x.waited
    if places and prompts:
        waited[W_WAITED] = 0
        if running:
            if waited[W_BATCHED] < x.rules.even_batches:
                waited[W_BATCHED] += 1
                return True
            waited[W_BATCHED] = 0
        return False
    waited[W_WAITED] += 1
    if waited[W_WAITED] >= x.rules.even_steps or not running:
        waited[W_WAITED] = 0
        return False
    return True


@compiled_part
def plan_all(st: State, x: Trtllm, windows: I8, known: float) -> None:
    """Plan every rank's next step by what is known at a time."""
    places, prompts, running, waits = True, True, True, False
    for r in range(st.ranks.shape[0]):
        clear_sums(st, r)
        take_active(st, x, r)
        if x.rules.evicts:
            choose_all(st, x, r)
        else:
            choose_safe(st, x, r)
        new, tokens, old = choose_tokens(st, x, r)
        places = places and old < x.rules.requests
        prompts = prompts and new > 0
        running = running and old > 0
        if st.ranks.shape[0] == 1:
            waits = wait(x, new, tokens, old)
    if x.rules.even:
        waits = wait_even(x, places, prompts, running)
    for r in range(st.ranks.shape[0]):
        if waits:
            drop_prompts(st, r)
        if x.rules.evicts:
            pause(st, x, r)
        hold(st, x, windows, r, known)
