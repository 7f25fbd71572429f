"""What sequences hold of the KV cache: taking, giving back, finding again, preempting.

Without prefix caching a sequence holds bytes, with it blocks of a pool (`prefix`).
"""

from __future__ import annotations

import numpy as np

from ...workloads.jit import compiled_inside, compiled_part
from . import hooks
from . import state as col
from .kv import KvRules
from .prefix import (
    BARE,
    NEXT,
    RESUMES,
    USERS,
    content_key,
    find,
    forget,
    give_back,
    give_back_bare,
    remember,
    share,
    unlink,
)
from .queues import queue_again
from .state import I8, State


@compiled_part
def kv_bytes(kv_rules: KvRules, tokens: int) -> float:
    """Bytes one sequence of `tokens` cached tokens holds."""
    if kv_rules.cached:
        return float(blocks_held(kv_rules, tokens) * kv_rules.block_bytes[0])
    return bytes_held(kv_rules, tokens)


@compiled_part
def blocks_held(kv_rules: KvRules, tokens: int) -> int:
    """Blocks of a pool that one sequence holds: of its tokens, and of windows and states."""
    text = (tokens + kv_rules.block - 1) // kv_rules.block
    if kv_rules.window.size == 1 and kv_rules.constant == 0.0:
        return int(text)
    beside = bytes_held(kv_rules, tokens) / kv_rules.block_bytes[0] - text
    return int(text + np.ceil(beside - 1e-9))


