"""The plan of a step: which sequences run, and how many tokens each of them computes.

One compiled function, :func:`plan_rank`, reads the data of a policy (`policies.Limits`) and the engine's state arrays.
"""

from __future__ import annotations

import numpy as np

from ...workloads.batch import TOKENS
from ...workloads.jit import compiled_inside, compiled_part, int64
from . import hooks
from .allocation import allocate, kv_bytes, note_planned, preempt_until_fits, skip, use_prefix
from .counting import clear_sums, count_decodes, count_planned, most_of_one, unbounded
from .kv import KvRules
from .policies import Limits
from .queues import leave_queue
from .state import I8, State


@compiled_part
def brings_cache(state: State, index: int) -> bool:
    """Return whether a waiting request's KV cache was transferred from another engine, so that it decodes at once."""
    return bool(state.requests[index].cached == state.requests[index].target)


@compiled_part
def next_tokens(state: State, index: int) -> int:
    """Return the known but uncomputed tokens of a running sequence, including the tokens that batches in flight will bring.

    Returns 0 if the next input token is still being computed and cannot be planned ahead (`in_flight` is 0), and if the
    tokens in flight are certainly the sequence's last ones.
    """
    if state.hooks.want.size > 0:
        return int(hooks.want(state, index))
    request = state.requests[index]
    flight = request.in_flight
    if flight > 0:
        over = request.cached + 2 - flight >= request.input + request.output
        if over:
            return 0
    return int(request.input + request.generated + flight - request.cached)


@compiled_inside
def reach(state: State, limits: Limits, index: int) -> int:
    """Return the KV slots that a sequence needs before its new tokens."""
    if state.hooks.reach.size > 0:
        return int(hooks.reach(state, limits, index))
    return int(state.requests[index].cached)


@compiled_inside
def choose(state: State, limits: Limits, kv_rules: KvRules, rank: int) -> int:
    """Return the request to admit next; -1 if there is none."""
    if state.hooks.choose.size > 0:
        return int(hooks.choose(state, limits, kv_rules, rank))
    hooks.find_head(state, rank)
    return int(state.ranks[rank].head)


@compiled_inside
def look_up(state: State, kv_rules: KvRules, rank: int, index: int, whole: int) -> bool:
    """Share a request's cached prefix blocks if the rest of `whole` tokens fits; return False if it does not."""
    if state.hooks.lookup.size > 0:
        return bool(hooks.lookup(state, kv_rules, rank, index, whole))
    return bool(use_prefix(state, kv_rules, rank, index, whole))


@compiled_part
def admit(
    state: State, limits: Limits, kv_rules: KvRules, rank_index: int, index: int, budget: int, most: int, prompts: int
) -> int:
    """Admit a rank's next request if tokens and KV memory allow; return its new tokens, 0 if not admitted."""
    rank, request = state.ranks[rank_index], state.requests[index]
    want = request.target
    if hooks.in_flight(state, index):
        return 0
    if brings_cache(state, index):
        want = int64(1)
    if want > budget and limits.chunked:
        want = budget
    target = max(request.target, request.cached + want)
    if limits.reserve:
        target = request.input + request.output - 1 + limits.spare
    # Uncut, a prompt above the budget runs as the only prompt of its step.
    if want > budget and prompts > 0:
        return 0
    if kv_rules.cached:
        if not look_up(state, kv_rules, rank_index, index, target):
            return 0
        want = min(request.target - request.cached, want)
    if 0 < most < want:
        want = most
    if limits.lazy:
        if kv_rules.first > 0:
            target = min(target, request.cached + kv_rules.first)
        if not kv_rules.cached and kv_bytes(kv_rules, target) > state.free[rank_index]:
            return 0
        target = request.cached + want
    if not allocate(state, kv_rules, rank_index, index, target):
        return 0
    if state.hooks.leave.size > 0:
        hooks.leave(state, rank_index, index)
    else:
        leave_queue(state, rank_index, index)
    state.running[rank_index, rank.running] = index
    rank.running += 1
    return int(want)


@compiled_part
def set_tokens(state: State, kv_rules: KvRules, windows: I8, rank: int, position: int, want: int) -> None:
    """Plan `want` new tokens of a rank's running sequence `position`."""
    i = state.running[rank, position]
    request = state.requests[i]
    if kv_rules.cached and want > 0:
        note_planned(state, kv_rules, rank, i, want)
    hooks.on_tokens_planned(state, i, want)
    state.fresh[rank, position] = want
    state.ranks[rank].least_left = min(state.ranks[rank].least_left, request.output - request.generated)
    count_planned(state, windows, rank, i, want)


@compiled_part
def waiting_prompt(state: State, limits: Limits, kv_rules: KvRules, rank_index: int) -> int:
    """Return the total tokens of the prompts at the head of a rank's queue that could all start now."""
    rank = state.ranks[rank_index]
    i, tokens, free = rank.head, int64(0), state.free[rank_index]
    places = limits.max_sequences - rank.running - rank.late
    budget = limits.token_budget - rank.running
    while i >= 0 and places > 0 and budget > 0:
        request = state.requests[i]
        target = request.input + request.output - 1 if limits.reserve else request.target
        free -= kv_bytes(kv_rules, target)
        if free < 0.0 or brings_cache(state, i):
            break
        if tokens > 0 and tokens + request.target > budget:
            return int(budget if limits.chunked else tokens)
        tokens += request.target
        places -= 1
        i = request.next
    return int(tokens)


