"""Allocation of KV cache memory to sequences: allocate, free, find cached prefixes, preempt.

Without prefix caching a sequence holds bytes; with prefix caching it holds blocks of a pool (`prefix`).

By default the latest admitted request is preempted. vLLM's priority scheduling (``Scheduler.schedule`` in
vllm/v1/core/sched/scheduler.py, 0.19) preempts the running request with the largest (priority, arrival); tokens that the
step had planned for it return to the budget. If the request that needs memory has itself the lowest priority, it is
preempted, and the planning of running requests ends. The scheduler's index moves back by one only if the preempted request
had been planned in this step. Otherwise the next request in the list is skipped in this step.
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled_inside, compiled_part, int64
from . import hooks
from .kv import KvRules
from .prefix import content_key, find, forget, give_back, give_back_bare, remember, share, unlink
from .queues import queue_again
from .state import I8, State, count_hits


@compiled_part
def last_gives_way(
    state: State, kv_rules: KvRules, rank_index: int, position: int, ended_at: int, ended: bool, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """Allocate KV for `tokens` tokens of a rank's running sequence `position`, preempting the latest admitted ones.

    If `ended` is set, the sequence is number `ended_at` of those that have ended unknown to the plan. Returns whether the
    tokens fit, both indices, the tokens returned to the budget, and the numbers of preempted and of skipped sequences.
    """
    rank, lost = state.ranks[rank_index], int64(0)
    i = state.running[rank_index, state.running.shape[1] // 3 + ended_at if ended else position]
    while ended_at < rank.late if ended else position < rank.running:
        if allocate(state, kv_rules, rank_index, i, tokens):
            return True, position, ended_at, int64(0), lost, int64(0)
        if not preempt_late(state, kv_rules, rank_index):
            preempt_last(state, kv_rules, rank_index)
        lost += 1
    return False, position, ended_at, int64(0), lost, int64(0)


@compiled_part
def preempt_until_fits(
    state: State, kv_rules: KvRules, rank: int, position: int, ended_at: int, ended: bool, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """Allocate KV for a running sequence by the preemption rule of a part; default: `last_gives_way`."""
    if state.hooks.preempt_until_fits.size > 0:
        return hooks.preempt_until_fits(state, kv_rules, rank, position, ended_at, ended, tokens)  # type: ignore[no-any-return]
    return last_gives_way(state, kv_rules, rank, position, ended_at, ended, tokens)


@compiled_part
def skip(state: State, rank: int, position: int, ended_at: int, ahead: int) -> tuple[int, int]:
    """Return the plan's indices (`position`, `ended_at`) after passing over `ahead` sequences."""
    if ahead > 0 and state.hooks.skip.size > 0:
        return hooks.skip(state, rank, position, ended_at, ahead)  # type: ignore[no-any-return]
    return position, ended_at


@compiled_part
def kv_bytes(kv_rules: KvRules, tokens: int) -> float:
    """Return the KV bytes that a sequence with `tokens` cached tokens holds on one device."""
    if kv_rules.cached:
        return float(blocks_held(kv_rules, tokens) * kv_rules.block_bytes[0])
    return bytes_held(kv_rules, tokens)


@compiled_part
def blocks_held(kv_rules: KvRules, tokens: int) -> int:
    """Return the number of pool blocks that a sequence holds for its tokens, windows and constant states."""
    text = (tokens + kv_rules.block - 1) // kv_rules.block
    if kv_rules.window.size == 1 and kv_rules.constant == 0.0:
        return int(text)
    beside = bytes_held(kv_rules, tokens) / kv_rules.block_bytes[0] - text
    return int(text + np.ceil(beside - 1e-9))


