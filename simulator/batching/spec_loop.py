"""The inner loop of an engine that speculates, compiled: plan, verify, draft, accept, stamp.

Steps run one by one, as how many tokens each brings is drawn. A draw depends on the seed, the request and
its tokens so far alone: neither on what else runs nor on how a run is cut into pieces.
"""

from __future__ import annotations

from ...workloads.batch import DECODES, PREFILL_TOKENS, TOKENS
from ...workloads.draws import step_key, uniform01
from ...workloads.jit import compiled, compiled_given, compiled_part, int64
from ..step.books import Books, spent
from ..step.lowering import Plan
from ..step.timed import step_seconds
from ..step.unequal import graph_of_several
from .clients import complete, release
from .holding import drop_late
from .host import paced
from .kv import KvRules
from .loop import GOAL, LOG_FULL, REACHED, STUCK, write_log
from .plans import record_plan
from .policies import Limits
from .spec_plan import plan_several
from .spec_state import (
    N_ACCEPTED,
    N_DRAFTED,
    N_EMITTED,
    N_VERIFIED,
    S_CAME,
    S_FAR,
    S_ID,
    Z_DRAFT,
    Z_VERIFY,
    Spec,
)
from .state import (
    C_CHUNKS,
    C_COMPLETED,
    C_EMITTED,
    C_LOG,
    C_PREEMPTIONS,
    C_PROMPT,
    C_RELEASED,
    C_STEPS,
    C_STRETCH,
    F8,
    F_FIRST,
    F_LAST,
    I_CACHED,
    I_GENERATED,
    I_INPUT,
    I_OUTPUT,
    I_TARGET,
    L_EMITTED,
    L_JOULES,
    NUM_LOG,
    R_LATE,
    R_RUNNING,
    T_BUSY,
    T_KNOWN,
    T_KV_PEAK,
    T_NOW,
    State,
)
from .stretch import join_gap, record_gap

ACCEPT_SEED = 0xACCE97
"""Sets these draws apart from those of experts."""


@compiled_part
def accepted(x: Spec, i: int, generated: int, drafts: int) -> int:
    """How many of so many drafts behind a request's tokens so far are accepted."""
    row = i if x.each else 0
    u = uniform01(step_key(x.seed ^ ACCEPT_SEED, x.rows[i, S_ID], generated))
    count = int64(0)
    while count < drafts and u < x.reach[row, count]:
        count += 1
    return int(count)


@compiled_part
def verified(st: State, x: Spec, i: int, q: int) -> int:
    """Let a sequence have what of its `q` tokens is accepted; how many tokens come.

    Slots of rejected drafts are its own still: its next tokens go there.
    """
    request = st.ints[i]
    drafts = q - 1
    good = accepted(x, i, request[I_GENERATED], drafts)
    came = min(good + 1, request[I_OUTPUT] - request[I_GENERATED])
    x.rows[i, S_FAR] = request[I_CACHED] + q
    last = request[I_INPUT] + request[I_OUTPUT] - 1
    request[I_CACHED] = min(request[I_CACHED] + good + 1, last)
    x.counts[N_VERIFIED] += 1
    x.counts[N_DRAFTED] += drafts
    x.counts[N_ACCEPTED] += good
    x.counts[N_EMITTED] += came
    return int(came)


@compiled_part
def finish_several(
    st: State, kv: KvRules, x: Spec, r: int, now: float, closed_loop: bool, ahead: bool
) -> None:
    """Stamp a rank's sequences after the step that ended at `now`; retire what is done.

    Tokens of one step come together: no time lies between them.
    """
    rank, counters = st.ranks[r], st.counters
    kept, gap, gaps, together = 0, 0.0, int64(0), int64(0)
    first_late, places = st.running.shape[1] // 3, 2 * st.running.shape[1] // 3
    for j in range(rank[R_RUNNING]):
        i, q = st.running[r, j], st.fresh[r, j]
        request = st.ints[i]
        left = request[I_TARGET] - request[I_CACHED]
        st.running[r, kept] = i
        kept += 1
        if q == 0:
            continue
        if left > 0:
            request[I_CACHED] += q
            x.rows[i, S_FAR], x.rows[i, S_CAME] = request[I_CACHED], 0
            if q < left:
                continue  # a prompt that goes on
            count = int64(1)
        else:
            count = int64(verified(st, x, i, q))
        x.rows[i, S_CAME] = count
        counters[C_EMITTED] += count
        stamps = st.floats[i]
        if request[I_GENERATED] == 0:
            stamps[F_FIRST] = now
        else:
            own = now - stamps[F_LAST]
            gaps = join_gap(st, gap, gaps, own)
            gap = own
        together += count - 1
        stamps[F_LAST] = now
        request[I_GENERATED] += count
        if request[I_GENERATED] < request[I_OUTPUT]:
            continue
        kept -= 1
        st.running[r, first_late + rank[R_LATE]] = i
        st.running[r, places + rank[R_LATE]] = kept
        rank[R_LATE] += 1
        complete(st, i, now, closed_loop)
    if gaps > 0:
        record_gap(st.hist, st.clocks, gap, gaps)
    if together > 0:
        record_gap(st.hist, st.clocks, 0.0, together)
    st.clocks[T_KV_PEAK] = max(st.clocks[T_KV_PEAK], kv.capacity - st.free[r])
    rank[R_RUNNING] = kept
    if not ahead:
        drop_late(st, kv, r)


@compiled_part
def pad(moments: F8, x: Spec) -> int:
    """Let the batches of all ranks run at captured graphs; how many tokens there were."""
    total = 0.0
    for r in range(moments.shape[0]):
        total += moments[r, TOKENS]
        tokens = int(moments[r, TOKENS])
        moments[r, TOKENS] = graph_of_several(tokens, x.captured, x.tokens + 1)
    return int(total)