@compiled_part
def hold_back(state: State, limits: Limits, kv_rules: KvRules) -> bool:
    """Return whether this plan delays waiting prompts (see `Policy`), and count such plans."""
    if limits.gather_steps == 0 and limits.even_steps == 0:
        return False
    ranks, counters = state.ranks, state.counters[0]
    able, decoding, tokens = int64(0), int64(0), int64(0)
    for r in range(ranks.shape[0]):
        prompt = waiting_prompt(state, limits, kv_rules, r)
        able += prompt > 0
        decoding += ranks[r].running > 0
        tokens += prompt + ranks[r].running
    waited = counters.waited
    if limits.even_steps > 0:
        wait = able < ranks.shape[0]
        waited += wait
        stop = waited >= limits.even_steps or decoding < ranks.shape[0]
    else:
        wait = able > 0 and decoding > 0
        waited += wait
        stop = waited > limits.gather_steps or tokens >= limits.gather_tokens
    counters.waited = waited
    if wait and not stop:
        return True
    if wait or limits.even_steps > 0:
        counters.waited = 0
    return False


@compiled_part
def plan_decodes(state: State, kv_rules: KvRules, windows: I8, rank_index: int, budget: int) -> tuple[int, int]:
    """Plan a rank's leading decodes as long as they have memory; return the numbers of sequences and tokens.

    A fast path for most running sequences: it keeps sums in registers and omits checks that only prompts need. Models
    with attention windows use `set_tokens` instead.
    """
    rank, left = state.ranks[rank_index], state.ranks[rank_index].least_left
    context, tokens, j = int64(0), int64(0), int64(0)
    while unbounded(windows) and j < rank.running:
        i = state.running[rank_index, j]
        request = state.requests[i]
        cached, want = request.cached, next_tokens(state, i)
        if want > 0:
            if want > 1 or cached < request.target or tokens == budget:
                break
            if cached >= request.covered and not allocate(state, kv_rules, rank_index, i, cached + 1):
                break
            if kv_rules.cached:
                note_planned(state, kv_rules, rank_index, i, want)
            hooks.on_tokens_planned(state, i, want)
            tokens += 1
            context += cached + 1
        state.fresh[rank_index, j] = want
        left = min(left, request.output - request.generated)
        j += 1
    rank.least_left = left
    count_decodes(state.moments[rank_index], tokens, context)
    return int(j), int(tokens)


@compiled_part
def plan_pass(
    state: State, limits: Limits, kv_rules: KvRules, windows: I8, rank_index: int, now: float, closed: bool, alone: bool
) -> int:
    """Plan one rank's step: only prompts (`alone`), or all sequences that can run; see `plan_rank`."""
    rank, budget = state.ranks[rank_index], limits.token_budget
    preemptions, prompts, j, g = int64(0), int64(0), int64(0), int64(0)
    ahead, chunks, most = int64(0), state.counters[0].chunks, most_of_one(state, limits, rank_index)
    if not alone and state.hooks.want.size == 0:
        j, want = plan_decodes(state, kv_rules, windows, rank_index, budget)
        budget -= want
    while True:
        if state.hooks.plan_ended.size > 0:
            j, g, budget, lost = hooks.plan_ended(state, limits, kv_rules, rank_index, j, g, budget)
            preemptions += lost
        if budget <= 0 and j >= rank.running:
            break
        if j >= rank.running:  # all that ran is planned: admit those that wait
            if preemptions > 0 or j + rank.late >= limits.max_sequences:
                break
            i = choose(state, limits, kv_rules, rank_index)
            if i < 0:
                break
            prompt_may = not closed and alone == limits.prompts_alone
            if not (not alone if brings_cache(state, i) else prompt_may):
                break
            if hooks.waits_on(state, limits, rank_index, i, now):
                break
            want = admit(state, limits, kv_rules, rank_index, i, budget, most, prompts)
            if want == 0:
                break
            if np.isnan(state.requests[i].scheduled):
                state.requests[i].scheduled = now
            prompts += 1
        else:
            i = state.running[rank_index, j]
            request = state.requests[i]
            want = max(request.target - request.cached, 0) if alone else next_tokens(state, i)
            if 0 < most < want:
                want = most
            want = min(want, budget)
            prompts += alone and want > 0
            need = reach(state, limits, i) + want
            if need > request.covered and want > 0:
                fits, j, g, back, lost, ahead = preempt_until_fits(state, kv_rules, rank_index, j, g, False, need)
                preemptions += lost
                budget += back
                if not fits:
                    break
        set_tokens(state, kv_rules, windows, rank_index, j, want)
        budget -= min(want, budget)
        j, g = skip(state, rank_index, j + 1, g, ahead)
        ahead = int64(0)
    hooks.on_rank(state, rank_index, chunks)
    return preemptions


@compiled_part
def plan_rank(state: State, limits: Limits, kv_rules: KvRules, windows: I8, rank: int, now: float, closed: bool) -> int:
    """Plan one rank's step; return the number of preempted sequences.

    A sequence gets its known but uncomputed tokens (of its prompt, or its latest one), with their drafts. Running
    sequences come first, in order of admission. Then, unless any was preempted or the queue is `closed`, waiting ones
    are admitted within the limits of sequences, tokens and KV. The last admitted is preempted first, even with tokens
    in flight. If prompts run separately, decodes run only in steps without a runnable prompt. The new tokens of each
    sequence are in ``state.fresh[r]``, the batch's moments in ``state.moments[r]``, its prompt chunks in ``state.chunks``.
    """
    alone = limits.prompts_alone
    clear_sums(state, rank)
    state.ranks[rank].least_left = 1 << 40
    preemptions = plan_pass(state, limits, kv_rules, windows, rank, now, closed, alone)
    if alone and state.moments[rank, TOKENS] == 0.0:
        preemptions += plan_pass(state, limits, kv_rules, windows, rank, now, closed, not alone)
    return preemptions
