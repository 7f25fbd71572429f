"""KV tiers in an engine's loop: who is admitted next and with what, and the waiting time of a step.

A request at the head of the queue starts its load, and requests behind it continue. After its load it is admitted
before waiting ones, within priorities and limits. A step waits until its blocks have been copied.
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_code, compiled_part, int64
from ...batching import hooks
from ...batching.kv import KvRules
from ...batching.policies import Limits
from ...batching.queues import count_left, leave_queue
from ...batching.state import C_HITS, I_CACHED, I_NEXT, I_NOTED, R_HEAD, R_LATE, R_RUNNING, T_NOW, State
from . import state as tier
from .loads import BEGUN, NOTHING, note_landed, prefetch, take_over, try_load, weigh
from .state import TierState
from .store import write_through


@compiled_code
def tell_time(t: TierState, st: State) -> None:
    """Transfers that are asked for from here on start now."""
    t.seconds[tier.Z_NOW] = st.clocks[T_NOW]


@compiled_code
def note_computed(t: TierState, st: State, kv: KvRules, r: int, i: int, computed: int, now: float) -> None:
    """A batch has left the last stage at `now`, with `computed` tokens of a sequence in its cache."""
    t.seconds[tier.Z_NOW] = now
    t.rows[i, tier.W_COMPUTED] = computed
    if computed > 0:
        write_through(t, st, kv, r, i, st.ints[i, I_NOTED])


@compiled_code
def come_near(t: TierState, st: State, limits: Limits, kv: KvRules, r: int, i: int) -> None:
    """What a request will find comes nearer as it arrives."""
    weigh(t, st, limits, kv, r, i)
    prefetch(t, st, kv, r, i)


@compiled_code
def renew(t: TierState, st: State, i: int, number: int) -> bool:
    """`kv_tiers.state.with_rows` for a request that was appended where there is room."""
    for c in range(t.rows.shape[1]):
        t.rows[i, c] = 0
    t.spans[i, 0] = t.spans[i, 1] = np.nan
    return True


@compiled_part
def first_landed(t: TierState, st: State, r: int) -> int:
    """Which of a rank's requests whose blocks are there is admitted first; -1 without any."""
    best = t.lines[r, tier.L_LANDED]
    i = best
    while i >= 0:
        if hooks.sooner(st, i, best):
            best = i
        i = st.ints[i, I_NEXT]
    return int(best)


@compiled_code
def next_to_admit(t: TierState, st: State, limits: Limits, kv: KvRules, r: int) -> int:
    """The request that is admitted next, loads on the way to it begun; -1 where there is none.

    If nothing runs and the head does not fit, a loaded request is admitted at any priority: its blocks cannot be freed
    otherwise.
    """
    i, rank = first_landed(t, st, r), st.ranks[r]
    while True:
        hooks.find_head(st, r)
        head = rank[R_HEAD]
        if i >= 0 and (head < 0 or not hooks.sooner(st, head, i)):
            return i
        if head < 0:
            return -1
        loaded = try_load(t, st, limits, kv, r)
        if loaded == NOTHING:
            return int(head)
        if loaded != BEGUN:
            return -1 if rank[R_RUNNING] + rank[R_LATE] > 0 else i


@compiled_code
def use_cached(t: TierState, st: State, kv: KvRules, r: int, i: int, whole: int) -> bool:
    """Give a request the blocks that it has found or loaded, if the rest of `whole` tokens fits; False if not."""
    if t.rows[i, tier.W_STATE] != tier.LANDED:
        if not take_over(t, st, kv, r, i, t.rows[i, tier.W_BLOCKS], whole):
            return False
        note_landed(t, st, kv, r, i)
    st.ints[i, I_CACHED] = t.rows[i, tier.W_COMPUTED] = t.rows[i, tier.W_BLOCKS] * kv.block
    st.counters[C_HITS] += st.ints[i, I_CACHED]
    t.totals[tier.O_DECLINED] += t.rows[i, tier.W_PASSED]
    return True


@compiled_code
def leave(t: TierState, st: State, r: int, i: int) -> None:
    """Take an admitted request out of its queue, or of those whose blocks have been loaded."""
    line = t.lines[r]
    landed = t.rows[i, tier.W_STATE] == tier.LANDED
    t.rows[i, tier.W_STATE] = tier.WAITING
    if not landed:
        leave_queue(st, r, i)
        return
    before, at, after = int64(-1), line[tier.L_LANDED], st.ints[i, I_NEXT]
    while at != i:
        before, at = at, st.ints[at, I_NEXT]
    if before < 0:
        line[tier.L_LANDED] = after
    else:
        st.ints[before, I_NEXT] = after
    if after < 0:
        line[tier.L_LAST_LANDED] = before
    line[tier.L_COUNT] -= 1
    count_left(st, r, i)


@compiled_code
def until_full(t: TierState, st: State, limits: Limits, kv: KvRules) -> int:
    """Decode steps until a sequence fills a block: it is copied then, or the next one takes its place."""
    k = int64(1 << 40)
    for r in range(st.ranks.shape[0]):
        for j in range(st.ranks[r, R_RUNNING]):
            k = min(k, kv.block - st.ints[st.running[r, j], I_CACHED] % kv.block)
    return k


@compiled_code
def move_back(t: TierState, st: State, experts_s: float, start: float) -> None:
    """Let what was on its way over the host's link at a time come later by what experts have had of it since."""
    later, t.seconds[tier.Z_EXPERTS] = experts_s - t.seconds[tier.Z_EXPERTS], experts_s
    if later <= 0.0 or t.host < 0:
        return
    for r in range(st.ranks.shape[0]):
        if t.free_s[r, t.host, tier.UP] > start:
            t.free_s[r, t.host, tier.UP] += later
        i = t.lines[r, tier.L_LOADING]
        while i >= 0:
            if t.spans[i, 1] > start:
                t.spans[i, 1] += later
            i = st.ints[i, I_NEXT]


@compiled_code
def held_until(t: TierState, st: State, start: float) -> float:
    """When a step begins that could at `start`: once the blocks that it takes have been copied."""
    seconds = t.seconds
    begin = max(start, seconds[tier.Z_HELD_UNTIL])
    seconds[tier.Z_HELD] += begin - start
    return float(begin)


HOOKS = {
    "on_time": tell_time, "on_computed": note_computed, "on_arrival": come_near, "on_submit": renew,
    "choose": next_to_admit, "lookup": use_cached, "leave": leave, "alike": until_full, "after_step": move_back,
    "begins": held_until,
}  # fmt: skip
