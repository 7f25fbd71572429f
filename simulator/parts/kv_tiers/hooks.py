"""Hooks of KV cache tiers in the engine's loop: admission, use of cached blocks, and the start of a step.

The request at the head of the queue starts its load, and the requests behind it continue. A loaded request is admitted
before waiting requests, within priorities and limits. A step starts after the copies of the blocks that it overwrites.
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_code, compiled_part, int64
from ...engine import hooks
from ...engine.kv import KvRules
from ...engine.policies import Limits
from ...engine.queues import count_left, cut_out, leave_queue
from ...engine.state import State, count_hits
from . import state as tier
from .loads import Look, note_landed, prefetch, take_over, try_load, weigh
from .state import TierState
from .store import write_through


@compiled_code
def tell_time(tiers: TierState, state: State) -> None:
    """Set the time at which transfers that are requested next start."""
    tiers.seconds[0].now = state.clocks[0].now


@compiled_code
def note_computed(
    tiers: TierState, state: State, kv_rules: KvRules, rank: int, index: int, computed: int, now: float
) -> None:
    """Record that a batch has left the last stage at `now` [s] with `computed` tokens of a sequence in the KV cache."""
    tiers.seconds[0].now = now
    tiers.rows[index].computed = computed
    if computed > 0:
        write_through(tiers, state, kv_rules, rank, index, state.requests[index].noted)


@compiled_code
def come_near(tiers: TierState, state: State, limits: Limits, kv_rules: KvRules, rank: int, index: int) -> None:
    """Prefetch the blocks that an arriving request will find in lower tiers."""
    weigh(tiers, state, limits, kv_rules, rank, index)
    prefetch(tiers, state, kv_rules, rank, index)


@compiled_code
def renew(tiers: TierState, state: State, index: int, number: int) -> bool:
    """Reset the tier state of a request that is appended within the allocated rows; always return True."""
    found = tiers.rows[index]
    found.state = found.blocks = found.stored = found.passed = found.computed = 0
    tiers.spans[index, 0] = tiers.spans[index, 1] = np.nan
    return True


@compiled_part
def first_landed(tiers: TierState, state: State, rank: int) -> int:
    """Return the loaded request of a rank that is admitted first; -1 if there is none."""
    best = tiers.landed[rank].head
    i = best
    while i >= 0:
        if hooks.sooner(state, i, best):
            best = i
        i = state.requests[i].next
    return int(best)


@compiled_code
def next_to_admit(tiers: TierState, state: State, limits: Limits, kv_rules: KvRules, rank_index: int) -> int:
    """Return the request that is admitted next, or -1 if there is none; start the loads of requests before it.

    If nothing runs and the head does not fit, a loaded request is admitted at any priority: its blocks cannot be freed
    otherwise.
    """
    i, rank = first_landed(tiers, state, rank_index), state.ranks[rank_index]
    while True:
        hooks.find_head(state, rank_index)
        head = rank.head
        if i >= 0 and (head < 0 or not hooks.sooner(state, head, i)):
            return i
        if head < 0:
            return -1
        loaded = try_load(tiers, state, limits, kv_rules, rank_index)
        if loaded == Look.NOTHING:
            return int(head)
        if loaded != Look.BEGUN:
            return -1 if rank.running + rank.late > 0 else i


@compiled_code
def use_cached(tiers: TierState, state: State, kv_rules: KvRules, rank: int, index: int, whole: int) -> bool:
    """Allocate the found or loaded blocks to a request; return False if the rest of its `whole` tokens does not fit."""
    if tiers.rows[index].state != tier.Loading.LANDED:
        if not take_over(tiers, state, kv_rules, rank, index, tiers.rows[index].blocks, whole):
            return False
        note_landed(tiers, state, kv_rules, rank, index)
    state.requests[index].cached = tiers.rows[index].computed = tiers.rows[index].blocks * kv_rules.block
    count_hits(state, index)
    tiers.totals[0].declined += tiers.rows[index].passed
    return True


@compiled_code
def leave(tiers: TierState, state: State, rank: int, index: int) -> None:
    """Remove an admitted request from its queue, or from the list of loaded requests."""
    landed = tiers.rows[index].state == tier.Loading.LANDED
    tiers.rows[index].state = tier.Loading.WAITING
    if not landed:
        leave_queue(state, rank, index)
        return
    cut_out(state, tiers.landed[rank], index)
    tiers.landed[rank].count -= 1
    count_left(state, rank, index)


@compiled_code
def until_full(tiers: TierState, state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Return the number of decode steps until a sequence fills a block, which may then be copied or overwritten."""
    k = int64(1 << 40)
    for r in range(state.ranks.shape[0]):
        for j in range(state.ranks[r].running):
            k = min(k, kv_rules.block - state.requests[state.running[r, j]].cached % kv_rules.block)
    return k


@compiled_code
def move_back(tiers: TierState, state: State, experts_s: float, start: float) -> None:
    """Delay the transfers that were on the host link at `start` [s] by the time that expert loads have used the link since."""
    # `experts_s` is a running total, so its growth is the link time of the loads since the last call.
    later, tiers.seconds[0].experts = experts_s - tiers.seconds[0].experts, experts_s
    if later <= 0.0 or tiers.host < 0:
        return
    for r in range(state.ranks.shape[0]):
        if tiers.free_s[r, tiers.host, tier.UP] > start:
            tiers.free_s[r, tiers.host, tier.UP] += later
        i = tiers.loading[r].head
        while i >= 0:
            if tiers.spans[i, 1] > start:
                tiers.spans[i, 1] += later
            i = state.requests[i].next


@compiled_code
def held_until(tiers: TierState, state: State, start: float) -> float:
    """Return the time at which a step begins that could begin at `start` [s]: after the copies of blocks that it overwrites."""
    seconds = tiers.seconds[0]
    begin = max(start, seconds.held_until)
    seconds.held += begin - start
    return float(begin)


HOOKS = {
    "on_time": tell_time, "on_computed": note_computed, "on_arrival": come_near, "on_submit": renew,
    "choose": next_to_admit, "lookup": use_cached, "leave": leave, "alike": until_full, "after_step": move_back,
    "begins": held_until,
}  # fmt: skip
