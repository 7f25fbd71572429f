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
def kv_bytes(kv: KvRules, tokens: int) -> float:
    """Bytes one sequence of `tokens` cached tokens holds."""
    if kv.cached:
        return float(blocks_held(kv, tokens) * kv.block_bytes[0])
    return bytes_held(kv, tokens)


@compiled_part
def blocks_held(kv: KvRules, tokens: int) -> int:
    """Blocks of a pool that one sequence holds: of its tokens, and of windows and states."""
    text = (tokens + kv.block - 1) // kv.block
    if kv.window.size == 1 and kv.constant == 0.0:
        return int(text)
    beside = bytes_held(kv, tokens) / kv.block_bytes[0] - text
    return int(text + np.ceil(beside - 1e-9))


@compiled_part
def bytes_held(kv: KvRules, tokens: int) -> float:
    """Bytes of a sequence's tokens, windows and states."""
    size = kv.constant
    for c in range(kv.window.size):
        cached = tokens if kv.window[c] == 0 else min(tokens, kv.window[c])
        size += kv.block_bytes[c] * ((cached + kv.block - 1) // kv.block)
    return size


@compiled_part
def take(st: State, r: int, count: int) -> None:
    """Hand out the blocks that were freed longest ago, of those that are free; their content is lost."""
    pool, blocks = st.pool, st.pool.blocks[r]
    end = blocks.shape[0] - 1
    while True:
        b = blocks[end, NEXT]
        bare = min(blocks[b, BARE], count)
        blocks[b, BARE] -= bare
        count -= bare
        if count == 0:
            return
        unlink(blocks, b)
        hooks.on_evict(st, r, b)
        forget(pool, r, b)
        count -= 1


@compiled_part
def hold_blocks(st: State, kv: KvRules, r: int, i: int, tokens: int) -> bool:
    """`hold` with prefix caching: blocks of the pool."""
    rank, request = st.ranks[r], st.ints[i]
    more = blocks_held(kv, tokens) - request[col.I_BLOCKS]
    if more > rank[col.R_BLOCKS]:
        return False
    if more > 0:
        take(st, r, more)
        request[col.I_BLOCKS] += more
        rank[col.R_BLOCKS] -= more
    count_blocks(st, kv, r, i, (tokens + kv.block - 1) // kv.block)
    return True


@compiled_part
def count_blocks(st: State, kv: KvRules, r: int, i: int, text: int) -> None:
    """Bring the byte counts of a sequence and its rank in line with their blocks, `text` of them for its tokens."""
    st.floats[i, col.F_HELD] = st.ints[i, col.I_BLOCKS] * kv.block_bytes[0]
    st.ints[i, col.I_ROOM] = max(st.ints[i, col.I_ROOM], text * kv.block)
    st.free[r] = st.ranks[r, col.R_BLOCKS] * kv.block_bytes[0]


@compiled_part
def drop(st: State, kv: KvRules, r: int, i: int, noted: int) -> None:
    """Give back all that a sequence holds; the content of its first `noted` tokens is known."""
    st.ints[i, col.I_ROOM] = 0
    if kv.cached:
        hooks.on_free(st, kv, r, i, noted)
        drop_blocks(st, kv, r, i, noted)
    else:
        st.free[r] += st.floats[i, col.F_HELD]
        st.floats[i, col.F_HELD] = 0.0


@compiled_part
def drop_blocks(st: State, kv: KvRules, r: int, i: int, noted: int) -> None:
    """`drop` with prefix caching.

    The last block is handed out first of them all. Where the rules say so (`kv.bare_first`), what
    has no content to be found goes before everything else that is free.
    """
    request = st.ints[i]
    note_content(st, kv, r, i, min(noted, request[col.I_HASHED]))  # outputs of sessions
    pool, rank, keyed = st.pool, st.ranks[r], request[col.I_KEYED]
    row, full = pool.held[r, request[col.I_SLOT]], request[col.I_BLOCKS]
    if kv.bare_first:
        full = min(noted // kv.block, full)
        for j in range(full, keyed):
            rank[col.R_BLOCKS] += give_back(pool, r, row[j], True)
        give_back_bare(pool, r, request[col.I_BLOCKS] - max(full, keyed), True)
        rank[col.R_BLOCKS] += request[col.I_BLOCKS] - max(full, keyed)
    if full > keyed:  # none of them can be told from another
        give_back_bare(pool, r, full - keyed, False)
        rank[col.R_BLOCKS] += full - keyed
    for j in range(min(full, keyed) - 1, -1, -1):
        rank[col.R_BLOCKS] += give_back(pool, r, row[j], False)
    request[col.I_BLOCKS] = 0
    pool.slots[r, rank[col.R_SLOTS]] = request[col.I_SLOT]
    rank[col.R_SLOTS] += 1
    request[col.I_SLOT], request[col.I_KEYED] = -1, 0
    count_blocks(st, kv, r, i, 0)


@compiled_part
def drop_late(st: State, kv: KvRules, r: int) -> None:
    """Give back what sequences held that had finished unknown to the plan just made."""
    rank, first = st.ranks[r], st.running.shape[1] // 3
    for j in range(rank[col.R_LATE]):
        i = st.running[r, first + j]
        drop(st, kv, r, i, st.ints[i, col.I_CACHED])
    rank[col.R_LATE] = 0


@compiled_inside
def coming(st: State, i: int) -> bool:
    """Return whether the last timestamped token is still being computed while the next step is planned."""
    known = st.clocks[col.T_KNOWN]
    return bool(known < st.clocks[col.T_NOW] and st.floats[i, col.F_LAST] == st.clocks[col.T_NOW])


@compiled_inside
def tokens_coming(st: State, i: int) -> int:
    """Return the tokens of a sequence that have timestamps but are unknown to the current plan."""
    if st.hooks.tokens_coming.size > 0:
        return int(hooks.tokens_coming(st, i))
    return int(coming(st, i))


@compiled_part
def found_again(st: State, i: int) -> int:
    """Tokens of a sequence whose content the scheduler knows if it is preempted now.

    Those in the cache; with asynchronous scheduling not the token in flight, if it was unknown
    when its step was planned.
    """
    if st.hooks.found_again.size > 0:
        return int(hooks.found_again(st, i))
    request = st.ints[i]
    if request[col.I_FLIGHT] > 0:  # of several batches in flight
        return int(request[col.I_NOTED])
    if coming(st, i) and request[col.I_CACHED] > request[col.I_TARGET]:
        if st.counters[col.C_STRETCH] > 1:
            return int(request[col.I_CACHED] - 1)
        return int(request[col.I_NOTED])
    return int(request[col.I_CACHED])


@compiled_part
def find_prefix(st: State, kv: KvRules, r: int, i: int, row: I8) -> int:
    """Put the leading blocks of a waiting request that are still there into `row`; how many.

    Its last token is never taken from the cache: its result is needed.
    """
    pool, request = st.pool, st.ints[i]
    most = (request[col.I_TARGET] - 1) // kv.block
    if request[col.I_PREEMPTED] == 0:  # nothing of its own yet
        most = min(most, request[col.I_HASHED] // kv.block)
    for j in range(most):
        key = content_key(pool, request[col.I_HASHES], request[col.I_HASHED], i, j, kv.block)
        row[j] = find(pool.table[r], key)
        if row[j] < 0:
            most = j
            break
    while kv.resume > 0 and most > 0 and pool.blocks[r, row[most - 1], RESUMES] == 0:
        most -= 1
    return int(most)


@compiled_part
def use_prefix(st: State, kv: KvRules, r: int, i: int, whole: int) -> bool:
    """Take over cached blocks, if the rest of `whole` tokens then fits; False, and no change."""
    pool, rank, request = st.pool, st.ranks[r], st.ints[i]
    slot = pool.slots[r, rank[col.R_SLOTS] - 1]
    row = pool.held[r, slot]
    hits, taken = find_prefix(st, kv, r, i, row), 0
    for j in range(hits):
        taken += pool.blocks[r, row[j], USERS] == 0
    if kv.first > 0:
        whole = min(whole, hits * kv.block + kv.first)
    if blocks_held(kv, whole) - hits + taken > rank[col.R_BLOCKS]:
        return False
    rank[col.R_SLOTS] -= 1
    request[col.I_SLOT] = slot
    for j in range(hits):
        rank[col.R_BLOCKS] -= share(pool, r, row[j])
    request[col.I_BLOCKS] = request[col.I_KEYED] = hits
    request[col.I_CACHED] = hits * kv.block
    st.counters[col.C_HITS] += hits * kv.block
    count_blocks(st, kv, r, i, hits)
    return True


@compiled_part
def note_content(st: State, kv: KvRules, r: int, i: int, tokens: int) -> None:
    """Note the content of the blocks that a sequence's first `tokens` tokens fill, each once."""
    pool, request = st.pool, st.ints[i]
    row, full = pool.held[r, request[col.I_SLOT]], tokens // kv.block
    while request[col.I_KEYED] < full:
        j = request[col.I_KEYED]
        key = content_key(pool, request[col.I_HASHES], request[col.I_HASHED], i, j, kv.block)
        row[j] = remember(pool, r, key)
        request[col.I_KEYED] += 1


@compiled_part
def note_planned(st: State, kv: KvRules, r: int, i: int, want: int) -> None:
    """Record the effect of `want` planned tokens of a sequence: later sequences can share them at once."""
    request = st.ints[i]
    known = request[col.I_INPUT] + request[col.I_GENERATED] - tokens_coming(st, i)
    request[col.I_NOTED] = min(request[col.I_CACHED] + want, known)
    hashed = min(request[col.I_NOTED], request[col.I_HASHED])
    if hashed >= (request[col.I_KEYED] + 1) * kv.block:
        note_content(st, kv, r, i, hashed)
    if kv.resume > 0:  # a state is kept at the last of its multiples that a step reaches
        last = request[col.I_NOTED] // kv.resume * kv.resume // kv.block
        if 0 < last <= request[col.I_KEYED]:
            st.pool.blocks[r, st.pool.held[r, request[col.I_SLOT], last - 1], RESUMES] = 1
    hooks.on_note(st, kv, r, i)


@compiled_part
def hold(st: State, kv: KvRules, r: int, i: int, tokens: int) -> bool:
    """Hold KV for `tokens` tokens of a sequence; False, and no change, where it does not fit."""
    if kv.cached:
        return hold_blocks(st, kv, r, i, tokens)
    more = kv_bytes(kv, tokens) - st.floats[i, col.F_HELD]
    if more > st.free[r]:
        return False
    if more > 0.0:
        st.free[r] -= more
        st.floats[i, col.F_HELD] += more
    # What is held changes at whole blocks only, in every window class.
    st.ints[i, col.I_ROOM] = (tokens + kv.block - 1) // kv.block * kv.block
    return True


@compiled_part
def preempt_last(st: State, kv: KvRules, r: int) -> None:
    """Put the latest-admitted sequence of a rank back to the front of its queue."""
    rank = st.ranks[r]
    rank[col.R_RUNNING] -= 1
    i = st.running[r, rank[col.R_RUNNING]]
    give_up(st, kv, r, i)
    put_back(st, r, i)


@compiled_inside
def put_back(st: State, r: int, i: int) -> None:
    """Queue a request that was preempted: all it has is computed again."""
    request = st.ints[i]
    request[col.I_CACHED] = request[col.I_NOTED] = 0
    request[col.I_TARGET] = request[col.I_INPUT] + request[col.I_GENERATED]
    queue_again(st, r, i)


@compiled_part
def preempt_late(st: State, kv: KvRules, r: int) -> bool:
    """Preempt the last sequence of a rank if it is one that the step in flight finishes.

    As it ends all the same, it only gives its memory and its place back early.
    """
    rank, size = st.ranks[r], st.running.shape[1] // 3
    last = rank[col.R_LATE] - 1
    if last < 0 or st.running[r, 2 * size + last] < rank[col.R_RUNNING]:
        return False
    rank[col.R_LATE] = last
    give_up(st, kv, r, st.running[r, size + last])
    return True


@compiled_part
def give_up(st: State, kv: KvRules, r: int, i: int) -> None:
    """Take a sequence's memory; its own blocks stay findable for it."""
    request, noted = st.ints[i], st.ints[i, col.I_CACHED]
    if kv.cached:
        noted = found_again(st, i)
        note_content(st, kv, r, i, noted)
    drop(st, kv, r, i, noted)
    request[col.I_PREEMPTED] += 1
    hooks.on_preempted(st, i)
