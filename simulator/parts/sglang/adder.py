"""Admission of prompts to a step by SGLang: the budgets of `PrefillAdder`, and the order of the queue.

(sglang/srt/managers/schedule_policy.py, 0.5.9 to 0.5.23.) Requests ask for exactly the number of tokens that they
generate, as in benchmarks (`max_new_tokens` with `ignore_eos`).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from ....workloads.jit import compiled_inside, compiled_part, int64
from ...engine.kv import blocks_of
from ...engine.state import F8, State
from . import state as sched
from .cache import use_prefix
from .radix import common_tokens, lock, match
from .state import Sglang

Attempt = IntEnum("Attempt", "GO_ON NO_TOKEN OTHER", start=0)
"""Results of an attempt to add a request: continue with the next request, or stop because of memory or another budget."""


@compiled_inside
def available(sglang: Sglang, rank: int) -> int:
    """Return the number of tokens that are free or can be evicted."""
    return int((sglang.tree.tops[rank].free + sglang.tree.tops[rank].evictable) * sglang.rules.page)


@compiled_part
def open_budgets(state: State, sglang: Sglang, rank: int) -> None:
    """Set the token and memory budgets of a new step."""
    rules, adder = sglang.rules, sglang.adder[0]
    size, mixed, pages, sum_ = sglang.ranks[rank].decoding, int64(0), int64(0), 0.0
    for j in range(size):
        request = state.requests[state.running[rank, j]]
        sum_ += still_to_come(state, sglang, rank, state.running[rank, j])
        if request.order < 0 and request.covered % rules.page == 0:
            pages += 1
    if rules.mixed:
        mixed = size
    adder.input = rules.max_prefill - mixed
    adder.chunk = rules.chunk - mixed if rules.chunk > 0 else int64(1 << 60)
    adder.taken, adder.added, adder.cut, adder.states = mixed, 0, -1, -1
    adder.pages = pages if rules.mixed else 0
    sglang.offset[0] = mixed + sum_


@compiled_inside
def still_to_come(state: State, sglang: Sglang, rank: int, index: int) -> float:
    """Return the number of tokens that a running request is expected to generate."""
    left = min(state.requests[index].output - state.requests[index].generated, sched.CLIP)
    return float(left if sglang.rules.patch >= sched.LENGTHS else left * sglang.ratio[rank])


@compiled_inside
def beside(sglang: Sglang, since: int) -> int:
    """Return the extra tokens that admission adds to each prompt: a page from version `since` on, else 0."""
    return int(sglang.rules.page if sglang.rules.patch >= since else 0)


@compiled_inside
def charge(sglang: Sglang, tokens: int, answer: int) -> None:
    """Subtract a prompt's tokens and its expected output (`answer`) from the budgets of a step."""
    adder = sglang.adder[0]
    pages = blocks_of(tokens, sglang.rules.page)
    paged = pages * sglang.rules.page
    sglang.offset[0] += paged + answer + beside(sglang, sched.ROOMIER)
    adder.taken += paged + beside(sglang, sched.ROOMIER)
    adder.input -= paged
    adder.chunk -= paged
    adder.pages += pages
    adder.added += 1


@compiled_inside
def state_of(sglang: Sglang, rank: int) -> int:
    """Return whether a step can take further prompts (`GO_ON`), or the budget that is exhausted."""
    have = available(sglang, rank)
    if have - sglang.offset[0] <= 0.0 or have - sglang.adder[0].taken <= 0:
        return Attempt.NO_TOKEN
    if sglang.adder[0].input <= 0 or sglang.adder[0].chunk <= 0:
        return Attempt.OTHER
    return Attempt.GO_ON


@compiled_part
def cut_again(state: State, sglang: Sglang, rank: int, index: int) -> int:
    """Return the next tokens of the prompt that is cut into chunks, 0 if they do not fit; set `adder.cut` if some are left.

    SGLang would stop with an error if they do not fit. Here the prompt waits, and decodes continue.
    """
    request, adder = state.requests[index], sglang.adder[0]
    left = request.target - request.covered
    most = min(adder.chunk, int(available(sglang, rank) - sglang.offset[0]))
    if most <= 0:
        most = adder.chunk
    tokens = min(left, most)
    pages = blocks_of(request.covered + tokens, sglang.rules.page)
    pages -= blocks_of(request.covered, sglang.rules.page)
    if tokens <= 0 or (adder.pages + pages) * sglang.rules.page > available(sglang, rank):
        return 0
    if left > tokens:
        adder.cut = index
        charge(sglang, tokens, int64(0))
    else:
        charge(sglang, tokens, min(request.output, sched.CLIP))
    return int(tokens)


