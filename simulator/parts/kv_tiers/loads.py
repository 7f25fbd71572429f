"""Blocks loaded from tiers: which blocks a waiting request finds, whether to load them, and their transfer.

A loading request has all blocks of its prompt allocated and is in no queue; afterwards it is admitted before waiting
ones.
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_code, compiled_part, int64
from ...batching import state as col
from ...batching.counting import count_chunk
from ...batching.holding import count_blocks, hold, take
from ...batching.host import paced
from ...batching.kv import KvRules
from ...batching.policies import Limits
from ...batching.prefix import USERS, content_key, find, remember, share
from ...batching.queues import take_head
from ...batching.state import I8, State
from ...step.timed import cost_step
from . import state as tier
from .state import TierState
from .store import entry_of, keep, moved, put, tier_key, touch

NOTHING, BEGUN, BLOCKED = range(3)
"""What became of a look at the head of the queue: nothing to load; a load; no place yet."""


@compiled_part
def next_slot(st: State, r: int) -> int:
    """The slot that the next sequence gets."""
    return int(st.pool.slots[r, st.ranks[r, col.R_SLOTS] - 1])


@compiled_part
def look(t: TierState, st: State, kv: KvRules, r: int, i: int) -> int:
    """Find a waiting request's leading blocks, wherever they are; how many.

    The blocks, or entries of a tier, are left in the next slot's row, their levels in `TierState.levels`. Its last
    token is never taken from a cache: its result is needed.
    """
    pool, request = st.pool, st.ints[i]
    row, most = pool.held[r, next_slot(st, r)], (request[col.I_TARGET] - 1) // kv.block
    if request[col.I_PREEMPTED] == 0:  # nothing of its own yet
        most = min(most, request[col.I_HASHED] // kv.block)
    for j in range(most):
        key = content_key(pool, request[col.I_HASHES], request[col.I_HASHED], i, j, kv.block)
        row[j] = find(pool.table[r], key)
        t.levels[j] = -1
        if row[j] >= 0:
            continue
        key, level = tier_key(t, key), int64(0)
        while level < t.which.shape[1]:
            row[j] = entry_of(t.shelves, t.which[r, level], key)
            if row[j] >= 0:
                break
            level += 1
        if row[j] < 0:
            return int(j)
        t.levels[j] = level
    return int(most)


@compiled_part
def first_below(t: TierState, blocks: int, level: int) -> int:
    """Return the number of leading blocks before the first one below a level."""
    j = int64(0)
    while j < blocks and t.levels[j] <= level:
        j += 1
    return int(j)


@compiled_part
def load_end(t: TierState, r: int, row: I8, blocks: int, now: float) -> float:
    """Return when `blocks` leading blocks would be loaded if the load began now."""
    end = now
    for level in range(t.which.shape[1]):
        count, begin = int64(0), max(now, t.free_s[r, level, tier.UP])
        for j in range(blocks):
            if t.levels[j] == level:
                count += 1
                begin = max(begin, t.shelves.came[row[j]])
        if count > 0:
            end = max(end, begin + count * t.pace[level, tier.P_BLOCK] + t.pace[level, tier.P_LATENCY])
    return end


@compiled_part
def bring(t: TierState, r: int, row: I8, blocks: int, now: float) -> float:
    """Transfer leading blocks, counted and marked as used last; return the end of the transfer."""
    end = now
    for level in range(t.which.shape[1]):
        count, begin = int64(0), now
        for j in range(blocks):
            if t.levels[j] == level:
                count += 1
                begin = max(begin, t.shelves.came[row[j]])
                touch(t.shelves, t.which[r, level], row[j])
        if count > 0:
            t.counts[level, tier.N_LOADED] += count
            end = max(end, moved(t, r, level, tier.UP, begin, count))
    return end


@compiled_part
def prefill_seconds(t: TierState, st: State, limits: Limits, r: int, start: int, end: int) -> float:
    """Return the seconds to compute only a prompt's tokens from `start` on, by the cost models."""
    seconds, m, windows, none = 0.0, t.moments[r], t.costs.windows, int64(0)
    if t.costs.model == 0:
        return seconds
    while start < end:
        q = min(end - start, limits.token_budget) if limits.chunked else end - start
        for w in range(m.size):
            m[w] = 0.0
        count_chunk(m, windows, start, q)
        t.chunk[0, 0], t.chunk[1, 0] = q, 0
        step = cost_step(t.costs, t.moments, none, none, t.chunk, none + 1, True, limits.captured)
        seconds += paced(limits.pace, step, float(q), 1.0 / t.moments.shape[0], 1)
        start += q
    for w in range(m.size):
        m[w] = 0.0
    return seconds


