"""The plan of a step: which sequences run, and how many tokens of each.

One compiled function, :func:`plan_rank`, reads the data of a policy (`policies.Limits`) and the engine's state arrays.
"""

from __future__ import annotations

import numpy as np

from ...workloads.batch import TOKENS
from ...workloads.jit import compiled_given, compiled_part, int64
from ..parts.classes.lanes import M_UNDONE
from ..parts.drafts.hooks import count_ended, next_tokens, plan_ended, reach, verifies
from ..parts.kv_tiers.hooks import leave, next_to_admit, use_cached
from . import state as col
from .counting import clear_sums, count_decodes, count_planned, most_of_one, unbounded
from .holding import hold, kv_bytes, note_planned
from .kv import KvRules
from .plans import record_tokens
from .policies import Limits
from .preempting import make_room, pass_over
from .state import I8, State
from .waiting_on import waits_on


@compiled_part
def brings_cache(st: State, i: int) -> bool:
    """Whether a waiting request's cache has come from another engine: it decodes at once."""
    return bool(st.ints[i, col.I_CACHED] == st.ints[i, col.I_TARGET])


@compiled_part
def admit(st: State, limits: Limits, kv: KvRules, r: int, i: int, budget: int, most: int, prompts: int) -> int:
    """Admit a rank's next request if tokens and KV allow; its new tokens, else 0."""
    rank, request = st.ranks[r], st.ints[i]
    want = request[col.I_TARGET]
    if verifies(st, i):
        return 0
    if brings_cache(st, i):
        want = int64(1)
    if want > budget and limits.chunked:
        want = budget
    whole = max(request[col.I_TARGET], request[col.I_CACHED] + want)
    if limits.reserve:
        whole = request[col.I_INPUT] + request[col.I_OUTPUT] - 1 + limits.spare
    # Uncut, a prompt above the budget runs as the only prompt of its step.
    if want > budget and prompts > 0:
        return 0
    if kv.cached:
        if not use_cached(st, kv, r, i, whole):
            return 0
        want = min(request[col.I_TARGET] - request[col.I_CACHED], want)
    if 0 < most < want:
        want = most
    if limits.lazy:
        if not kv.cached and kv_bytes(kv, whole) > st.free[r]:
            return 0
        whole = request[col.I_CACHED] + want
    if not hold(st, kv, r, i, whole):
        return 0
    leave(st, r, i)
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
    record_tokens(st, i, want)
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
        whole = request[col.I_INPUT] + request[col.I_OUTPUT] - 1 if limits.reserve else request[col.I_TARGET]
        free -= kv_bytes(kv, whole)
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


@compiled_given("st.lanes", otherwise=lambda st, windows, r, chunks: None)
def count_again(st: State, windows: I8, r: int, chunks: int) -> None:
    """Sum the planned batch of a rank anew, where tokens were taken back; `chunks` were others'."""
    if st.lanes.marks[M_UNDONE] == 0:
        return
    st.lanes.marks[M_UNDONE] = 0
    clear_sums(st, r)
    st.counters[col.C_CHUNKS] = chunks
    for j in range(st.ranks[r, col.R_RUNNING]):
        count_planned(st, windows, r, st.running[r, j], st.fresh[r, j])
    count_ended(st, windows, r)


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
            record_tokens(st, i, want)
            tokens += 1
            context += cached + 1
        st.fresh[r, j] = want
        left = min(left, request[col.I_OUTPUT] - request[col.I_GENERATED])
        j += 1
    rank[col.R_LEFT] = left
    count_decodes(st.moments[r], tokens, context)
    return int(j), int(tokens)


@compiled_given("st.spec", otherwise=plan_decodes)
def plan_leading(st: State, kv: KvRules, windows: I8, r: int, budget: int) -> tuple[int, int]:
    """`plan_decodes`; decodes with drafts are planned one by one."""
    return int64(0), int64(0)


@compiled_part
def plan_pass(
    st: State, limits: Limits, kv: KvRules, windows: I8, r: int, now: float, closed: bool, alone: bool
) -> int:
    """Plan one rank's step, of prompts `alone` or of all that can run; see `plan_rank`."""
    rank, budget = st.ranks[r], limits.token_budget
    preemptions, prompts, j, g = int64(0), int64(0), int64(0), int64(0)
    ahead, chunks, most = int64(0), st.counters[col.C_CHUNKS], most_of_one(st, limits, r)
    if not alone:
        j, want = plan_leading(st, kv, windows, r, budget)
        budget -= want
    while True:
        j, g, budget, lost = plan_ended(st, limits, kv, windows, r, j, g, budget)
        preemptions += lost
        if budget <= 0 and j >= rank[col.R_RUNNING]:
            break
        if j >= rank[col.R_RUNNING]:  # all that ran is planned: admit those that wait
            if preemptions > 0 or j + rank[col.R_LATE] >= limits.max_sequences:
                break
            i = next_to_admit(st, limits, kv, r)
            if i < 0:
                break
            prompt_may = not closed and alone == limits.prompts_alone
            if not (not alone if brings_cache(st, i) else prompt_may):
                break
            if waits_on(st, limits, r, i, now):
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
                fits, j, g, budget, lost, ahead = make_room(st, kv, r, j, g, False, budget, need)
                preemptions += lost
                if not fits:
                    break
        set_tokens(st, kv, windows, r, j, want)
        budget -= min(want, budget)
        j, g = pass_over(st, r, j + 1, g, ahead)
        ahead = int64(0)
    count_again(st, windows, r, chunks)
    return preemptions


@compiled_part
def plan_rank(st: State, limits: Limits, kv: KvRules, windows: I8, r: int, now: float, closed: bool) -> int:
    """Plan one rank's step; returns how many sequences it preempted.

    A sequence gets the tokens that are known and not computed yet, with the drafts behind them: of its prompt, or
    its latest one. Running sequences come first, in order of admission; then, unless any was preempted or the
    queue is `closed`, those that wait are admitted while sequences, tokens and KV allow. The latest
    admitted is preempted, whatever of it is in flight. Where prompts run alone, decodes run only in
    steps that no prompt can run in. The new tokens of each sequence are left in ``st.fresh[r]``, the
    batch's moments in ``st.moments[r]``, its prompt chunks in ``st.chunks``.
    """
    alone = limits.prompts_alone
    clear_sums(st, r)
    st.ranks[r, col.R_LEFT] = 1 << 40
    preemptions = plan_pass(st, limits, kv, windows, r, now, closed, alone)
    if alone and st.moments[r, TOKENS] == 0.0:
        preemptions += plan_pass(st, limits, kv, windows, r, now, closed, not alone)
    return preemptions
