"""TensorRT-LLM's plan of the next step: first the requests with enough memory, then those within the token limit.

(`CapacityScheduler` in capacityScheduler.cpp, `MicroBatchScheduler` in microBatchScheduler.cpp, `_schedule` in
py_executor.py.) Active requests stay in the order of arrival, including paused ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....workloads.jit import compiled_inside, compiled_part, int64
from ...engine import hooks
from ...engine.counting import clear_sums, count_decodes, count_prompt, count_tokens, unbounded
from ...engine.kv import blocks_of
from ...engine.state import I8, State, count_hits
from .blocks import begin, end, first_new, mark, take_block
from .rules import Trtllm


@compiled_inside
def decodes(request: Any) -> bool:
    """Return whether all of a request's prompt is computed or in flight."""
    return bool(request.covered > 0 and request.cached >= request.target)


@compiled_inside
def brought(request: Any) -> bool:
    """Return whether a request that has not started here has a transferred KV cache: it decodes at once."""
    return bool(request.covered == 0 and request.cached > 0)


@compiled_inside
def results_pending(trtllm: Trtllm, request: Any) -> bool:
    """Return whether a batch in flight contains a request."""
    return bool(trtllm.flights.sizes.size > 0 and request.in_flight > 0)


@compiled_part
def take_active(state: State, trtllm: Trtllm, rank_index: int) -> None:
    """Remove finished requests, and add waiting ones up to the limit of active requests."""
    rank, remaining = state.ranks[rank_index], 0
    for j in range(rank.running):
        i = state.running[rank_index, j]
        if state.requests[i].order < 0:
            state.running[rank_index, remaining] = i
            remaining += 1
    while rank.head >= 0 and remaining < trtllm.rules.active:
        i = rank.head
        state.running[rank_index, remaining] = i
        remaining += 1
        rank.head = state.requests[i].next
        if rank.head < 0:
            rank.tail = -1
        rank.waiting -= 1
    rank.running = remaining


@compiled_part
def tell_cut(state: State, trtllm: Trtllm, rank: int) -> int:
    """Record the content that prompts being cut will make available to others; return their number."""
    told = int64(0)
    if not trtllm.rules.reuse:
        return 0
    for j in range(state.ranks[rank].running):
        i = state.running[rank, j]
        request = state.requests[i]
        if request.covered > 0 and not decodes(request):
            key, parent = first_new(state, trtllm, rank, i, request.input + request.generated)
            if key != 0:
                trtllm.told[0, told], trtllm.told[1, told] = key, parent
                told += 1
    return int(told)


@compiled_part
def better_later(state: State, trtllm: Trtllm, rank: int, index: int, told: int) -> tuple[bool, int]:
    """Return whether a new prompt waits for content that another prompt computes now, and the number of recorded contents.

    (`beneficialToSkip`.)
    """
    request = state.requests[index]
    if not trtllm.rules.reuse or request.covered > 0 or brought(request):
        return False, told
    key, parent = first_new(state, trtllm, rank, index, request.input + request.generated)
    if key == 0:
        return False, told
    for k in range(told):
        if trtllm.told[0, k] == key and trtllm.told[1, k] == parent:
            return True, told
    trtllm.told[0, told], trtllm.told[1, told] = key, parent
    return False, told + 1


@compiled_inside
def to_the_end(state: State, index: int, block: int) -> int:
    """Return the blocks that a request still needs until its end (`getRemainingBlocksToCompletion`)."""
    most = state.requests[index].input + state.requests[index].output + hooks.drafts_of(state)
    return int(blocks_of(most, block) - state.contents[index].blocks)


@compiled_part
def choose_safe(state: State, trtllm: Trtllm, rank: int) -> None:
    """Choose requests by GUARANTEED_NO_EVICT: running ones, and prompts with enough memory for the whole request."""
    wanted, size, block = trtllm.wanted[rank], state.ranks[rank].running, trtllm.rules.block
    told, left = tell_cut(state, trtllm, rank), trtllm.ranks[rank].free
    for j in range(size):
        i = state.running[rank, j]
        wanted[j] = decodes(state.requests[i])
        if wanted[j]:
            left -= to_the_end(state, i, block)
    for j in range(size):
        i = state.running[rank, j]
        if wanted[j]:
            continue
        later, told = better_later(state, trtllm, rank, i, told)
        if later:
            continue
        need = to_the_end(state, i, block)
        if need > left:
            return
        left -= need
        wanted[j] = 1