@compiled_part
def bytes_held(kv_rules: KvRules, tokens: int) -> float:
    """Return the bytes of a sequence's cached tokens, windows and constant states on one device."""
    size = kv_rules.constant
    for c in range(kv_rules.window.size):
        cached = tokens if kv_rules.window[c] == 0 else min(tokens, kv_rules.window[c])
        size += kv_rules.block_bytes[c] * ((cached + kv_rules.block - 1) // kv_rules.block)
    return size


@compiled_part
def take(state: State, rank: int, count: int) -> None:
    """Allocate `count` free blocks, the longest free ones first; their cached content is lost."""
    pool, blocks = state.pool, state.pool.blocks[rank]
    end = blocks.shape[0] - 1
    while True:
        b = blocks[end].next
        bare = min(blocks[b].bare, count)
        blocks[b].bare -= bare
        count -= bare
        if count == 0:
            return
        unlink(blocks, b)
        hooks.on_evict(state, rank, b)
        forget(pool, rank, b)
        count -= 1


@compiled_part
def hold_blocks(state: State, kv_rules: KvRules, rank_index: int, index: int, tokens: int) -> bool:
    """Allocate pool blocks for `tokens` tokens of a sequence (`allocate` with prefix caching)."""
    rank, content = state.ranks[rank_index], state.contents[index]
    more = blocks_held(kv_rules, tokens) - content.blocks
    if more > rank.blocks:
        return False
    if more > 0:
        take(state, rank_index, more)
        content.blocks += more
        rank.blocks -= more
    count_blocks(state, kv_rules, rank_index, index, (tokens + kv_rules.block - 1) // kv_rules.block)
    return True


@compiled_part
def count_blocks(state: State, kv_rules: KvRules, rank: int, index: int, text: int) -> None:
    """Update the byte counts of a sequence and its rank from their blocks; `text` blocks hold its tokens."""
    state.requests[index].kv_bytes = state.contents[index].blocks * kv_rules.block_bytes[0]
    state.requests[index].covered = max(state.requests[index].covered, text * kv_rules.block)
    state.free[rank] = state.ranks[rank].blocks * kv_rules.block_bytes[0]


@compiled_part
def free_request(state: State, kv_rules: KvRules, rank: int, index: int, noted: int) -> None:
    """Free all KV memory of a sequence; the content of its first `noted` tokens stays findable."""
    state.requests[index].covered = 0
    if kv_rules.cached:
        hooks.on_free(state, kv_rules, rank, index, noted)
        drop_blocks(state, kv_rules, rank, index, noted)
    else:
        state.free[rank] += state.requests[index].kv_bytes
        state.requests[index].kv_bytes = 0.0


@compiled_part
def drop_blocks(state: State, kv_rules: KvRules, rank_index: int, index: int, noted: int) -> None:
    """Free the blocks of a sequence (`free_request` with prefix caching).

    The sequence's last block is reused first. With `kv_rules.bare_first`, blocks without findable content are
    reused before all other free blocks.
    """
    content = state.contents[index]
    note_content(state, kv_rules, rank_index, index, min(noted, content.hashed))  # also the outputs of sessions
    pool, rank, keyed = state.pool, state.ranks[rank_index], content.keyed
    row, full = pool.held[rank_index, content.slot], content.blocks
    if kv_rules.bare_first:
        full = min(noted // kv_rules.block, full)
        for j in range(full, keyed):
            rank.blocks += give_back(pool, rank_index, row[j], True)
        give_back_bare(pool, rank_index, content.blocks - max(full, keyed), True)
        rank.blocks += content.blocks - max(full, keyed)
    if full > keyed:  # blocks without a key are interchangeable
        give_back_bare(pool, rank_index, full - keyed, False)
        rank.blocks += full - keyed
    for j in range(min(full, keyed) - 1, -1, -1):
        rank.blocks += give_back(pool, rank_index, row[j], False)
    content.blocks = 0
    pool.slots[rank_index, rank.slots] = content.slot
    rank.slots += 1
    content.slot, content.keyed = -1, 0
    count_blocks(state, kv_rules, rank_index, index, 0)


@compiled_part
def drop_late(state: State, kv_rules: KvRules, rank_index: int) -> None:
    """Free the memory of sequences that had ended before the latest plan without the plan knowing it."""
    rank, first = state.ranks[rank_index], state.running.shape[1] // 3
    for j in range(rank.late):
        i = state.running[rank_index, first + j]
        free_request(state, kv_rules, rank_index, i, state.requests[i].cached)
    rank.late = 0


@compiled_inside
def coming(state: State, index: int) -> bool:
    """Return whether the last timestamped token is still being computed while the next step is planned."""
    known = state.clocks[0].known
    return bool(known < state.clocks[0].now and state.requests[index].last == state.clocks[0].now)


@compiled_inside
def tokens_coming(state: State, index: int) -> int:
    """Return the tokens of a sequence that have timestamps but are unknown to the current plan."""
    if state.hooks.tokens_coming.size > 0:
        return int(hooks.tokens_coming(state, index))
    return int(coming(state, index))


@compiled_part
def found_again(state: State, index: int) -> int:
    """Return the number of a sequence's tokens that it finds in the cache again if it is preempted now.

    These are its cached tokens. With asynchronous scheduling the token in flight is excluded if it was unknown
    when its step was planned.
    """
    if state.hooks.found_again.size > 0:
        return int(hooks.found_again(state, index))
    request = state.requests[index]
    if request.in_flight > 0:  # several batches are in flight
        return int(request.noted)
    if coming(state, index) and request.cached > request.target:
        if state.counters[0].fast_forward > 1:
            return int(request.cached - 1)
        return int(request.noted)
    return int(request.cached)


@compiled_part
def find_prefix(state: State, kv_rules: KvRules, rank: int, index: int, row: I8) -> int:
    """Write the cached prefix blocks of a waiting request to `row`; return their number.

    The request's last token is never taken from the cache, because its result is needed.
    """
    pool, request, content = state.pool, state.requests[index], state.contents[index]
    most = (request.target - 1) // kv_rules.block
    if request.preempted == 0:  # only hashed blocks can be cached: the request has computed no block itself
        most = min(most, content.hashed // kv_rules.block)
    for j in range(most):
        key = content_key(pool, content.hashes, content.hashed, index, j, kv_rules.block)
        row[j] = find(pool.table[rank], key)
        if row[j] < 0:
            most = j
            break
    while kv_rules.resume > 0 and most > 0 and pool.blocks[rank, row[most - 1]].resumes == 0:
        most -= 1
    return int(most)


@compiled_part
def use_prefix(state: State, kv_rules: KvRules, rank_index: int, index: int, total_tokens: int) -> bool:
    """Share a request's cached prefix blocks if the rest of `total_tokens` fits; else change nothing and return False."""
    pool, rank, request, content = state.pool, state.ranks[rank_index], state.requests[index], state.contents[index]
    slot = pool.slots[rank_index, rank.slots - 1]
    row = pool.held[rank_index, slot]
    hits, taken = find_prefix(state, kv_rules, rank_index, index, row), 0
    for j in range(hits):
        taken += pool.blocks[rank_index, row[j]].users == 0
    if kv_rules.first > 0:
        total_tokens = min(total_tokens, hits * kv_rules.block + kv_rules.first)
    if blocks_held(kv_rules, total_tokens) - hits + taken > rank.blocks:
        return False
    rank.slots -= 1
    content.slot = slot
    for j in range(hits):
        rank.blocks -= share(pool, rank_index, row[j])
    content.blocks = content.keyed = hits
    request.cached = hits * kv_rules.block
    count_hits(state, index)
    count_blocks(state, kv_rules, rank_index, index, hits)
    return True


@compiled_part
def note_content(state: State, kv_rules: KvRules, rank: int, index: int, tokens: int) -> None:
    """Record the content of all blocks that a sequence's first `tokens` tokens fill, so that others can find them."""
    pool, content = state.pool, state.contents[index]
    row, full = pool.held[rank, content.slot], tokens // kv_rules.block
    while content.keyed < full:
        j = content.keyed
        key = content_key(pool, content.hashes, content.hashed, index, j, kv_rules.block)
        row[j] = remember(pool, rank, key)
        content.keyed += 1


@compiled_part
def note_planned(state: State, kv_rules: KvRules, rank: int, index: int, want: int) -> None:
    """Record the content of `want` planned tokens of a sequence, so that later sequences can share it at once."""
    request, content = state.requests[index], state.contents[index]
    known = request.input + request.generated - tokens_coming(state, index)
    request.noted = min(request.cached + want, known)
    hashed = min(request.noted, content.hashed)
    if hashed >= (content.keyed + 1) * kv_rules.block:
        note_content(state, kv_rules, rank, index, hashed)
    if kv_rules.resume > 0:  # the state is kept at the last multiple of `resume` tokens that a step reaches
        last = request.noted // kv_rules.resume * kv_rules.resume // kv_rules.block
        if 0 < last <= content.keyed:
            state.pool.blocks[rank, state.pool.held[rank, content.slot, last - 1]].resumes = 1
    hooks.on_note(state, kv_rules, rank, index)


@compiled_part
def allocate(state: State, kv_rules: KvRules, rank: int, index: int, tokens: int) -> bool:
    """Allocate KV memory for `tokens` tokens of a sequence; if they do not fit, change nothing and return False."""
    if kv_rules.cached:
        return hold_blocks(state, kv_rules, rank, index, tokens)
    more = kv_bytes(kv_rules, tokens) - state.requests[index].kv_bytes
    if more > state.free[rank]:
        return False
    if more > 0.0:
        state.free[rank] -= more
        state.requests[index].kv_bytes += more
    # In every window class the bytes change only when a new block begins.
    state.requests[index].covered = (tokens + kv_rules.block - 1) // kv_rules.block * kv_rules.block
    return True


@compiled_part
def preempt_last(state: State, kv_rules: KvRules, rank_index: int) -> None:
    """Preempt the latest admitted sequence of a rank and put it at the front of its queue."""
    rank = state.ranks[rank_index]
    rank.running -= 1
    i = state.running[rank_index, rank.running]
    give_up(state, kv_rules, rank_index, i)
    put_back(state, rank_index, i)


@compiled_inside
def put_back(state: State, rank: int, index: int) -> None:
    """Queue a preempted request again; all its tokens must be computed again."""
    request = state.requests[index]
    request.cached = request.noted = 0
    request.target = request.input + request.generated
    queue_again(state, rank, index)


@compiled_part
def preempt_late(state: State, kv_rules: KvRules, rank_index: int) -> bool:
    """Preempt the last sequence of a rank if the step in flight finishes it; return whether it did.

    The sequence ends all the same, so it only frees its memory and its batch slot early.
    """
    rank, size = state.ranks[rank_index], state.running.shape[1] // 3
    last = rank.late - 1
    if last < 0 or state.running[rank_index, 2 * size + last] < rank.running:
        return False
    rank.late = last
    give_up(state, kv_rules, rank_index, state.running[rank_index, size + last])
    return True


@compiled_part
def give_up(state: State, kv_rules: KvRules, rank: int, index: int) -> None:
    """Free the memory of a preempted sequence; it can find its cached blocks again."""
    request, noted = state.requests[index], state.requests[index].cached
    if kv_rules.cached:
        noted = found_again(state, index)
        note_content(state, kv_rules, rank, index, noted)
    free_request(state, kv_rules, rank, index, noted)
    request.preempted += 1
    hooks.on_preempted(state, index)
