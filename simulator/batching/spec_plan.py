"""The plan of a step that verifies drafts: every decode runs with K drafts behind its token.

Rules of vLLM's scheduler (``Scheduler.schedule`` and ``AsyncScheduler`` in vllm/v1/core/sched), beside
those of `planning`: drafts take tokens of the budget, which may cut them; a sequence holds slots for
them and for those that drafting will fill; only tokens that are known can be found by their content.
Planned ahead, a sequence holds what it would take were all drafts in flight accepted, and one whose end
is not known runs in one more step.
"""

from __future__ import annotations

from ...workloads.batch import (
    BASE_MOMENTS,
    DECODE_KV,
    DECODES,
    SEQUENCES,
    TOKENS,
    WINDOW_MOMENTS,
)
from ...workloads.jit import compiled_given, compiled_part, int64
from .holding import coming, hold, note_content, preempt_last, preempt_late
from .kv import KvRules
from .planning import admit, count_chunk, visible
from .plans import record_tokens
from .policies import Limits
from .spec_state import N_WASTED, S_CAME, S_FAR, Spec
from .state import (
    C_CHUNKS,
    F8,
    I8,
    I_CACHED,
    I_FLIGHT,
    I_GENERATED,
    I_HASHED,
    I_INPUT,
    I_KEYED,
    I_NOTED,
    I_ROOM,
    I_TARGET,
    R_LATE,
    R_RUNNING,
    State,
)


@compiled_part
def count_several(m: F8, windows: I8, context: int, q: int, rows: int) -> None:
    """Add a decode of `q` tokens, with `context` before them, and its rows of logits."""
    m[TOKENS] += q
    m[SEQUENCES] += rows
    m[DECODES] += 1.0
    behind = BASE_MOMENTS + WINDOW_MOMENTS * windows.size
    m[behind] += q
    for w in range(windows.size):
        window, kv = windows[w], context + q
        if window < 0:
            continue
        if window > 0:
            kv = min(kv, window + q - 1)
        m[BASE_MOMENTS + WINDOW_MOMENTS * w + DECODE_KV] += kv
        m[behind + 1 + w] += visible(context + q, window) - visible(context, window)


@compiled_given("x.draft", otherwise=lambda x, r, context, q, chunk: None)
def count_draft(x: Spec, r: int, context: int, q: int, chunk: bool) -> None:
    """Add a planned sequence to the batches of what drafts; see `step.speculative.draft_batches`."""
    windows = x.draft.windows
    if chunk:
        count_chunk(x.first[r], windows, context, q)
    else:
        count_several(x.first[r], windows, context, q, 1)
    for j in range(x.later.shape[0]):
        count_several(x.later[j, r], windows, context + q + j, 1, 1)


@compiled_given("st.pool", otherwise=lambda st, kv, x, r, i, want: None)
def note_known(st: State, kv: KvRules, x: Spec, r: int, i: int, want: int) -> None:
    """`holding.note_planned` of a sequence that several tokens may be on their way to."""
    request = st.ints[i]
    known = request[I_INPUT] + request[I_GENERATED]
    if coming(st, i):
        known -= x.rows[i, S_CAME]
    request[I_NOTED] = min(request[I_CACHED] + want, known)
    found = min(request[I_NOTED], request[I_HASHED])
    if found >= (request[I_KEYED] + 1) * kv.block:
        note_content(st, kv, r, i, found)


@compiled_part
def set_several(st: State, kv: KvRules, x: Spec, windows: I8, r: int, j: int, want: int) -> None:
    """Plan `want` new tokens of a rank's running sequence `j`."""
    i = st.running[r, j]
    request = st.ints[i]
    st.fresh[r, j] = want
    if want == 0:
        return
    if kv.cached:
        note_known(st, kv, x, r, i, want)
    record_tokens(st, i, want)
    request[I_FLIGHT] = 1  # what of it can be found again is what was known now
    chunk = request[I_CACHED] < request[I_TARGET]
    if chunk:
        count_chunk(st.moments[r], windows, request[I_CACHED], want)
        c = st.counters[C_CHUNKS]
        st.chunks[0, c], st.chunks[1, c] = want, i
        st.counters[C_CHUNKS] += 1
    else:
        count_several(st.moments[r], windows, request[I_CACHED], want, want)
    count_draft(x, r, request[I_CACHED], want, chunk)


