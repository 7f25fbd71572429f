"""The engine's inner loop, compiled: plan, cost, advance the clock, stamp, repeat.

Between two changes of the batch (arrival, admission, completion, a block that might not be
there) decode steps differ only in context. They run as one *stretch*: planned once, costed
step by step, stamped at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import overload

from ...workloads.batch import (
    BASE_MOMENTS,
    DECODE_KV,
    DECODES,
    PREFILLS,
    TOKENS,
    WINDOW_MOMENTS,
)
from ...workloads.jit import OPTIONS, compiled, compiled_inline, compiled_part, int64, lacks
from ..step.books import B_DECODES, B_SECONDS, B_STEP, Books, spent
from ..step.compiled import step_seconds
from ..step.lowering import Plan
from ..step.unequal import Uneven, uneven_seconds
from .clients import complete, release
from .holding import drop_late, hold, kv_bytes
from .host import paced
from .kv import KvRules
from .planning import hold_back, plan_rank
from .plans import record_plan, records
from .policies import Limits
from .state import (
    C_CHUNKS,
    C_COMPLETED,
    C_EMITTED,
    C_LOG,
    C_POLL,
    C_PREEMPTIONS,
    C_PROMPT,
    C_RELEASED,
    C_STEPS,
    C_STRETCH,
    C_WAITED,
    F8,
    F_FIRST,
    F_HELD,
    F_LAST,
    HIST_BINS,
    HIST_MIN_S,
    HIST_RATIO,
    I8,
    I_CACHED,
    I_GENERATED,
    I_OUTPUT,
    I_ROOM,
    I_TARGET,
    L_DECODES,
    L_EMITTED,
    L_END,
    L_JOULES,
    L_KV,
    L_PREFILL,
    L_PROMPTS,
    L_RUNNING,
    L_START,
    L_STEPS,
    L_WAITING,
    NUM_LOG,
    R_LATE,
    R_LEFT,
    R_RUNNING,
    R_WAITING,
    T_BUSY,
    T_KNOWN,
    T_KV_PEAK,
    T_NOW,
    T_TBT_COUNT,
    T_TBT_SUM,
    State,
)

REACHED, LOG_FULL, STUCK, GOAL = range(4)
"""Why `advance` returns: time reached, log to be emptied, a bug, as many completions as asked for."""

LOG_RATIO = np.log(HIST_RATIO)

RENEWED, FEWER = 64, 8
"""See `set_uneven`."""


@compiled_part
def record_gap(hist: I8, clocks: F8, gap: float, times: int) -> None:
    """Count `times` token gaps of `gap` seconds."""
    bin_ = int(np.log(max(gap, HIST_MIN_S) / HIST_MIN_S) / LOG_RATIO)
    hist[min(bin_, HIST_BINS - 1)] += times
    clocks[T_TBT_SUM] += gap * times
    clocks[T_TBT_COUNT] += times


@compiled_part
def lengthen(st: State, windows: I8, r: int, done: int) -> None:
    """Moments of the next decode step of a stretch, `done` steps into it."""
    for w in range(windows.size):
        at = BASE_MOMENTS + WINDOW_MOMENTS * w + DECODE_KV
        if windows[w] == 0:
            st.moments[r, at] += st.moments[r, DECODES]
            continue
        kv = 0
        for j in range(st.ranks[r, R_RUNNING]):
            kv += min(st.ints[st.running[r, j], I_CACHED] + done + 1, windows[w])
        st.moments[r, at] = kv


def set_uneven(plan: Plan, limits: Limits, st: State, books: Books, r: int, done: int) -> None:
    """`renew_uneven`, where the kernel of the decodes tells what unequal contexts add."""
    if plan.uneven is not None:
        renew_uneven(plan.uneven, limits, st, books, r, done)


@compiled_part
def renew_uneven(
    uneven: Uneven, limits: Limits, st: State, books: Books, r: int, done: int
) -> None:
    """Put what a rank's unequal contexts add into its moments, `done` steps into a stretch.

    It changes slowly: one value serves `RENEWED` steps, or until a `FEWER`th of the decodes has
    come or gone.
    """
    m, last, step = st.moments[r], books.spread[r], st.counters[C_STEPS]
    at = m.size - 1  # behind the sums of the batch
    m[at] = 0.0
    if m[PREFILLS] > 0.0 or m[DECODES] < 2.0:
        return
    changed = abs(m[DECODES] - last[B_DECODES]) * FEWER >= m[DECODES]
    if changed or step - last[B_STEP] >= RENEWED:
        count = 0
        for j in range(st.ranks[r, R_RUNNING]):
            if st.fresh[r, j] > 0:
                books.contexts[count] = st.ints[st.running[r, j], I_CACHED] + done + 1
                count += 1
        last[B_DECODES], last[B_STEP] = m[DECODES], step
        last[B_SECONDS] = uneven_seconds(
            uneven, books.contexts, count, limits.captured, books.places
        )
    m[at] = last[B_SECONDS]


@overload(set_uneven, jit_options=OPTIONS, inline="always")
def _typed_uneven(
    plan: Any, limits: Any, st: Any, books: Any, r: Any, done: Any
) -> Callable[..., None]:
    def absent(plan: Any, limits: Any, st: Any, books: Any, r: Any, done: Any) -> Any:
        return None

    def present(plan: Any, limits: Any, st: Any, books: Any, r: Any, done: Any) -> Any:
        renew_uneven(plan.uneven, limits, st, books, r, done)

    return absent if lacks(plan, "uneven") else present


@compiled_part
def growth(st: State, kv: KvRules, r: int, steps: int) -> float:
    """KV bytes that a rank's sequences must add to what they hold for `steps` decode steps."""
    out = 0.0
    for j in range(st.ranks[r, R_RUNNING]):
        i = st.running[r, j]
        tokens = st.ints[i, I_CACHED] + steps
        if tokens > st.ints[i, I_ROOM]:
            out += kv_bytes(kv, tokens) - st.floats[i, F_HELD]
    return out


