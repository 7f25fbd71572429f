"""The plan of a step: which sequences run, and how many tokens of each.

One compiled function, :func:`plan_rank`, reads the data of a policy (`policies.Limits`) and the engine's state arrays.
"""

from __future__ import annotations

import numpy as np

from ...workloads.batch import TOKENS
from ...workloads.jit import compiled_inside, compiled_part, int64
from . import hooks
from . import state as col
from .counting import clear_sums, count_decodes, count_planned, most_of_one, unbounded
from .holding import hold, kv_bytes, note_planned, use_prefix
from .kv import KvRules
from .policies import Limits
from .preempting import make_room, pass_over
from .queues import leave_queue
from .state import I8, State


@compiled_part
def brings_cache(st: State, i: int) -> bool:
    """Whether a waiting request's cache has come from another engine: it decodes at once."""
    return bool(st.ints[i, col.I_CACHED] == st.ints[i, col.I_TARGET])


@compiled_part
def next_tokens(st: State, i: int) -> int:
    """Tokens of a running sequence that are known and not computed; with some in flight, those that are sure to come count.

    None while its next input is in flight and is waited for (`I_FLIGHT` 0), nor when those in
    flight are sure to be its last: the scheduler goes by the tokens it has.
    """
    if st.hooks.want.size > 0:
        return int(hooks.want(st, i))
    request = st.ints[i]
    flight = request[col.I_FLIGHT]
    if flight > 0:
        over = request[col.I_CACHED] + 2 - flight >= request[col.I_INPUT] + request[col.I_OUTPUT]
        if over:
            return 0
    return int(request[col.I_INPUT] + request[col.I_GENERATED] + flight - request[col.I_CACHED])


@compiled_inside
def reach(st: State, limits: Limits, i: int) -> int:
    """Slots that a sequence needs before its new tokens."""
    if st.hooks.reach.size > 0:
        return int(hooks.reach(st, limits, i))
    return int(st.ints[i, col.I_CACHED])


@compiled_inside
def choose(st: State, limits: Limits, kv: KvRules, r: int) -> int:
    """The request that is admitted next; -1 where there is none."""
    if st.hooks.choose.size > 0:
        return int(hooks.choose(st, limits, kv, r))
    hooks.find_head(st, r)
    return int(st.ranks[r, col.R_HEAD])


@compiled_inside
def look_up(st: State, kv: KvRules, r: int, i: int, whole: int) -> bool:
    """Give a request the blocks that are cached of it, if the rest of `whole` tokens fits; False if not."""
    if st.hooks.lookup.size > 0:
        return bool(hooks.lookup(st, kv, r, i, whole))
    return bool(use_prefix(st, kv, r, i, whole))


@compiled_part
def admit(st: State, limits: Limits, kv: KvRules, r: int, i: int, budget: int, most: int, prompts: int) -> int:
    """Admit a rank's next request if tokens and KV allow; its new tokens, else 0."""
    rank, request = st.ranks[r], st.ints[i]
    want = request[col.I_TARGET]
    if hooks.in_flight(st, i):
        return 0
    if brings_cache(st, i):
        want = int64(1)
    if want > budget and limits.chunked:
        want = budget
    target = max(request[col.I_TARGET], request[col.I_CACHED] + want)
    if limits.reserve:
        target = request[col.I_INPUT] + request[col.I_OUTPUT] - 1 + limits.spare
    # Uncut, a prompt above the budget runs as the only prompt of its step.
    if want > budget and prompts > 0:
        return 0
    if kv.cached:
        if not look_up(st, kv, r, i, target):
            return 0
        want = min(request[col.I_TARGET] - request[col.I_CACHED], want)
    if 0 < most < want:
        want = most
    if limits.lazy:
        if kv.first > 0:
            target = min(target, request[col.I_CACHED] + kv.first)
        if not kv.cached and kv_bytes(kv, target) > st.free[r]:
            return 0
        target = request[col.I_CACHED] + want
    if not hold(st, kv, r, i, target):
        return 0
    if st.hooks.leave.size > 0:
        hooks.leave(st, r, i)
    else:
        leave_queue(st, r, i)
    st.running[r, rank[col.R_RUNNING]] = i
    rank[col.R_RUNNING] += 1
    return int(want)