@compiled_part
def weigh(t: TierState, st: State, limits: Limits, kv: KvRules, r: int, i: int) -> None:
    """See whether blocks are worth writing now that a request has arrived, where they are loaded if that is sooner.

    They are where a device's link moves one in less time than a full step computes it, at the end of the
    longest text so far.
    """
    longest = st.ints[i, col.I_INPUT] + st.ints[i, col.I_OUTPUT]
    if not t.cheaper or longest <= t.totals[tier.O_LONGEST]:
        return
    t.totals[tier.O_LONGEST], tokens = longest, limits.token_budget
    start = max(longest - tokens, 0)
    takes = prefill_seconds(t, st, limits, r, start, start + tokens) * kv.block / tokens
    for level in range(t.which.shape[1]):
        if t.pace[level, tier.P_BLOCK] <= takes:
            t.worth[level] = 1


@compiled_part
def worth_loading(t: TierState, st: State, limits: Limits, kv: KvRules, r: int, i: int, row: I8, blocks: int) -> int:
    """Leading blocks to take over: all, or as many as bring the end of the prompt soonest."""
    target, now = st.ints[i, col.I_TARGET], st.clocks[col.T_NOW]
    if not t.cheaper:
        return blocks
    best = first_below(t, blocks, -1)
    soonest, before = prefill_seconds(t, st, limits, r, best * kv.block, target), best
    for level in range(t.which.shape[1]):
        cut = first_below(t, blocks, level)
        if cut == before:
            continue
        before = cut
        takes = load_end(t, r, row, cut, now) - now
        takes += prefill_seconds(t, st, limits, r, cut * kv.block, target)
        if takes < soonest:
            best, soonest = cut, takes
    return best