@compiled_part
def reached(st: State, limits: Limits, x: Spec, i: int) -> int:
    """Tokens that a plan takes a sequence to have in the cache."""
    decodes = st.ints[i, I_CACHED] >= st.ints[i, I_TARGET]
    return int(x.rows[i, S_FAR] if limits.ahead and decodes else st.ints[i, I_CACHED])


@compiled_part
def plan_ended(
    st: State, limits: Limits, kv: KvRules, x: Spec, windows: I8, r: int, g: int, budget: int
) -> tuple[int, int]:  # fmt: skip
    """Plan a sequence that the step in flight ends, if the plan cannot know: its tokens, preemptions.

    It is known to end where any outcome ends it: one token was left.
    """
    rank, preemptions = st.ranks[r], int64(0)
    i = st.running[r, st.running.shape[1] // 3 + g]
    if x.rows[i, S_CAME] < 2:
        return 0, preemptions
    want = min(x.tokens + 1, budget)
    if limits.threshold > 0:
        want = min(want, limits.threshold)
    while want > 0 and g < rank[R_LATE]:
        if hold(st, kv, r, i, x.rows[i, S_FAR] + want + x.lookahead):
            break
        if not preempt_late(st, kv, r):
            preempt_last(st, kv, r)
        preemptions += 1
    if want == 0 or g >= rank[R_LATE]:
        return 0, preemptions
    count_several(st.moments[r], windows, st.ints[i, I_CACHED], want, want)
    count_draft(x, r, st.ints[i, I_CACHED], want, False)
    x.counts[N_WASTED] += 1
    return int(want), preemptions


@compiled_part
def clear_sums(st: State, x: Spec, r: int) -> None:
    """Empty the sums of a rank's batches."""
    for w in range(st.moments.shape[1]):
        st.moments[r, w] = 0.0
    for w in range(x.first.shape[1]):
        x.first[r, w] = 0.0
        for j in range(x.later.shape[0]):
            x.later[j, r, w] = 0.0


@compiled_part
def plan_several(
    st: State, limits: Limits, kv: KvRules, x: Spec, windows: I8, r: int, now: float
) -> int:  # fmt: skip
    """Plan one rank's step, as `planning.plan_rank`; returns how many sequences it preempted."""
    clear_sums(st, x, r)
    rank, budget = st.ranks[r], limits.token_budget
    preemptions, prompts, j, g = int64(0), int64(0), int64(0), int64(0)
    places = 2 * st.running.shape[1] // 3
    while True:
        while limits.ahead and g < rank[R_LATE] and st.running[r, places + g] <= j:
            took, lost = plan_ended(st, limits, kv, x, windows, r, g, budget)
            budget -= took
            preemptions += lost
            g += 1
        if budget <= 0 and j >= rank[R_RUNNING]:
            break
        if j >= rank[R_RUNNING]:  # all that ran is planned: admit the head of the queue
            if preemptions > 0 or j + rank[R_LATE] >= limits.max_sequences:
                break
            want = admit(st, limits, kv, r, budget, prompts, now)
            if want == 0:
                break
            prompts += 1
        else:
            i = st.running[r, j]
            request = st.ints[i]
            want = request[I_TARGET] - request[I_CACHED]
            if want <= 0:
                want = int64(x.tokens + 1)
            if 0 < limits.threshold < want:
                want = int64(limits.threshold)
            want = min(want, budget)
            need = reached(st, limits, x, i) + want + x.lookahead
            fits = need <= request[I_ROOM] or want == 0
            while not fits and j < rank[R_RUNNING]:
                fits = hold(st, kv, r, i, need)
                if fits:
                    break
                if not preempt_late(st, kv, r):
                    preempt_last(st, kv, r)
                preemptions += 1
            if not fits:
                continue  # it was the last one: nobody is left behind it
        set_several(st, kv, x, windows, r, j, want)
        budget -= min(want, budget)
        j += 1
    return preemptions