@compiled_given("x.draft", otherwise=lambda st, x, chunks: 0.0)
def draft_seconds(st: State, x: Spec, chunks: int) -> float:
    """Seconds of all passes that draft for the next step."""
    passes = x.later.shape[0] + 1
    prefill = 0.0
    for r in range(x.first.shape[0]):
        prefill += x.first[r, PREFILL_TOKENS]
    step = st.counters[C_STEPS] * passes
    decodes = pad(x.first, x) - int(prefill)
    total = step_seconds(
        x.draft, x.first, step, decodes, st.chunks, chunks, True, 0, x.books
    )  # fmt: skip
    for j in range(passes - 1):
        decodes = pad(x.later[j], x)
        total += step_seconds(
            x.draft, x.later[j], step + 1 + j, decodes, st.chunks, 0, j == 0, 0, x.books
        )  # fmt: skip
    return total


@compiled_given("x.draft", otherwise=lambda st, x: None)
def log_draft(st: State, x: Spec) -> None:
    """Add what drafts to the latest row of the log."""
    row, busy = st.log[st.counters[C_LOG] - 1], x.books.busy
    row[L_JOULES] += spent(x.draft, x.books.tally)
    for p in range(busy.shape[1]):
        row[NUM_LOG + p] += busy[0, p] - busy[1, p]
        busy[1, p] = busy[0, p]


@compiled_part
def plan_all(
    plan: Plan, limits: Limits, kv: KvRules, st: State, x: Spec
) -> tuple[float, float, float, float, int]:  # fmt: skip
    """Plan the next step of every rank by what is known.

    Returns its tokens, those of prompts, decoding sequences, the KV bytes in use, and how many
    sequences were preempted.
    """
    tokens, prompts, decodes, used, preemptions = 0.0, 0.0, 0.0, 0.0, int64(0)
    known = st.clocks[T_KNOWN]
    st.counters[C_CHUNKS] = 0
    for r in range(st.ranks.shape[0]):
        preemptions += plan_several(st, limits, kv, x, plan.windows, r, known)
        record_plan(st, r, known)
        tokens += st.moments[r, TOKENS]
        prompts += st.moments[r, PREFILL_TOKENS]
        decodes += st.moments[r, DECODES]
        used += kv.capacity - st.free[r]
        st.clocks[T_KV_PEAK] = max(st.clocks[T_KV_PEAK], kv.capacity - st.free[r])
    st.counters[C_PREEMPTIONS] += preemptions
    return tokens, prompts, decodes, used, preemptions


@compiled_part
def run_several(
    plan: Plan, limits: Limits, st: State, books: Books, x: Spec, sequences: float, decoded: int
) -> float:
    """Run the planned step; when it ends."""
    chunks = st.counters[C_CHUNKS]
    pad(st.moments, x)
    verify = step_seconds(
        plan, st.moments, st.counters[C_STEPS], decoded, st.chunks, chunks, True, 0, books
    )
    draft = draft_seconds(st, x, chunks)
    x.seconds[Z_VERIFY] += verify
    x.seconds[Z_DRAFT] += draft
    st.counters[C_STEPS] += 1
    each = sequences / st.ranks.shape[0]
    return float(st.clocks[T_NOW] + paced(limits.pace, verify + draft, each, chunks))


@compiled
def advance_several(
    plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, x: Spec, until: float,
    closed_loop: bool, goal: int,
) -> int:  # fmt: skip
    """`loop.advance` of an engine that speculates."""
    counters, clocks, ranks = st.counters, st.clocks, st.ranks
    while True:
        if not limits.ahead:
            clocks[T_KNOWN] = clocks[T_NOW]
        arrival = release(st, closed_loop, clocks[T_KNOWN], limits.waiting_load)
        if counters[C_RELEASED] == counters[C_COMPLETED]:  # idle: nothing is in flight
            for r in range(ranks.shape[0]):
                drop_late(st, kv, r)
            if not arrival < until:
                return REACHED
            clocks[T_NOW] = clocks[T_KNOWN] = max(arrival, clocks[T_NOW])
            continue
        if clocks[T_NOW] >= until:
            return REACHED
        if counters[C_LOG] >= st.log.shape[0]:
            return LOG_FULL
        start, late = clocks[T_NOW], int64(0)
        tokens, prompts, decodes, used, preemptions = plan_all(plan, limits, kv, st, x)
        for r in range(ranks.shape[0]):
            late += ranks[r, R_LATE]
            drop_late(st, kv, r)
        if tokens == 0.0:
            if late == 0 and preemptions == 0 and clocks[T_KNOWN] >= start:
                return STUCK
            clocks[T_KNOWN] = start  # the step in flight is over: plan again with what is free now
            continue
        clocks[T_KNOWN] = start
        sequences = decodes + counters[C_CHUNKS]
        now = run_several(plan, limits, st, books, x, sequences, int(tokens - prompts))
        clocks[T_NOW] = now
        clocks[T_BUSY] += now - start
        counters[C_STRETCH] = 1
        write_log(plan, st, books, start, now, 1, decodes, prompts, used)
        log_draft(st, x)
        counters[C_PROMPT] += int(prompts)
        completed = counters[C_COMPLETED]
        for r in range(ranks.shape[0]):
            finish_several(st, kv, x, r, now, closed_loop, limits.ahead)
        st.log[counters[C_LOG] - 1, L_EMITTED] = counters[C_EMITTED]
        if completed < goal and counters[C_COMPLETED] >= goal:
            return GOAL