@compiled_part
def set_tokens(st: State, kv: KvRules, windows: I8, r: int, j: int, want: int) -> None:
    """Plan `want` new tokens of a rank's running sequence `j`."""
    i = st.running[r, j]
    request = st.ints[i]
    if kv.cached and want > 0:
        note_planned(st, kv, r, i, want)
    hooks.on_tokens_planned(st, i, want)
    st.fresh[r, j] = want
    st.ranks[r, col.R_LEFT] = min(st.ranks[r, col.R_LEFT], request[col.I_OUTPUT] - request[col.I_GENERATED])
    count_planned(st, windows, r, i, want)


@compiled_part
def waiting_prompt(st: State, limits: Limits, kv: KvRules, r: int) -> int:
    """Tokens of the prompts at the head of a rank's queue that could all start now."""
    rank = st.ranks[r]
    i, tokens, free = rank[col.R_HEAD], int64(0), st.free[r]
    places = limits.max_sequences - rank[col.R_RUNNING] - rank[col.R_LATE]
    budget = limits.token_budget - rank[col.R_RUNNING]
    while i >= 0 and places > 0 and budget > 0:
        request = st.ints[i]
        target = request[col.I_INPUT] + request[col.I_OUTPUT] - 1 if limits.reserve else request[col.I_TARGET]
        free -= kv_bytes(kv, target)
        if free < 0.0 or brings_cache(st, i):
            break
        if tokens > 0 and tokens + request[col.I_TARGET] > budget:
            return int(budget if limits.chunked else tokens)
        tokens += request[col.I_TARGET]
        places -= 1
        i = request[col.I_NEXT]
    return int(tokens)


@compiled_part
def hold_back(st: State, limits: Limits, kv: KvRules) -> bool:
    """Whether this plan lets waiting prompts wait on, see `Policy`; counts the plans that do."""
    if limits.gather_steps == 0 and limits.even_steps == 0:
        return False
    ranks, counters = st.ranks, st.counters
    able, decoding, tokens = int64(0), int64(0), int64(0)
    for r in range(ranks.shape[0]):
        prompt = waiting_prompt(st, limits, kv, r)
        able += prompt > 0
        decoding += ranks[r, col.R_RUNNING] > 0
        tokens += prompt + ranks[r, col.R_RUNNING]
    waited = counters[col.C_WAITED]
    if limits.even_steps > 0:
        wait = able < ranks.shape[0]
        waited += wait
        stop = waited >= limits.even_steps or decoding < ranks.shape[0]
    else:
        wait = able > 0 and decoding > 0
        waited += wait
        stop = waited > limits.gather_steps or tokens >= limits.gather_tokens
    counters[col.C_WAITED] = waited
    if wait and not stop:
        return True
    if wait or limits.even_steps > 0:
        counters[col.C_WAITED] = 0
    return False


@compiled_part
def plan_decodes(st: State, kv: KvRules, windows: I8, r: int, budget: int) -> tuple[int, int]:
    """Plan a rank's leading sequences that decode, as far as they have room; how many, and tokens.

    Almost all that runs is planned here: sums stay in registers, and nothing is asked that only
    prompts need. Attention that ends at a window is left to `set_tokens`.
    """
    rank, left = st.ranks[r], st.ranks[r, col.R_LEFT]
    context, tokens, j = int64(0), int64(0), int64(0)
    while unbounded(windows) and j < rank[col.R_RUNNING]:
        i = st.running[r, j]
        request = st.ints[i]
        cached, want = request[col.I_CACHED], next_tokens(st, i)
        if want > 0:
            if want > 1 or cached < request[col.I_TARGET] or tokens == budget:
                break
            if cached >= request[col.I_ROOM] and not hold(st, kv, r, i, cached + 1):
                break
            if kv.cached:
                note_planned(st, kv, r, i, want)
            hooks.on_tokens_planned(st, i, want)
            tokens += 1
            context += cached + 1
        st.fresh[r, j] = want
        left = min(left, request[col.I_OUTPUT] - request[col.I_GENERATED])
        j += 1
    rank[col.R_LEFT] = left
    count_decodes(st.moments[r], tokens, context)
    return int(j), int(tokens)


