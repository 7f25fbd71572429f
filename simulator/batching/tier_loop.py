"""The engine's inner loop where blocks may lie in tiers: `loop.advance`, beside which transfers run.

Loads run beside the steps; a load that ends lets a request be admitted, as an arrival does. A step waits until
the blocks that it takes have been copied.
"""

from __future__ import annotations

import numpy as np

from ...workloads.batch import DECODES, TOKENS
from ...workloads.jit import compiled, compiled_given, compiled_inline, compiled_part, int64
from ..step.books import Books
from ..step.lowering import Plan
from .clients import lightest_rank, soonest, take
from .holding import drop_late, enqueue
from .kv import KvRules
from .loop import GOAL, LOG_FULL, REACHED, STUCK, finish, write_log
from .policies import Limits
from .state import (
    C_CHUNKS,
    C_COMPLETED,
    C_EMITTED,
    C_LOG,
    C_PREEMPTIONS,
    C_PROMPT,
    C_RELEASED,
    C_STRETCH,
    F_ARRIVAL,
    I_CACHED,
    L_EMITTED,
    R_LATE,
    R_RUNNING,
    T_BUSY,
    T_KNOWN,
    T_KV_PEAK,
    T_NOW,
    State,
)
from .stretch import count_steps, run_stretch, stretch_limit
from .tier_loads import land, next_landing, prefetch, weigh
from .tier_plan import plan_tiered
from .tier_state import Z_HELD, Z_HELD_UNTIL, Z_NOW


@compiled_given("st.pool.tiers", otherwise=lambda st, i: None)
def renew(st: State, i: int) -> None:
    """`tier_state.with_rows` for a request that was appended where there is room."""
    t = st.pool.tiers
    for c in range(t.rows.shape[1]):
        t.rows[i, c] = 0
    t.spans[i, 0] = t.spans[i, 1] = np.nan


@compiled_part
def release_tiered(
    st: State, limits: Limits, kv: KvRules, closed_loop: bool, known_at: float
) -> float:  # fmt: skip
    """`clients.release`; what a request will find comes nearer as it arrives."""
    while True:
        i = soonest(st, closed_loop)
        if i < 0:
            return np.inf
        if st.floats[i, F_ARRIVAL] > known_at:
            return float(st.floats[i, F_ARRIVAL])
        take(st, i)
        r = lightest_rank(st, limits.waiting_load)
        enqueue(st, r, i)
        weigh(st, limits, kv, r, i)
        prefetch(st, kv, r, i)
        st.counters[C_RELEASED] += 1


@compiled_part
def until_full(st: State, kv: KvRules) -> int:
    """Decode steps until a sequence fills a block: it is copied then, or the next one takes its place."""
    k = int64(1 << 40)
    for r in range(st.ranks.shape[0]):
        for j in range(st.ranks[r, R_RUNNING]):
            k = min(k, kv.block - st.ints[st.running[r, j], I_CACHED] % kv.block)
    return k


@compiled_part
def held_until(st: State, start: float) -> float:
    """When a step begins that could at `start`: once the blocks that it takes have been copied."""
    seconds = st.pool.tiers.seconds
    begin = max(start, seconds[Z_HELD_UNTIL])
    seconds[Z_HELD] += begin - start
    return float(begin)


@compiled_inline
def plan_all(
    plan: Plan, limits: Limits, kv: KvRules, st: State
) -> tuple[float, float, float, int]:  # fmt: skip
    """Plan the next step of every rank; its tokens and decodes, KV bytes in use, and preemptions."""
    clocks, preemptions = st.clocks, int64(0)
    tokens, decodes, used = 0.0, 0.0, 0.0
    st.counters[C_CHUNKS] = 0
    for r in range(st.ranks.shape[0]):
        land(st, kv, r)
        preemptions += plan_tiered(st, limits, kv, plan.windows, r, clocks[T_KNOWN])
        tokens += st.moments[r, TOKENS]
        decodes += st.moments[r, DECODES]
        used += kv.capacity - st.free[r]
        clocks[T_KV_PEAK] = max(clocks[T_KV_PEAK], kv.capacity - st.free[r])
    st.counters[C_PREEMPTIONS] += preemptions
    return tokens, decodes, used, preemptions


@compiled
def advance_tiered(
    plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, until: float,
    closed_loop: bool, goal: int,
) -> int:  # fmt: skip
    """`loop.advance` where blocks may lie in tiers."""
    counters, clocks, ranks = st.counters, st.clocks, st.ranks
    while True:
        if not limits.ahead:
            clocks[T_KNOWN] = clocks[T_NOW]
        st.pool.tiers.seconds[Z_NOW] = clocks[T_NOW]
        arrival = release_tiered(st, limits, kv, closed_loop, clocks[T_KNOWN])
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
        tokens, decodes, used, preemptions = plan_all(plan, limits, kv, st)
        for r in range(ranks.shape[0]):
            late += ranks[r, R_LATE]
            drop_late(st, kv, r)
        landing = next_landing(st)
        if tokens == 0.0:
            if late > 0 or preemptions > 0 or clocks[T_KNOWN] < start:
                clocks[T_KNOWN] = start  # the step in flight is over: plan again with what is free
                continue
            if landing == np.inf:
                return STUCK
            if not min(landing, arrival) < until:
                return REACHED
            clocks[T_NOW] = clocks[T_KNOWN] = max(min(landing, arrival), start)
            continue
        chunks = counters[C_CHUNKS]
        k = int64(1)
        if chunks == 0 and preemptions == 0 and late == 0:
            k = min(stretch_limit(st, kv, limits.token_budget), until_full(st, kv))
        clocks[T_NOW] = start = held_until(st, start)
        cut = min(min(arrival, until), landing)
        first_end, now, done = run_stretch(plan, limits, st, books, k, cut, decodes, chunks)
        clocks[T_NOW] = st.pool.tiers.seconds[Z_NOW] = now
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
