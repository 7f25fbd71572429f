"""Loads of KV blocks from tiers: the blocks that a waiting request finds, the decision to load them, and their transfer.

A loading request has all blocks of its prompt allocated and is in no queue. After its load it is admitted before
waiting requests.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from ....workloads.jit import compiled_code, compiled_part, int64
from ...engine.allocation import allocate, count_blocks, take
from ...engine.counting import count_chunk
from ...engine.host import with_host_delay
from ...engine.kv import KvRules
from ...engine.policies import Limits
from ...engine.prefix import content_key, find, remember, share
from ...engine.queues import link_in, take_head
from ...engine.state import I8, State
from ...step.timed import cost_step
from . import state as tier
from .state import TierState
from .store import entry_of, keep, moved, put, tier_key, touch

Look = IntEnum("Look", "NOTHING BEGUN BLOCKED", start=0)
"""Results of a look at the head of the queue: nothing to load; a load was started; no free sequence or KV blocks."""


@compiled_part
def next_slot(state: State, rank: int) -> int:
    """Return the pool slot that the next admitted sequence gets."""
    return int(state.pool.slots[rank, state.ranks[rank].slots - 1])


@compiled_part
def look(tiers: TierState, state: State, kv_rules: KvRules, rank: int, index: int) -> int:
    """Find the leading blocks of a waiting request in device memory and in the tiers; return their number.

    The row of the next slot receives the blocks (or tier entries), and `TierState.levels` their levels. The last token
    is never taken from a cache, because its output is needed.
    """
    pool, request, content = state.pool, state.requests[index], state.contents[index]
    row, most = pool.held[rank, next_slot(state, rank)], (request.target - 1) // kv_rules.block
    if request.preempted == 0:  # nothing of its own yet
        most = min(most, content.hashed // kv_rules.block)
    for j in range(most):
        key = content_key(pool, content.hashes, content.hashed, index, j, kv_rules.block)
        row[j] = find(pool.table[rank], key)
        tiers.levels[j] = -1
        if row[j] >= 0:
            continue
        key, level = tier_key(tiers, key), int64(0)
        while level < tiers.which.shape[1]:
            row[j] = entry_of(tiers.shelves, tiers.which[rank, level], key)
            if row[j] >= 0:
                break
            level += 1
        if row[j] < 0:
            return int(j)
        tiers.levels[j] = level
    return int(most)


@compiled_part
def first_below(tiers: TierState, blocks: int, level: int) -> int:
    """Return the number of leading blocks before the first block that is stored below a level."""
    j = int64(0)
    while j < blocks and tiers.levels[j] <= level:
        j += 1
    return int(j)


@compiled_part
def bring(tiers: TierState, rank: int, row: I8, blocks: int, now: float, planned: bool) -> float:
    """Transfer leading blocks to the devices, count them and mark them as used; return the end time of the transfer [s].

    If `planned` is set, change nothing and return the time at which a transfer would end if it began now.
    """
    end = now
    for level in range(tiers.which.shape[1]):
        count, begin = int64(0), now
        for j in range(blocks):
            if tiers.levels[j] == level:
                count += 1
                begin = max(begin, tiers.shelves.came[row[j]])
                if not planned:
                    touch(tiers.shelves, tiers.which[rank, level], row[j])
        if count > 0:
            before, busy_s = tiers.free_s[rank, level, tier.UP], tiers.link_s[level, tier.UP]
            end = max(end, moved(tiers, rank, level, tier.UP, begin, count))
            if planned:
                tiers.free_s[rank, level, tier.UP], tiers.link_s[level, tier.UP] = before, busy_s
            else:
                tiers.counts[level].loaded += count
    return end


@compiled_part
def prefill_seconds(tiers: TierState, state: State, limits: Limits, rank: int, start: int, end: int) -> float:
    """Return the predicted seconds to prefill only the prompt tokens from `start` to `end`."""
    seconds, m, windows, none = 0.0, tiers.moments[rank], tiers.costs.windows, int64(0)
    if tiers.costs.model == 0:
        return seconds
    while start < end:
        q = min(end - start, limits.token_budget) if limits.chunked else end - start
        for w in range(m.size):
            m[w] = 0.0
        count_chunk(m, windows, start, q)
        tiers.chunk[0, 0], tiers.chunk[1, 0] = q, 0
        step = cost_step(tiers.costs, tiers.moments, none, none, tiers.chunk, none + 1, True, limits.captured)
        seconds += with_host_delay(limits.host_delay, step, float(q), 1.0 / tiers.moments.shape[0], 1)
        start += q
    for w in range(m.size):
        m[w] = 0.0
    return seconds


@compiled_part
def weigh(tiers: TierState, state: State, limits: Limits, kv_rules: KvRules, rank: int, index: int) -> None:
    """Update the tiers to which blocks are written if loads are limited to the cheaper case (`load` is cheaper).

    A tier becomes worth writing if the device's link moves a block in less time than a full step computes it, at the end
    of the longest sequence that has arrived.
    """
    longest = state.requests[index].input + state.requests[index].output
    if not tiers.cheaper or longest <= tiers.totals[0].longest:
        return
    tiers.totals[0].longest, tokens = longest, limits.token_budget
    start = max(longest - tokens, 0)
    takes = prefill_seconds(tiers, state, limits, rank, start, start + tokens) * kv_rules.block / tokens
    for level in range(tiers.which.shape[1]):
        if tiers.pace[level, tier.P_BLOCK] <= takes:
            tiers.worth[level] = 1


@compiled_part
def worth_loading(
    tiers: TierState, state: State, limits: Limits, kv_rules: KvRules, rank: int, index: int, row: I8, blocks: int
) -> int:
    """Return the number of leading blocks to load: all, or the number with the earliest end of the prefill."""
    target, now = state.requests[index].target, state.clocks[0].now
    if not tiers.cheaper:
        return blocks
    best = first_below(tiers, blocks, -1)
    soonest, before = prefill_seconds(tiers, state, limits, rank, best * kv_rules.block, target), best
    for level in range(tiers.which.shape[1]):
        cut = first_below(tiers, blocks, level)
        if cut == before:
            continue
        before = cut
        takes = bring(tiers, rank, row, cut, now, True) - now
        takes += prefill_seconds(tiers, state, limits, rank, cut * kv_rules.block, target)
        if takes < soonest:
            best, soonest = cut, takes
    return best


@compiled_part
def has_room(tiers: TierState, state: State, kv_rules: KvRules, rank: int, blocks: int, whole: int) -> bool:
    """Return whether `whole` tokens of the request just looked up fit, given its cached prefix blocks."""
    pool, near, taken = state.pool, int64(0), int64(0)
    row = pool.held[rank, next_slot(state, rank)]
    for j in range(blocks):
        if tiers.levels[j] < 0:
            near += 1
            taken += pool.blocks[rank, row[j]].users == 0
    return bool((whole + kv_rules.block - 1) // kv_rules.block - near + taken <= state.ranks[rank].blocks)


@compiled_part
def take_over(
    tiers: TierState, state: State, kv_rules: KvRules, rank_index: int, index: int, blocks: int, whole: int
) -> bool:
    """Allocate the leading blocks just found to a request, if the rest of its `whole` tokens fits too.

    Return False and change nothing if they do not fit. A block in a tier gets a free block in device memory and is
    transferred to it.
    """
    pool, rank, content = state.pool, state.ranks[rank_index], state.contents[index]
    row, near, now = pool.held[rank_index, next_slot(state, rank_index)], int64(0), state.clocks[0].now
    if not has_room(tiers, state, kv_rules, rank_index, blocks, whole):
        return False
    rank.slots -= 1
    content.slot = pool.slots[rank_index, rank.slots]
    tiers.spans[index, 0], tiers.spans[index, 1] = now, bring(tiers, rank_index, row, blocks, now, False)
    for j in range(blocks):
        if tiers.levels[j] < 0:
            near += 1
            rank.blocks -= share(pool, rank_index, row[j])
    for j in range(blocks):
        if tiers.levels[j] >= 0:
            row[j] = -1
    take(state, rank_index, blocks - near)
    rank.blocks -= blocks - near
    tiers.totals[0].found += near
    content.blocks = blocks
    content.keyed = 0
    tiers.rows[index].blocks = blocks
    count_blocks(state, kv_rules, rank_index, index, blocks)
    return True


@compiled_part
def note_landed(tiers: TierState, state: State, kv_rules: KvRules, rank: int, index: int) -> None:
    """Record the content of blocks that a request has found or loaded, so that others can share it."""
    pool, content = state.pool, state.contents[index]
    row = pool.held[rank, content.slot]
    for j in range(tiers.rows[index].blocks):
        if row[j] < 0:
            key = content_key(pool, content.hashes, content.hashed, index, j, kv_rules.block)
            row[j] = remember(pool, rank, key)
    content.keyed = tiers.rows[index].blocks


@compiled_part
def try_load(tiers: TierState, state: State, limits: Limits, kv_rules: KvRules, rank_index: int) -> int:
    """Start the load of the request at the head of a rank's queue, if some of its blocks have to be loaded; return a `Look`.

    Blocks whose transfer takes no time need no load: the request gets them at its admission (`TierState.rows`).
    """
    rank, i, now = state.ranks[rank_index], state.ranks[rank_index].head, state.clocks[0].now
    request, blocks = state.requests[i], look(tiers, state, kv_rules, rank_index, i)
    near, row = (first_below(tiers, blocks, -1), state.pool.held[rank_index, next_slot(state, rank_index)])
    tiers.rows[i].blocks, tiers.rows[i].passed = near, 0
    target = request.target
    if limits.reserve:
        target = request.input + request.output - 1 + limits.spare
    if near == blocks:
        return Look.NOTHING if has_room(tiers, state, kv_rules, rank_index, near, target) else Look.BLOCKED
    cut = worth_loading(tiers, state, limits, kv_rules, rank_index, i, row, blocks)
    if bring(tiers, rank_index, row, cut, now, True) <= now:
        tiers.rows[i].blocks, tiers.rows[i].passed = cut, blocks - cut
        return Look.NOTHING if has_room(tiers, state, kv_rules, rank_index, cut, target) else Look.BLOCKED
    with_memory = rank.running + rank.late + tiers.loading[rank_index].count + tiers.landed[rank_index].count
    if with_memory >= limits.max_sequences:
        return Look.BLOCKED
    if not take_over(tiers, state, kv_rules, rank_index, i, cut, target):
        return Look.BLOCKED  # what is near alone would not fit either
    allocate(state, kv_rules, rank_index, i, target)
    tiers.totals[0].loads += 1
    tiers.rows[i].state, tiers.rows[i].passed = tier.Loading.LOADING, blocks - cut
    take_head(state, rank_index, i)
    line_up(state, tiers.loading[rank_index], i)
    return Look.BEGUN


@compiled_part
def line_up(state: State, line: Any, index: int) -> None:
    """Append a request to the end of a queue."""
    link_in(state, line, index, line.tail, int64(-1))
    line.count += 1


@compiled_code
def finish_transfers(tiers: TierState, state: State, kv_rules: KvRules, rank: int) -> None:
    """Move requests whose load has ended by the time that the scheduler knows to the list of loaded requests."""
    line, before, i = tiers.loading[rank], int64(-1), tiers.loading[rank].head
    while i >= 0:
        after = state.requests[i].next
        if tiers.spans[i, 1] > state.clocks[0].known:
            before, i = i, after
            continue
        if before < 0:
            line.head = after
        else:
            state.requests[before].next = after
        if after < 0:
            line.tail = before
        line.count -= 1
        waited = tiers.spans[i, 1] - tiers.spans[i, 0]
        tiers.seconds[0].waited += waited
        tiers.seconds[0].longest = max(tiers.seconds[0].longest, waited)
        tiers.rows[i].state = tier.Loading.LANDED
        note_landed(tiers, state, kv_rules, rank, i)
        line_up(state, tiers.landed[rank], i)
        i = after


@compiled_code
def next_landing(tiers: TierState, state: State) -> float:
    """Return the time at which the next load ends [s]; infinity if there is none."""
    soonest = np.inf
    for r in range(state.ranks.shape[0]):
        i = tiers.loading[r].head
        while i >= 0:
            soonest = min(soonest, tiers.spans[i, 1])
            i = state.requests[i].next
    return soonest


@compiled_part
def prefetch(tiers: TierState, state: State, kv_rules: KvRules, rank: int, index: int) -> None:
    """Copy the blocks that an arriving request will find below the first tier to the first tier.

    Blocks that are already in the first tier are marked as used.
    """
    pool, request, content = state.pool, state.requests[index], state.contents[index]
    if not tiers.prefetch or tiers.worth[0] == 0:
        return
    x, top, at = tiers.shelves, tiers.which[rank, 0], state.requests[index].arrival
    for j in range(min(request.target - 1, content.hashed) // kv_rules.block):
        key = content_key(pool, content.hashes, content.hashed, index, j, kv_rules.block)
        if find(pool.table[rank], key) >= 0:
            continue
        key, level = tier_key(tiers, key), int64(1)
        e = entry_of(x, top, key)
        if e >= 0:
            touch(x, top, e)
            continue
        while e < 0 and level < tiers.which.shape[1]:
            e = entry_of(x, tiers.which[rank, level], key)
            level += 1
        if e < 0:
            return
        touch(x, tiers.which[rank, level - 1], e)
        there = moved(tiers, rank, level - 1, tier.UP, max(at, x.came[e]), 1)
        e, out = put(x, top, key, -1)
        before = x.came[e]
        tiers.counts[0].prefetched += 1
        if out != 0:
            tiers.counts[0].evicted += 1
            if not tiers.through:
                there = max(there, keep(tiers, rank, 1, out, max(at, before)))
        x.came[e] = there


HOOKS = {"before_plan": finish_transfers, "next_event": next_landing}