@compiled_part
def plan_pass(
    st: State, limits: Limits, kv: KvRules, windows: I8, r: int, now: float, closed: bool, alone: bool
) -> int:
    """Plan one rank's step: only prompts (`alone`), or all sequences that can run; see `plan_rank`."""
    rank, budget = st.ranks[r], limits.token_budget
    preemptions, prompts, j, g = int64(0), int64(0), int64(0), int64(0)
    ahead, chunks, most = int64(0), st.counters[col.C_CHUNKS], most_of_one(st, limits, r)
    if not alone and st.hooks.want.size == 0:
        j, want = plan_decodes(st, kv, windows, r, budget)
        budget -= want
    while True:
        if st.hooks.plan_ended.size > 0:
            j, g, budget, lost = hooks.plan_ended(st, limits, kv, r, j, g, budget)
            preemptions += lost
        if budget <= 0 and j >= rank[col.R_RUNNING]:
            break
        if j >= rank[col.R_RUNNING]:  # all that ran is planned: admit those that wait
            if preemptions > 0 or j + rank[col.R_LATE] >= limits.max_sequences:
                break
            i = choose(st, limits, kv, r)
            if i < 0:
                break
            prompt_may = not closed and alone == limits.prompts_alone
            if not (not alone if brings_cache(st, i) else prompt_may):
                break
            if hooks.waits_on(st, limits, r, i, now):
                break
            want = admit(st, limits, kv, r, i, budget, most, prompts)
            if want == 0:
                break
            if np.isnan(st.floats[i, col.F_SCHEDULED]):
                st.floats[i, col.F_SCHEDULED] = now
            prompts += 1
        else:
            i = st.running[r, j]
            request = st.ints[i]
            want = max(request[col.I_TARGET] - request[col.I_CACHED], 0) if alone else next_tokens(st, i)
            if 0 < most < want:
                want = most
            want = min(want, budget)
            prompts += alone and want > 0
            need = reach(st, limits, i) + want
            if need > request[col.I_ROOM] and want > 0:
                fits, j, g, back, lost, ahead = make_room(st, kv, r, j, g, False, need)
                preemptions += lost
                budget += back
                if not fits:
                    break
        set_tokens(st, kv, windows, r, j, want)
        budget -= min(want, budget)
        j, g = pass_over(st, r, j + 1, g, ahead)
        ahead = int64(0)
    hooks.on_rank(st, r, chunks)
    return preemptions


@compiled_part
def plan_rank(st: State, limits: Limits, kv: KvRules, windows: I8, r: int, now: float, closed: bool) -> int:
    """Plan one rank's step; returns how many sequences it preempted.

    A sequence gets its known but uncomputed tokens (of its prompt, or its latest one), with their drafts. Running
    sequences come first, in order of admission. Then, unless any was preempted or the queue is `closed`, waiting ones
    are admitted within the limits of sequences, tokens and KV. The last admitted is preempted first, even with tokens
    in flight. If prompts run separately, decodes run only in steps without a runnable prompt. The new tokens of each
    sequence are in ``st.fresh[r]``, the batch's moments in ``st.moments[r]``, its prompt chunks in ``st.chunks``.
    """
    alone = limits.prompts_alone
    clear_sums(st, r)
    st.ranks[r, col.R_LEFT] = 1 << 40
    preemptions = plan_pass(st, limits, kv, windows, r, now, closed, alone)
    if alone and st.moments[r, TOKENS] == 0.0:
        preemptions += plan_pass(st, limits, kv, windows, r, now, closed, not alone)
    return preemptions