@compiled_inside
def next_blocks(request: Any, block: int, drafts: int, steps: int) -> int:
    """Return the blocks that a request's next steps need (`getNeededBlocksOneStep`)."""
    if request.covered == 0:
        return blocks_of(request.target + brought(request) * (1 + drafts), block)
    if not decodes(request):
        return 0
    room = request.covered
    most = request.input + request.output - room
    return blocks_of(room + min(steps * (1 + drafts), most + drafts), block) - blocks_of(room, block)


@compiled_inside
def keeps(trtllm: Trtllm, request: Any) -> bool:
    """Return whether a request cannot be paused: it has no memory, or is in flight."""
    return bool(request.covered == 0 or results_pending(trtllm, request))


@compiled_part
def choose_all(state: State, trtllm: Trtllm, rank: int) -> None:
    """Choose requests by MAX_UTILIZATION: those whose next step has memory; the latest are paused for earlier ones."""
    wanted, block = trtllm.wanted[rank], trtllm.rules.block
    told, free, taken = tell_cut(state, trtllm, rank), trtllm.ranks[rank].free, int64(0)
    stop, j = state.ranks[rank].running, int64(0)
    for k in range(stop):
        wanted[k] = 0
    while j < stop:
        i = state.running[rank, j]
        later, told = better_later(state, trtllm, rank, i, told)  # checked again after each pause
        need = next_blocks(state.requests[i], block, hooks.drafts_of(state), trtllm.rules.looks)
        if later:
            j += 1
        elif taken + need <= free:
            taken += need
            wanted[j] = 1
            j += 1
        else:
            k = stop - 1
            while k >= j and keeps(trtllm, state.requests[state.running[rank, k]]):
                k -= 1
            if k < j:
                return
            free += mark(state, trtllm, rank, state.running[rank, k])
            wanted[k], stop = -1, k


@compiled_part
def pause(state: State, trtllm: Trtllm, rank: int) -> None:
    """Pause the requests that must free memory, the latest first; all their tokens become their prompt."""
    for j in range(state.ranks[rank].running - 1, -1, -1):
        if trtllm.wanted[rank, j] >= 0:
            continue
        i = state.running[rank, j]
        request = state.requests[i]
        request.target = request.input + request.generated
        end(state, trtllm, rank, i, request.target - 1)
        request.cached = 0
        request.preempted += 1
        state.counters[0].preemptions += 1
        hooks.on_preempted(state, i)