@compiled_part
def bytes_held(kv_rules: KvRules, tokens: int) -> float:
    """Bytes of a sequence's tokens, windows and states."""
    size = kv_rules.constant
    for c in range(kv_rules.window.size):
        cached = tokens if kv_rules.window[c] == 0 else min(tokens, kv_rules.window[c])
        size += kv_rules.block_bytes[c] * ((cached + kv_rules.block - 1) // kv_rules.block)
    return size


@compiled_part
def take(state: State, rank: int, count: int) -> None:
    """Hand out the blocks that were freed longest ago, of those that are free; their content is lost."""
    pool, blocks = state.pool, state.pool.blocks[rank]
    end = blocks.shape[0] - 1
    while True:
        b = blocks[end, NEXT]
        bare = min(blocks[b, BARE], count)
        blocks[b, BARE] -= bare
        count -= bare
        if count == 0:
            return
        unlink(blocks, b)
        hooks.on_evict(state, rank, b)
        forget(pool, rank, b)
        count -= 1


@compiled_part
def hold_blocks(state: State, kv_rules: KvRules, rank_index: int, index: int, tokens: int) -> bool:
    """`hold` with prefix caching: blocks of the pool."""
    rank, request = state.ranks[rank_index], state.ints[index]
    more = blocks_held(kv_rules, tokens) - request[col.I_BLOCKS]
    if more > rank[col.R_BLOCKS]:
        return False
    if more > 0:
        take(state, rank_index, more)
        request[col.I_BLOCKS] += more
        rank[col.R_BLOCKS] -= more
    count_blocks(state, kv_rules, rank_index, index, (tokens + kv_rules.block - 1) // kv_rules.block)
    return True


@compiled_part
def count_blocks(state: State, kv_rules: KvRules, rank: int, index: int, text: int) -> None:
    """Bring the byte counts of a sequence and its rank in line with their blocks, `text` of them for its tokens."""
    state.floats[index, col.F_HELD] = state.ints[index, col.I_BLOCKS] * kv_rules.block_bytes[0]
    state.ints[index, col.I_ROOM] = max(state.ints[index, col.I_ROOM], text * kv_rules.block)
    state.free[rank] = state.ranks[rank, col.R_BLOCKS] * kv_rules.block_bytes[0]


@compiled_part
def drop(state: State, kv_rules: KvRules, rank: int, index: int, noted: int) -> None:
    """Give back all that a sequence holds; the content of its first `noted` tokens is known."""
    state.ints[index, col.I_ROOM] = 0
    if kv_rules.cached:
        hooks.on_free(state, kv_rules, rank, index, noted)
        drop_blocks(state, kv_rules, rank, index, noted)
    else:
        state.free[rank] += state.floats[index, col.F_HELD]
        state.floats[index, col.F_HELD] = 0.0


@compiled_part
def drop_blocks(state: State, kv_rules: KvRules, rank_index: int, index: int, noted: int) -> None:
    """`drop` with prefix caching.

    The last block is handed out first of them all. Where the rules say so (`kv_rules.bare_first`), what
    has no content to be found goes before everything else that is free.
    """
    request = state.ints[index]
    note_content(state, kv_rules, rank_index, index, min(noted, request[col.I_HASHED]))  # outputs of sessions
    pool, rank, keyed = state.pool, state.ranks[rank_index], request[col.I_KEYED]
    row, full = pool.held[rank_index, request[col.I_SLOT]], request[col.I_BLOCKS]
    if kv_rules.bare_first:
        full = min(noted // kv_rules.block, full)
        for j in range(full, keyed):
            rank[col.R_BLOCKS] += give_back(pool, rank_index, row[j], True)
        give_back_bare(pool, rank_index, request[col.I_BLOCKS] - max(full, keyed), True)
        rank[col.R_BLOCKS] += request[col.I_BLOCKS] - max(full, keyed)
    if full > keyed:  # none of them can be told from another
        give_back_bare(pool, rank_index, full - keyed, False)
        rank[col.R_BLOCKS] += full - keyed
    for j in range(min(full, keyed) - 1, -1, -1):
        rank[col.R_BLOCKS] += give_back(pool, rank_index, row[j], False)
    request[col.I_BLOCKS] = 0
    pool.slots[rank_index, rank[col.R_SLOTS]] = request[col.I_SLOT]
    rank[col.R_SLOTS] += 1
    request[col.I_SLOT], request[col.I_KEYED] = -1, 0
    count_blocks(state, kv_rules, rank_index, index, 0)


@compiled_part
def drop_late(state: State, kv_rules: KvRules, rank_index: int) -> None:
    """Give back what sequences held that had finished unknown to the plan just made."""
    rank, first = state.ranks[rank_index], state.running.shape[1] // 3
    for j in range(rank[col.R_LATE]):
        i = state.running[rank_index, first + j]
        drop(state, kv_rules, rank_index, i, state.ints[i, col.I_CACHED])
    rank[col.R_LATE] = 0


@compiled_inside
def coming(state: State, index: int) -> bool:
    """Return whether the last timestamped token is still being computed while the next step is planned."""
    known = state.clocks[col.T_KNOWN]
    return bool(known < state.clocks[col.T_NOW] and state.floats[index, col.F_LAST] == state.clocks[col.T_NOW])


@compiled_inside
def tokens_coming(state: State, index: int) -> int:
    """Return the tokens of a sequence that have timestamps but are unknown to the current plan."""
    if state.hooks.tokens_coming.size > 0:
        return int(hooks.tokens_coming(state, index))
    return int(coming(state, index))


@compiled_part
def found_again(state: State, index: int) -> int:
    """Tokens of a sequence whose content the scheduler knows if it is preempted now.

    Those in the cache; with asynchronous scheduling not the token in flight, if it was unknown
    when its step was planned.
    """
    if state.hooks.found_again.size > 0:
        return int(hooks.found_again(state, index))
    request = state.ints[index]
    if request[col.I_FLIGHT] > 0:  # of several batches in flight
        return int(request[col.I_NOTED])
    if coming(state, index) and request[col.I_CACHED] > request[col.I_TARGET]:
        if state.counters[col.C_STRETCH] > 1:
            return int(request[col.I_CACHED] - 1)
        return int(request[col.I_NOTED])
    return int(request[col.I_CACHED])


@compiled_part
def find_prefix(state: State, kv_rules: KvRules, rank: int, index: int, row: I8) -> int:
    """Put the leading blocks of a waiting request that are still there into `row`; how many.

    Its last token is never taken from the cache: its result is needed.
    """
    pool, request = state.pool, state.ints[index]
    most = (request[col.I_TARGET] - 1) // kv_rules.block
    if request[col.I_PREEMPTED] == 0:  # nothing of its own yet
        most = min(most, request[col.I_HASHED] // kv_rules.block)
    for j in range(most):
        key = content_key(pool, request[col.I_HASHES], request[col.I_HASHED], index, j, kv_rules.block)
        row[j] = find(pool.table[rank], key)
        if row[j] < 0:
            most = j
            break
    while kv_rules.resume > 0 and most > 0 and pool.blocks[rank, row[most - 1], RESUMES] == 0:
        most -= 1
    return int(most)


@compiled_part
def use_prefix(state: State, kv_rules: KvRules, rank_index: int, index: int, total_tokens: int) -> bool:
    """Take over cached blocks, if the rest of `total_tokens` then fits; False, and no change."""
    pool, rank, request = state.pool, state.ranks[rank_index], state.ints[index]
    slot = pool.slots[rank_index, rank[col.R_SLOTS] - 1]
    row = pool.held[rank_index, slot]
    hits, taken = find_prefix(state, kv_rules, rank_index, index, row), 0
    for j in range(hits):
        taken += pool.blocks[rank_index, row[j], USERS] == 0
    if kv_rules.first > 0:
        total_tokens = min(total_tokens, hits * kv_rules.block + kv_rules.first)
    if blocks_held(kv_rules, total_tokens) - hits + taken > rank[col.R_BLOCKS]:
        return False
    rank[col.R_SLOTS] -= 1
    request[col.I_SLOT] = slot
    for j in range(hits):
        rank[col.R_BLOCKS] -= share(pool, rank_index, row[j])
    request[col.I_BLOCKS] = request[col.I_KEYED] = hits
    request[col.I_CACHED] = hits * kv_rules.block
    state.counters[col.C_HITS] += hits * kv_rules.block
    count_blocks(state, kv_rules, rank_index, index, hits)
    return True


@compiled_part
def note_content(state: State, kv_rules: KvRules, rank: int, index: int, tokens: int) -> None:
    """Note the content of the blocks that a sequence's first `tokens` tokens fill, each once."""
    pool, request = state.pool, state.ints[index]
    row, full = pool.held[rank, request[col.I_SLOT]], tokens // kv_rules.block
    while request[col.I_KEYED] < full:
        j = request[col.I_KEYED]
        key = content_key(pool, request[col.I_HASHES], request[col.I_HASHED], index, j, kv_rules.block)
        row[j] = remember(pool, rank, key)
        request[col.I_KEYED] += 1


@compiled_part
def note_planned(state: State, kv_rules: KvRules, rank: int, index: int, want: int) -> None:
    """Record the effect of `want` planned tokens of a sequence: later sequences can share them at once."""
    request = state.ints[index]
    known = request[col.I_INPUT] + request[col.I_GENERATED] - tokens_coming(state, index)
    request[col.I_NOTED] = min(request[col.I_CACHED] + want, known)
    hashed = min(request[col.I_NOTED], request[col.I_HASHED])
    if hashed >= (request[col.I_KEYED] + 1) * kv_rules.block:
        note_content(state, kv_rules, rank, index, hashed)
    if kv_rules.resume > 0:  # a state is kept at the last of its multiples that a step reaches
        last = request[col.I_NOTED] // kv_rules.resume * kv_rules.resume // kv_rules.block
        if 0 < last <= request[col.I_KEYED]:
            state.pool.blocks[rank, state.pool.held[rank, request[col.I_SLOT], last - 1], RESUMES] = 1
    hooks.on_note(state, kv_rules, rank, index)


@compiled_part
def hold(state: State, kv_rules: KvRules, rank: int, index: int, tokens: int) -> bool:
    """Hold KV for `tokens` tokens of a sequence; False, and no change, where it does not fit."""
    if kv_rules.cached:
        return hold_blocks(state, kv_rules, rank, index, tokens)
    more = kv_bytes(kv_rules, tokens) - state.floats[index, col.F_HELD]
    if more > state.free[rank]:
        return False
    if more > 0.0:
        state.free[rank] -= more
        state.floats[index, col.F_HELD] += more
    # What is held changes at whole blocks only, in every window class.
    state.ints[index, col.I_ROOM] = (tokens + kv_rules.block - 1) // kv_rules.block * kv_rules.block
    return True


@compiled_part
def preempt_last(state: State, kv_rules: KvRules, rank_index: int) -> None:
    """Put the latest-admitted sequence of a rank back to the front of its queue."""
    rank = state.ranks[rank_index]
    rank[col.R_RUNNING] -= 1
    i = state.running[rank_index, rank[col.R_RUNNING]]
    give_up(state, kv_rules, rank_index, i)
    put_back(state, rank_index, i)


@compiled_inside
def put_back(state: State, rank: int, index: int) -> None:
    """Queue a request that was preempted: all it has is computed again."""
    request = state.ints[index]
    request[col.I_CACHED] = request[col.I_NOTED] = 0
    request[col.I_TARGET] = request[col.I_INPUT] + request[col.I_GENERATED]
    queue_again(state, rank, index)


@compiled_part
def preempt_late(state: State, kv_rules: KvRules, rank_index: int) -> bool:
    """Preempt the last sequence of a rank if it is one that the step in flight finishes.

    As it ends all the same, it only gives its memory and its place back early.
    """
    rank, size = state.ranks[rank_index], state.running.shape[1] // 3
    last = rank[col.R_LATE] - 1
    if last < 0 or state.running[rank_index, 2 * size + last] < rank[col.R_RUNNING]:
        return False
    rank[col.R_LATE] = last
    give_up(state, kv_rules, rank_index, state.running[rank_index, size + last])
    return True


@compiled_part
def give_up(state: State, kv_rules: KvRules, rank: int, index: int) -> None:
    """Take a sequence's memory; its own blocks stay findable for it."""
    request, noted = state.ints[index], state.ints[index, col.I_CACHED]
    if kv_rules.cached:
        noted = found_again(state, index)
        note_content(state, kv_rules, rank, index, noted)
    drop(state, kv_rules, rank, index, noted)
    request[col.I_PREEMPTED] += 1
    hooks.on_preempted(state, index)