@compiled_part
def try_tokens(state: State, sglang: Sglang, rank: int, index: int, found: int) -> tuple[int, int]:
    """Return the tokens that a waiting request with a prefix of `found` can start with, and the next action."""
    request, adder, page, content = state.requests[index], sglang.adder[0], sglang.rules.page, state.contents[index]
    extend = request.target - found
    answer = min(max(request.output - request.generated, 0), sched.CLIP)
    paged, need = blocks_of(extend, page) * page, extend + answer + beside(sglang, sched.ROOMIER)
    if need >= available(sglang, rank) - sglang.offset[0]:
        return 0, Attempt.NO_TOKEN
    capped = sglang.rules.patch < sched.UNCAPPED or sglang.rules.chunk <= 0
    if capped and paged >= adder.input and adder.added > 0:
        return 0, Attempt.OTHER
    lock(sglang.tree, rank, content.slot, 1)
    if need >= available(sglang, rank) - sglang.offset[0]:
        lock(sglang.tree, rank, content.slot, -1)
        return 0, Attempt.NO_TOKEN
    tokens, answer = extend, min(request.output, sched.CLIP)
    if paged > adder.chunk:
        tokens, answer = adder.chunk // page * page, int64(0)
    short = sglang.rules.mixed and adder.pages * page + blocks_of(tokens, page) * page > available(sglang, rank)
    if tokens <= 0 or short:
        lock(sglang.tree, rank, content.slot, -1)
        return 0, Attempt.NO_TOKEN if short else Attempt.OTHER
    if tokens < extend:
        adder.cut = index
    charge(sglang, tokens, answer)
    return int(tokens), state_of(sglang, rank)


@compiled_part
def note_state(state: State, keys: F8, size: int, index: int, sorting: bool) -> int:
    """Insert a request into `keys`: its remaining output tokens, and its total tokens at present; return the new size.

    After the first of a step, SGLang inserts a request that outlasts all others before the last of them.
    """
    request = state.requests[index]
    left = request.output - request.generated
    if left <= 0:
        return size
    at = size
    if sorting:
        while at > 0 and keys[0, at - 1] > left:
            at -= 1
    else:
        at = int64(0)
        while at < size - 1 and keys[0, at] < left:
            at += 1
    for k in range(size, at, -1):
        keys[0, k], keys[1, k] = keys[0, k - 1], keys[1, k - 1]
    keys[0, at], keys[1, at] = left, request.input + request.generated
    return size + 1


@compiled_part
def try_endless(state: State, sglang: Sglang, rank: int, index: int, first: int) -> tuple[int, int]:
    """Admit a request as `try_tokens`, but without a radix tree, by the ends of running requests (`add_one_req_ignore_eos`).

    `first` is the index of the step's first prompt among the running requests.
    """
    request, adder, page, keys = state.requests[index], sglang.adder[0], sglang.rules.page, sglang.keys
    extend, have = request.target, available(sglang, rank)
    paged = blocks_of(extend, page) * page + beside(sglang, sched.ROOMY_ENDLESS)
    if paged > min(have - adder.taken, have - sglang.offset[0]):
        return 0, Attempt.NO_TOKEN
    size = adder.states
    if size < 0:
        size = note_state(state, keys, int64(0), index, True)
        for j in range(first + adder.added):
            size = note_state(state, keys, size, state.running[rank, j], True)
    else:
        size = note_state(state, keys, size, index, False)
    adder.states = size
    left, freed = have - adder.taken - paged, 0.0
    for k in range(size):
        many = size - k
        if left + freed - keys[0, k] * many <= many:
            return 0, Attempt.NO_TOKEN
        freed += keys[1, k]
    tokens, answer = extend, min(request.output, sched.CLIP)
    if extend > adder.chunk:
        if adder.chunk <= 0:
            return 0, Attempt.OTHER
        tokens, answer = adder.chunk, int64(0)
        adder.cut = index
    charge(sglang, tokens, answer)
    return int(tokens), state_of(sglang, rank)


@compiled_part
def try_next(state: State, sglang: Sglang, rank: int, first: int) -> tuple[int, int]:
    """Try to add the head of the queue; return its tokens in the step, and the next action."""
    i = state.ranks[rank].head
    request, content = state.requests[i], state.contents[i]
    prefix = use_prefix(state, sglang, rank, i, request.target)
    if sglang.rules.radix:
        tokens, after = try_tokens(state, sglang, rank, i, prefix)
    else:
        tokens, after = try_endless(state, sglang, rank, i, first)
    if tokens > 0:
        request.cached, content.blocks = content.keyed * sglang.rules.page, 0
    return tokens, after


@compiled_part
def sort_queue(state: State, sglang: Sglang, rank_index: int) -> None:
    """Sort a queue of up to `LPM_QUEUE` requests by cached prefix, the longest first (`calc_priority`).

    A request with a short cached prefix that shares many tokens with an earlier request of the queue is sorted last.
    """
    rank, keys, order = state.ranks[rank_index], sglang.keys, sglang.order
    if not sglang.rules.lpm or rank.waiting > sched.LPM_QUEUE:
        return
    i, size, told = rank.head, int64(0), int64(0)
    while i >= 0:
        target = state.requests[i].target
        pages, _ = match(sglang.tree, state, rank_index, i, target // sglang.rules.page, sglang.rules.page)
        key = -float(pages * sglang.rules.page)
        if key >= -sched.IN_BATCH:
            most = int64(0)
            for k in range(told):
                j = order[1, k]
                same = min(common_tokens(state, i, j), min(target, state.requests[j].target))
                most = max(most, same)
            if most >= sched.IN_BATCH:
                key = np.inf
            else:
                order[1, told] = i
                told += 1
        at = size
        while at > 0 and keys[0, at - 1] > key:
            keys[0, at], order[0, at] = keys[0, at - 1], order[0, at - 1]
            at -= 1
        keys[0, at], order[0, at] = key, i
        size += 1
        i = state.requests[i].next
    rank.head, rank.tail = order[0, 0], order[0, size - 1]
    for k in range(size):
        state.requests[order[0, k]].next = order[0, k + 1] if k + 1 < size else -1