@compiled_inside
def cut_to(tokens: int, room: int, block: int) -> int:
    """Return the tokens of a prompt in a step with `room` tokens left: all, or a multiple of the block size."""
    return int(tokens if tokens <= room else room // block * block)


@compiled_part
def choose_tokens(state: State, trtllm: Trtllm, rank: int) -> tuple[int, int, int]:
    """Choose the tokens of each request in the step; return the number of prompts, their total tokens, and the decodes."""
    rules, wanted, fresh = trtllm.rules, trtllm.wanted[rank], state.fresh[rank]
    size, tokens, cut, rank_tokens = state.ranks[rank].running, int64(0), int64(0), int64(0)
    running, prompts, more = int64(0), int64(0), 1 + hooks.drafts_of(state)
    for j in range(size):
        fresh[j] = 0
    for j in range(size):
        request = state.requests[state.running[rank, j]]
        if wanted[j] != 1 or (results_pending(trtllm, request) and decodes(request)):
            continue  # its last token is in flight
        if decodes(request) or brought(request):
            if tokens + more > rules.tokens:
                break
            fresh[j] = more
            tokens += more
            running += 1
        elif rules.chunked:
            fresh[j] = request.target - request.cached
            cut += fresh[j]
            prompts += 1
        else:
            target, room = request.input + request.generated, rules.tokens - tokens
            fresh[j] = request.target
            if target > rules.tokens:  # TensorRT-LLM rejects such a prompt
                target = fresh[j] = cut_to(request.target - request.cached, room, rules.block)
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
            request = state.requests[state.running[rank, j]]
            if fresh[j] == 0 or decodes(request) or brought(request):
                continue
            fresh[j] = cut_to(fresh[j], left, rules.block)
            left -= fresh[j]
            prompts += fresh[j] > 0
    if rules.wait_steps > 0:
        for j in range(size):
            request = state.requests[state.running[rank, j]]
            if fresh[j] > 0 and not decodes(request) and not brought(request):
                rank_tokens += request.input + request.generated
    return int(prompts), int(rank_tokens), int(running)


@compiled_part
def drop_prompts(state: State, rank: int) -> None:
    """Postpone a rank's prompts to the next step."""
    for j in range(state.ranks[rank].running):
        request = state.requests[state.running[rank, j]]
        if not decodes(request) and not brought(request):
            state.fresh[rank, j] = 0


@compiled_part
def allocate(state: State, trtllm: Trtllm, windows: I8, rank: int, known: float) -> None:
    """Allocate the blocks of the planned requests, prompts first, and add their tokens to the sums of the step."""
    size, block = state.ranks[rank].running, trtllm.rules.block
    for j in range(size):
        i, tokens = state.running[rank, j], state.fresh[rank, j]
        request = state.requests[i]
        if tokens == 0 or decodes(request):
            continue
        if brought(request):
            begin(state, trtllm, rank, i)
            state.requests[i].scheduled = known
            continue
        if request.covered == 0:
            reused = begin(state, trtllm, rank, i)
            request.cached = reused
            count_hits(state, i)
            if np.isnan(state.requests[i].scheduled):
                state.requests[i].scheduled = known
            if reused > 0 and reused + tokens < request.target:
                tokens = (reused + tokens) // block * block - reused
            tokens = min(tokens, request.target - reused)
            state.fresh[rank, j] = tokens
        hooks.on_tokens_planned(state, i, tokens)
        count_prompt(state, windows, rank, i, tokens)
    more, count, context = 1 + hooks.drafts_of(state), int64(0), int64(0)
    plain = unbounded(windows) and more == 1
    for j in range(size):
        i = state.running[rank, j]
        request, content = state.requests[i], state.contents[i]
        if state.fresh[rank, j] == 0 or not decodes(request):
            continue
        request.covered += more
        while content.blocks * block < request.covered:
            take_block(state, trtllm, rank, i)
        hooks.on_tokens_planned(state, i, more)
        if plain:
            count += 1
            context += request.cached + 1
        else:
            count_tokens(state, state.moments[rank], windows, request.cached, more)
            hooks.on_count(state, rank, request.cached, more, False)
    if plain:
        count_decodes(state.moments[rank], count, context)


@compiled_part
def wait(trtllm: Trtllm, prompts: int, tokens: int, running: int) -> bool:
    """Return whether prompts wait for more of them while others decode (`_waiting_requests`)."""
    waited = trtllm.waited[0]
    if trtllm.rules.wait_steps == 0 or prompts == 0 or running == 0:
        return False
    if waited.waited >= trtllm.rules.wait_steps or tokens + running >= trtllm.rules.wait_tokens:
        waited.waited = 0
        return False
    waited.waited += 1
    return True


@compiled_part
def wait_even(trtllm: Trtllm, places: bool, prompts: bool, running: bool) -> bool:
    """Return whether prompts wait until every rank has one (`_balance_adp_requests`)."""
    waited = trtllm.waited[0]
    if places and prompts:
        waited.waited = 0
        if running:
            if waited.batched < trtllm.rules.even_batches:
                waited.batched += 1
                return True
            waited.batched = 0
        return False
    waited.waited += 1
    if waited.waited >= trtllm.rules.even_steps or not running:
        waited.waited = 0
        return False
    return True


@compiled_part
def plan_all(state: State, trtllm: Trtllm, windows: I8, known: float) -> None:
    """Plan every rank's next step with the results known at time `known` [s]."""
    places, prompts, running, waits = True, True, True, False
    for r in range(state.ranks.shape[0]):
        clear_sums(state, r)
        take_active(state, trtllm, r)
        if trtllm.rules.evicts:
            choose_all(state, trtllm, r)
        else:
            choose_safe(state, trtllm, r)
        new, tokens, old = choose_tokens(state, trtllm, r)
        places = places and old < trtllm.rules.requests
        prompts = prompts and new > 0
        running = running and old > 0
        if state.ranks.shape[0] == 1:
            waits = wait(trtllm, new, tokens, old)
    if trtllm.rules.even:
        waits = wait_even(trtllm, places, prompts, running)
    for r in range(state.ranks.shape[0]):
        if waits:
            drop_prompts(state, r)
        if trtllm.rules.evicts:
            pause(state, trtllm, r)
        allocate(state, trtllm, windows, r, known)