@compiled_part
def stretch_limit(st: State, kv: KvRules, token_budget: int) -> int:
    """Decode steps until the first completion or until blocks might run out (at least 1)."""
    k = int64(1 << 40)
    for r in range(st.ranks.shape[0]):
        k = min(k, st.ranks[r, R_LEFT])
        if st.ranks[r, R_RUNNING] > token_budget:
            return 1
    block = 0.0
    for c in range(kv.window.size):
        block += kv.block_bytes[c]
    for r in range(st.ranks.shape[0]):
        # The plan holds the blocks of one step; mostly there is room for all blocks to come.
        if st.ranks[r, R_RUNNING] * block * (k // kv.block + 1) <= st.free[r]:
            continue
        low, high, middle = int64(1), k, k
        while low < high:
            if growth(st, kv, r, middle) <= st.free[r]:
                low = middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        k = low
    return k


@compiled_part
def finish(
    st: State, kv: KvRules, r: int, steps: int, first_end: float, now: float, closed_loop: bool,
    ahead: bool,
) -> None:  # fmt: skip
    """Stamp a rank's sequences after `steps` steps that ended at `now`; retire what is done.

    The first of the steps ended at `first_end`: its tokens' gaps reach back to each sequence's
    previous token. Gaps within the stretch were recorded by the caller.
    """
    rank, counters = st.ranks[r], st.counters
    kept, gap, gaps = 0, 0.0, int64(0)
    first_late, places = st.running.shape[1] // 3, 2 * st.running.shape[1] // 3
    for j in range(rank[R_RUNNING]):
        i, q = st.running[r, j], st.fresh[r, j]
        request = st.ints[i]
        left = request[I_TARGET] - request[I_CACHED]
        st.running[r, kept] = i
        kept += 1
        request[I_CACHED] += q if left > 0 or q == 0 else steps
        if q < left or q == 0:
            continue  # not scheduled, or a prompt that goes on
        if request[I_CACHED] > request[I_ROOM]:
            hold(st, kv, r, i, request[I_CACHED])
        count = 1 if left > 0 else steps
        counters[C_EMITTED] += count
        stamps = st.floats[i]
        if request[I_GENERATED] == 0:
            stamps[F_FIRST] = now
        else:  # most sequences share their gap: count equal ones together
            own = first_end - stamps[F_LAST]
            if own != gap and gaps > 0:
                record_gap(st.hist, st.clocks, gap, gaps)
                gaps = int64(0)
            gap = own
            gaps += 1
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
    st.clocks[T_KV_PEAK] = max(st.clocks[T_KV_PEAK], kv.capacity - st.free[r])
    rank[R_RUNNING] = kept
    if not ahead:
        drop_late(st, kv, r)


@compiled_part
def same_plan(st: State, limits: Limits, closed: bool) -> int:
    """Decode steps until the rules for waiting prompts and for arrivals must be asked again."""
    k = int64(1 << 40)
    if limits.poll_steps > 1:
        k = limits.poll_steps - st.counters[C_POLL]
    if limits.even_steps > 0:
        k = min(k, limits.even_steps - st.counters[C_WAITED])
    elif closed:
        k = 1
    return k


@compiled_part
def count_steps(st: State, limits: Limits, steps: int, chunks: int) -> None:
    """Count a stretch's steps for the rules that ask how many there were."""
    counters, ranks = st.counters, st.ranks
    counters[C_POLL] += limits.poll_steps if chunks > 0 else steps
    if limits.even_steps > 0:  # the first step's plan has counted itself
        decoding = True
        for r in range(ranks.shape[0]):
            decoding = decoding and ranks[r, R_RUNNING] > 0
        if decoding:
            counters[C_WAITED] += steps - 1


@compiled_inline
def write_log(
    plan: Plan, st: State, books: Books, start: float, end: float, steps: int, decodes: float,
    prefill: float, used: float,
) -> None:  # fmt: skip
    """Append a stretch to the log."""
    busy = books.busy
    row = st.log[st.counters[C_LOG]]
    row[L_START], row[L_END], row[L_STEPS] = start, end, steps
    row[L_DECODES], row[L_PREFILL], row[L_PROMPTS] = decodes, prefill, st.counters[C_CHUNKS]
    row[L_RUNNING], row[L_WAITING], row[L_KV] = 0.0, 0.0, used
    row[L_EMITTED], row[L_JOULES] = st.counters[C_EMITTED], spent(plan, books.tally)
    for r in range(st.ranks.shape[0]):
        row[L_RUNNING] += st.ranks[r, R_RUNNING]
        row[L_WAITING] += st.ranks[r, R_WAITING]
    for p in range(busy.shape[1]):
        row[NUM_LOG + p] = busy[0, p] - busy[1, p]
        busy[1, p] = busy[0, p]
    st.counters[C_LOG] += 1


@compiled
def advance(
    plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, until: float,
    closed_loop: bool, goal: int,
) -> int:  # fmt: skip
    """Run steps until the clock reaches `until`, nothing is left, or the caller must act.

    Every request that arrives before `until` must have been submitted; a step that starts
    before `until` is finished. The step that brings completions up to `goal` is the last one.

    Returns
    -------
    int
        `REACHED`, `LOG_FULL`, `STUCK` or `GOAL`; after the second and fourth the caller comes
        back.
    """
    counters, clocks, moments, ranks = st.counters, st.clocks, st.moments, st.ranks
    while True:
        if not limits.ahead:
            clocks[T_KNOWN] = clocks[T_NOW]
        if limits.poll_steps > 1 and clocks[T_NOW] >= until:
            return REACHED  # not all that a look would find has been submitted
        idle = counters[C_RELEASED] == counters[C_COMPLETED]
        arrival = np.inf
        if idle or limits.poll_steps <= 1 or counters[C_POLL] >= limits.poll_steps:
            arrival = release(st, closed_loop, clocks[T_KNOWN], limits.waiting_load)
            counters[C_POLL] = 0
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
        start = clocks[T_NOW]
        tokens, decodes, used, preemptions, late = 0.0, 0.0, 0.0, 0, 0
        counters[C_CHUNKS] = 0
        closed = hold_back(st, limits, kv)
        for r in range(ranks.shape[0]):
            preemptions += plan_rank(st, limits, kv, plan.windows, r, clocks[T_KNOWN], closed)
            record_plan(st, r, clocks[T_KNOWN])
            late += ranks[r, R_LATE]
            tokens += moments[r, TOKENS]
            decodes += moments[r, DECODES]
            used += kv.capacity - st.free[r]
            clocks[T_KV_PEAK] = max(clocks[T_KV_PEAK], kv.capacity - st.free[r])
        counters[C_PREEMPTIONS] += preemptions
        for r in range(ranks.shape[0]):
            drop_late(st, kv, r)
        if tokens == 0.0:
            if late == 0 and preemptions == 0 and clocks[T_KNOWN] >= start:
                return STUCK
            clocks[T_KNOWN] = start  # the step in flight is over: plan again with what is free now
            continue
        chunks = counters[C_CHUNKS]
        k = int64(1)
        if chunks == 0 and preemptions == 0 and late == 0 and not records(st):
            k = min(stretch_limit(st, kv, limits.token_budget), same_plan(st, limits, closed))
        # A queue whose head cannot be admitted stays blocked while the batch lasts, so an
        # arrival behind it changes nothing; ranks choose among themselves by load, and an order
        # may put an arrival before it.
        cut, by_load = until, ranks.shape[0] > 1
        if limits.poll_steps <= 1 and (by_load or limits.ordered or ranks[0, R_WAITING] == 0):
            cut = min(arrival, until)
        now, first_end, done = start, start, int64(0)
        while done < k and (done == 0 or (clocks[T_KNOWN] if limits.ahead else now) < cut):
            for r in range(ranks.shape[0]):
                if done > 0:
                    lengthen(st, plan.windows, r, done)
                set_uneven(plan, limits, st, books, r, done)
            before = clocks[T_KNOWN] = now
            seconds = step_seconds(
                plan, moments, counters[C_STEPS], int(decodes), st.chunks, chunks, done == 0,
                books,
            )  # fmt: skip
            now += paced(limits.pace, seconds, (decodes + chunks) / ranks.shape[0])
            counters[C_STEPS] += 1
            if done == 0:
                first_end = now
            else:
                record_gap(st.hist, clocks, now - before, int(decodes))
            done += 1
        clocks[T_NOW] = now
        clocks[T_BUSY] += now - start
        counters[C_STRETCH] = done
        write_log(plan, st, books, start, now, done, decodes, tokens - decodes, used)
        counters[C_PROMPT] += int(tokens - decodes)
        count_steps(st, limits, done, chunks)
        completed = counters[C_COMPLETED]
        for r in range(ranks.shape[0]):
            finish(st, kv, r, done, first_end, now, closed_loop, limits.ahead)
        st.log[counters[C_LOG] - 1, L_EMITTED] = counters[C_EMITTED]
        if completed < goal and counters[C_COMPLETED] >= goal:
            return GOAL