@compiled_part
def has_room(t: TierState, st: State, kv: KvRules, r: int, blocks: int, whole: int) -> bool:
    """Whether `whole` tokens of the request just looked at fit, if it is given its leading blocks as found."""
    pool, near, taken = st.pool, int64(0), int64(0)
    row = pool.held[r, next_slot(st, r)]
    for j in range(blocks):
        if t.levels[j] < 0:
            near += 1
            taken += pool.blocks[r, row[j], USERS] == 0
    return bool((whole + kv.block - 1) // kv.block - near + taken <= st.ranks[r, col.R_BLOCKS])


@compiled_part
def take_over(t: TierState, st: State, kv: KvRules, r: int, i: int, blocks: int, whole: int) -> bool:
    """Give a request its leading blocks as found, if the rest of `whole` tokens then fits too.

    Returns False, without a change, if they do not fit. A block in a tier gets a target block and is transferred.
    """
    pool, rank, request = st.pool, st.ranks[r], st.ints[i]
    row, near, now = pool.held[r, next_slot(st, r)], int64(0), st.clocks[col.T_NOW]
    if not has_room(t, st, kv, r, blocks, whole):
        return False
    rank[col.R_SLOTS] -= 1
    request[col.I_SLOT] = pool.slots[r, rank[col.R_SLOTS]]
    t.spans[i, 0], t.spans[i, 1] = now, bring(t, r, row, blocks, now)
    for j in range(blocks):
        if t.levels[j] < 0:
            near += 1
            rank[col.R_BLOCKS] -= share(pool, r, row[j])
    for j in range(blocks):
        if t.levels[j] >= 0:
            row[j] = -1
    take(st, r, blocks - near)
    rank[col.R_BLOCKS] -= blocks - near
    t.totals[tier.O_FOUND] += near
    request[col.I_BLOCKS] = blocks
    request[col.I_KEYED] = 0
    t.rows[i, tier.W_BLOCKS] = blocks
    count_blocks(st, kv, r, i, blocks)
    return True


@compiled_part
def note_landed(t: TierState, st: State, kv: KvRules, r: int, i: int) -> None:
    """Note the content of blocks that a request has found or loaded: others can share it."""
    pool, request = st.pool, st.ints[i]
    row = pool.held[r, request[col.I_SLOT]]
    for j in range(t.rows[i, tier.W_BLOCKS]):
        if row[j] < 0:
            key = content_key(pool, request[col.I_HASHES], request[col.I_HASHED], i, j, kv.block)
            row[j] = remember(pool, r, key)
    request[col.I_KEYED] = t.rows[i, tier.W_BLOCKS]


@compiled_part
def try_load(t: TierState, st: State, limits: Limits, kv: KvRules, r: int) -> int:
    """Begin the load of the request at the head of a rank's queue, if it has something to load.

    Instant blocks are not a load: `TierState.rows` says how many blocks the request takes over at its admission.
    """
    rank, i, now = st.ranks[r], st.ranks[r, col.R_HEAD], st.clocks[col.T_NOW]
    request, blocks = st.ints[i], look(t, st, kv, r, i)
    near, row, line = first_below(t, blocks, -1), st.pool.held[r, next_slot(st, r)], t.lines[r]
    t.rows[i, tier.W_BLOCKS], t.rows[i, tier.W_PASSED] = near, 0
    target = request[col.I_TARGET]
    if limits.reserve:
        target = request[col.I_INPUT] + request[col.I_OUTPUT] - 1 + limits.spare
    if near == blocks:
        return NOTHING if has_room(t, st, kv, r, near, target) else BLOCKED
    cut = worth_loading(t, st, limits, kv, r, i, row, blocks)
    if load_end(t, r, row, cut, now) <= now:
        t.rows[i, tier.W_BLOCKS], t.rows[i, tier.W_PASSED] = cut, blocks - cut
        return NOTHING if has_room(t, st, kv, r, cut, target) else BLOCKED
    if rank[col.R_RUNNING] + rank[col.R_LATE] + line[tier.L_COUNT] >= limits.max_sequences:
        return BLOCKED
    if not take_over(t, st, kv, r, i, cut, target):
        return BLOCKED  # what is near alone would not fit either
    hold(st, kv, r, i, target)
    t.totals[tier.O_LOADS] += 1
    t.rows[i, tier.W_STATE], t.rows[i, tier.W_PASSED] = tier.LOADING, blocks - cut
    take_head(st, r, i)
    append_line(t, st, r, i, tier.L_LOADING, tier.L_LAST)
    line[tier.L_COUNT] += 1
    return BEGUN


@compiled_part
def append_line(t: TierState, st: State, r: int, i: int, head: int, last: int) -> None:
    """Put a request at the end of one of a rank's lines."""
    line = t.lines[r]
    st.ints[i, col.I_NEXT] = -1
    if line[head] < 0:
        line[head] = i
    else:
        st.ints[line[last], col.I_NEXT] = i
    line[last] = i


@compiled_code
def land(t: TierState, st: State, kv: KvRules, r: int) -> None:
    """Move requests whose blocks are there, as far as a plan knows, to those that can be admitted."""
    line, before, i = t.lines[r], int64(-1), t.lines[r, tier.L_LOADING]
    while i >= 0:
        after = st.ints[i, col.I_NEXT]
        if t.spans[i, 1] > st.clocks[col.T_KNOWN]:
            before, i = i, after
            continue
        if before < 0:
            line[tier.L_LOADING] = after
        else:
            st.ints[before, col.I_NEXT] = after
        if after < 0:
            line[tier.L_LAST] = before
        waited = t.spans[i, 1] - t.spans[i, 0]
        t.seconds[tier.Z_WAITED] += waited
        t.seconds[tier.Z_LONGEST] = max(t.seconds[tier.Z_LONGEST], waited)
        t.rows[i, tier.W_STATE] = tier.LANDED
        note_landed(t, st, kv, r, i)
        append_line(t, st, r, i, tier.L_LANDED, tier.L_LAST_LANDED)
        i = after


@compiled_code
def next_landing(t: TierState, st: State) -> float:
    """When the next load ends; infinity where there is none."""
    soonest = np.inf
    for r in range(st.ranks.shape[0]):
        i = t.lines[r, tier.L_LOADING]
        while i >= 0:
            soonest = min(soonest, t.spans[i, 1])
            i = st.ints[i, col.I_NEXT]
    return soonest


@compiled_part
def prefetch(t: TierState, st: State, kv: KvRules, r: int, i: int) -> None:
    """Bring what a request that arrives will find below the first tier to that one.

    What it will find there is used now.
    """
    pool, request = st.pool, st.ints[i]
    if not t.prefetch or t.worth[0] == 0:
        return
    x, top, at = t.shelves, t.which[r, 0], st.floats[i, col.F_ARRIVAL]
    for j in range(min(request[col.I_TARGET] - 1, request[col.I_HASHED]) // kv.block):
        key = content_key(pool, request[col.I_HASHES], request[col.I_HASHED], i, j, kv.block)
        if find(pool.table[r], key) >= 0:
            continue
        key, level = tier_key(t, key), int64(1)
        e = entry_of(x, top, key)
        if e >= 0:
            touch(x, top, e)
            continue
        while e < 0 and level < t.which.shape[1]:
            e = entry_of(x, t.which[r, level], key)
            level += 1
        if e < 0:
            return
        touch(x, t.which[r, level - 1], e)
        there = moved(t, r, level - 1, tier.UP, max(at, x.came[e]), 1)
        e, out = put(x, top, key, -1)
        before = x.came[e]
        t.counts[0, tier.N_PREFETCHED] += 1
        if out != 0:
            t.counts[0, tier.N_EVICTED] += 1
            if not t.through:
                there = max(there, keep(t, r, 1, out, max(at, before)))
        x.came[e] = there


HOOKS = {"before_plan": land, "next_event": next_landing}
