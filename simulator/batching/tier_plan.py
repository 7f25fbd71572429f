"""The plan of a step where blocks may lie in tiers: `planning.plan_rank`, whose admission begins loads.

Running sequences come first, then those whose blocks have been loaded, then the queue. A request at its head
that has something to load does so, and those behind it go on.
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled_inline, compiled_part, int64
from .holding import hold, preempt_last, preempt_late
from .kv import KvRules
from .planning import next_tokens, set_tokens
from .policies import Limits
from .state import (
    C_HITS,
    F_SCHEDULED,
    I8,
    I_CACHED,
    I_INPUT,
    I_NEXT,
    I_OUTPUT,
    I_ROOM,
    I_TARGET,
    R_HEAD,
    R_LATE,
    R_LEFT,
    R_RUNNING,
    R_TAIL,
    R_WAITING,
    State,
)
from .tier_loads import BEGUN, NOTHING, note_landed, take_over, try_load
from .tier_state import (
    L_COUNT,
    L_LANDED,
    L_LAST_LANDED,
    LANDED,
    O_DECLINED,
    W_BLOCKS,
    W_PASSED,
    W_STATE,
    WAITING,
)


@compiled_part
def has_landed(st: State, r: int) -> int:
    """The first request of a rank whose blocks have been loaded, or -1."""
    return int(st.pool.tiers.lines[r, L_LANDED])


@compiled_inline
def admit_found(
    st: State, limits: Limits, kv: KvRules, r: int, i: int, budget: int, prompts: int, now: float
) -> int:  # fmt: skip
    """Admit a request with the blocks that it has or finds; its new tokens, 0 where it must wait on."""
    t, rank, request, want = st.pool.tiers, st.ranks[r], st.ints[i], st.ints[i, I_TARGET]
    if want > budget and limits.chunked:
        want = budget
    if want > budget and prompts > 0:
        return 0
    whole = request[I_TARGET]
    if limits.reserve:
        whole = request[I_INPUT] + request[I_OUTPUT] - 1 + limits.spare
    landed = t.rows[i, W_STATE] == LANDED
    if not landed:
        if not take_over(st, kv, r, i, t.rows[i, W_BLOCKS], whole):
            return 0
        note_landed(st, kv, r, i)
    request[I_CACHED] = t.rows[i, W_BLOCKS] * kv.block
    want = min(request[I_TARGET] - request[I_CACHED], want)
    if 0 < limits.threshold < want:
        want = limits.threshold
    if limits.lazy:
        whole = request[I_CACHED] + want
    hold(st, kv, r, i, whole)
    st.counters[C_HITS] += request[I_CACHED]
    t.totals[O_DECLINED] += t.rows[i, W_PASSED]
    t.rows[i, W_STATE] = WAITING
    leave_line(st, r, i, landed)
    if np.isnan(st.floats[i, F_SCHEDULED]):
        st.floats[i, F_SCHEDULED] = now
    st.running[r, rank[R_RUNNING]] = i
    rank[R_RUNNING] += 1
    return int(want)


@compiled_part
def leave_line(st: State, r: int, i: int, landed: bool) -> None:
    """Take an admitted request from the head of the queue, or of those whose blocks have been loaded."""
    rank, line, after = st.ranks[r], st.pool.tiers.lines[r], st.ints[i, I_NEXT]
    rank[R_WAITING] -= 1
    if landed:
        line[L_COUNT] -= 1
        line[L_LANDED] = after
        if after < 0:
            line[L_LAST_LANDED] = -1
        return
    rank[R_HEAD] = after
    if after < 0:
        rank[R_TAIL] = -1


@compiled_part
def next_to_admit(st: State, limits: Limits, kv: KvRules, r: int) -> int:
    """The request that is admitted next, loads on the way to it begun; -1 where there is none."""
    i = has_landed(st, r)
    while i < 0 and st.ranks[r, R_HEAD] >= 0:
        found = try_load(st, limits, kv, r)
        if found == NOTHING:
            return int(st.ranks[r, R_HEAD])
        if found != BEGUN:
            return -1
    return i


@compiled_part
def plan_tiered(
    st: State, limits: Limits, kv: KvRules, windows: I8, r: int, now: float
) -> int:  # fmt: skip
    """Plan one rank's step; returns how many sequences it preempted. See `planning.plan_rank`."""
    m, rank, budget = st.moments[r], st.ranks[r], limits.token_budget
    for w in range(m.size):
        m[w] = 0.0
    rank[R_LEFT] = 1 << 40
    preemptions, prompts, j = int64(0), int64(0), int64(0)
    while budget > 0 or j < rank[R_RUNNING]:
        if j == rank[R_RUNNING]:
            if preemptions > 0 or j + rank[R_LATE] >= limits.max_sequences:
                break
            i = next_to_admit(st, limits, kv, r)
            if i < 0:
                break
            want = admit_found(st, limits, kv, r, i, budget, prompts, now)
            if want == 0:
                break
            prompts += 1
        else:
            i = st.running[r, j]
            request, want = st.ints[i], next_tokens(st.ints[i])
            if 0 < limits.threshold < want:
                want = limits.threshold
            want = min(want, budget)
            fits = request[I_CACHED] + want <= request[I_ROOM] or want == 0
            while not fits and j < rank[R_RUNNING]:
                fits = hold(st, kv, r, i, request[I_CACHED] + want)
                if fits:
                    break
                if not preempt_late(st, kv, r):
                    preempt_last(st, kv, r)
                preemptions += 1
            if not fits:
                break
        set_tokens(st, kv, windows, r, j, want)
        budget -= min(want, budget)
        j += 1
    return preemptions
