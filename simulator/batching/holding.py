"""What sequences hold of the KV cache: taking, giving back, finding again, preempting.

Without prefix caching a sequence holds bytes, with it blocks of a pool (`prefix`).
"""

from __future__ import annotations

from ...workloads.jit import compiled_part, int64
from .kv import KvRules
from .prefix import USERS, content_key, find, give_back, remember, share, take
from .state import (
    C_HITS,
    F_HELD,
    F_KEY,
    I_BLOCKS,
    I_CACHED,
    I_GENERATED,
    I_HASHED,
    I_HASHES,
    I_INPUT,
    I_KEYED,
    I_NEXT,
    I_PREEMPTED,
    I_ROOM,
    I_SLOT,
    I_TARGET,
    R_BLOCKS,
    R_HEAD,
    R_LATE,
    R_RUNNING,
    R_SLOTS,
    R_TAIL,
    R_WAITING,
    State,
)


@compiled_part
def kv_bytes(kv: KvRules, tokens: int) -> float:
    """Bytes one sequence of `tokens` cached tokens holds."""
    size = kv.constant
    for c in range(kv.window.size):
        kept = tokens if kv.window[c] == 0 else min(tokens, kv.window[c])
        size += kv.block_bytes[c] * ((kept + kv.block - 1) // kv.block)
    return size


@compiled_part
def hold_blocks(st: State, kv: KvRules, r: int, i: int, tokens: int) -> bool:
    """`hold` with prefix caching: blocks of the pool."""
    pool, rank, request = st.pool, st.ranks[r], st.ints[i]
    want = (tokens + kv.block - 1) // kv.block
    if want - request[I_BLOCKS] > rank[R_BLOCKS]:
        return False
    row = pool.held[r, request[I_SLOT]]
    while request[I_BLOCKS] < want:
        row[request[I_BLOCKS]] = take(pool, r)
        request[I_BLOCKS] += 1
        rank[R_BLOCKS] -= 1
    count_blocks(st, kv, r, i)
    return True


@compiled_part
def count_blocks(st: State, kv: KvRules, r: int, i: int) -> None:
    """Bring the byte counts of a sequence and its rank in line with their blocks."""
    st.floats[i, F_HELD] = st.ints[i, I_BLOCKS] * kv.block_bytes[0]
    st.ints[i, I_ROOM] = st.ints[i, I_BLOCKS] * kv.block
    st.free[r] = st.ranks[r, R_BLOCKS] * kv.block_bytes[0]


@compiled_part
def drop(st: State, kv: KvRules, r: int, i: int) -> None:
    """Give back all that a sequence holds."""
    request = st.ints[i]
    request[I_ROOM] = 0
    if not kv.cached:
        st.free[r] += st.floats[i, F_HELD]
        st.floats[i, F_HELD] = 0.0
        return
    note_content(st, kv, r, i, min(request[I_CACHED], request[I_HASHED]))  # outputs of sessions
    pool, rank = st.pool, st.ranks[r]
    row = pool.held[r, request[I_SLOT]]
    while request[I_BLOCKS] > 0:
        request[I_BLOCKS] -= 1
        rank[R_BLOCKS] += give_back(pool, r, row[request[I_BLOCKS]])
    pool.held[r, rank[R_SLOTS], pool.held.shape[2] - 1] = request[I_SLOT]
    rank[R_SLOTS] += 1
    request[I_SLOT], request[I_KEYED] = -1, 0
    count_blocks(st, kv, r, i)


@compiled_part
def drop_late(st: State, kv: KvRules, r: int) -> None:
    """Give back what sequences held that had finished unknown to the plan just made."""
    rank, first = st.ranks[r], st.running.shape[1] // 2
    for j in range(rank[R_LATE]):
        drop(st, kv, r, st.running[r, first + j])
    rank[R_LATE] = 0


@compiled_part
def find_prefix(st: State, kv: KvRules, r: int, i: int) -> int:
    """Leading blocks of a waiting request whose content is still there, all but the last token."""
    pool, request = st.pool, st.ints[i]
    most = (request[I_TARGET] - 1) // kv.block
    if request[I_PREEMPTED] == 0:  # nothing of its own yet
        most = min(most, request[I_HASHED] // kv.block)
    j = 0
    while j < most:
        key = content_key(pool.hashes, request[I_HASHES], request[I_HASHED], i, j, kv.block)
        if find(pool.table[r], key) < 0:
            break
        j += 1
    return j


@compiled_part
def use_prefix(st: State, kv: KvRules, r: int, i: int, whole: int) -> bool:
    """Take over cached blocks, if the rest of `whole` tokens then fits; False, and no change."""
    pool, rank, request = st.pool, st.ranks[r], st.ints[i]
    hits, taken = find_prefix(st, kv, r, i), 0
    for j in range(hits):
        key = content_key(pool.hashes, request[I_HASHES], request[I_HASHED], i, j, kv.block)
        taken += pool.blocks[r, find(pool.table[r], key), USERS] == 0
    if (whole + kv.block - 1) // kv.block - hits + taken > rank[R_BLOCKS]:
        return False
    rank[R_SLOTS] -= 1
    request[I_SLOT] = pool.held[r, rank[R_SLOTS], pool.held.shape[2] - 1]
    row = pool.held[r, request[I_SLOT]]
    for j in range(hits):
        key = content_key(pool.hashes, request[I_HASHES], request[I_HASHED], i, j, kv.block)
        row[j] = find(pool.table[r], key)
        rank[R_BLOCKS] -= share(pool, r, row[j])
    request[I_BLOCKS] = request[I_KEYED] = hits
    request[I_CACHED] = hits * kv.block
    st.counters[C_HITS] += hits * kv.block
    count_blocks(st, kv, r, i)
    return True


@compiled_part
def note_content(st: State, kv: KvRules, r: int, i: int, tokens: int) -> None:
    """Note the content of the blocks that a sequence's first `tokens` tokens fill, each once."""
    pool, request = st.pool, st.ints[i]
    row, full = pool.held[r, request[I_SLOT]], tokens // kv.block
    while request[I_KEYED] < full:
        j = request[I_KEYED]
        key = content_key(pool.hashes, request[I_HASHES], request[I_HASHED], i, j, kv.block)
        remember(pool, r, row[j], key)
        request[I_KEYED] += 1


@compiled_part
def hold(st: State, kv: KvRules, r: int, i: int, tokens: int) -> bool:
    """Hold KV for `tokens` tokens of a sequence; False, and no change, where it does not fit."""
    if kv.cached:
        return hold_blocks(st, kv, r, i, tokens)
    more = kv_bytes(kv, tokens) - st.floats[i, F_HELD]
    if more > st.free[r]:
        return False
    if more > 0.0:
        st.free[r] -= more
        st.floats[i, F_HELD] += more
    # What is held changes at whole blocks only, in every window class.
    st.ints[i, I_ROOM] = (tokens + kv.block - 1) // kv.block * kv.block
    return True


@compiled_part
def enqueue(st: State, r: int, i: int) -> None:
    """Put a request into a rank's queue: before the first with a larger key, else last.

    Preempted requests, which are at the front, stay before all others.
    """
    rank, key = st.ranks[r], st.floats[i, F_KEY]
    before, after = rank[R_TAIL], int64(-1)
    if before >= 0 and st.ints[before, I_PREEMPTED] == 0 and st.floats[before, F_KEY] > key:
        before, after = int64(-1), rank[R_HEAD]
        while st.ints[after, I_PREEMPTED] > 0 or st.floats[after, F_KEY] <= key:
            before, after = after, st.ints[after, I_NEXT]
    st.ints[i, I_NEXT] = after
    if before >= 0:
        st.ints[before, I_NEXT] = i
    else:
        rank[R_HEAD] = i
    if after < 0:
        rank[R_TAIL] = i
    rank[R_WAITING] += 1


@compiled_part
def preempt_last(st: State, kv: KvRules, r: int) -> None:
    """Put the latest-admitted sequence of a rank back to the front of its queue."""
    rank = st.ranks[r]
    rank[R_RUNNING] -= 1
    i = st.running[r, rank[R_RUNNING]]
    request = st.ints[i]
    if kv.cached:
        note_content(st, kv, r, i, request[I_CACHED])  # to find its own again
    drop(st, kv, r, i)
    request[I_CACHED] = 0
    request[I_TARGET] = request[I_INPUT] + request[I_GENERATED]
    request[I_PREEMPTED] += 1
    request[I_NEXT] = rank[R_HEAD]
    rank[R_HEAD] = i
    if rank[R_TAIL] < 0:
        rank[R_TAIL] = i
    rank[R_WAITING] += 1
