"""Contents of a tier by block hash with LRU eviction, and the time of transfers over its links."""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_code, compiled_part, int64
from ...engine.allocation import note_content
from ...engine.kv import KvRules
from ...engine.prefix import content_key, place
from ...engine.state import State
from . import state as tier
from .state import Shelves, TierState


@compiled_part
def tier_key(tiers: TierState, key: int) -> int:
    """Return the key of a block's content in the tiers, from its key in device memory (`content_key`)."""
    return int(key if key & 1 else key + tiers.own)


@compiled_part
def home(key: int, mask: int) -> int:
    """Return the start of a key's search in a hash table.

    Consecutive blocks of a sequence share a line of eight rows, because they are looked up one after another.
    """
    return int((place(key >> 4, mask >> 3) << 3) + ((key >> 1) & 7))


@compiled_part
def spot(shelves: Shelves, store: int, key: int) -> int:
    """Return the row of a store's table that holds a content's key, or where it would be inserted."""
    base, mask = shelves.stores[store].table, shelves.stores[store].mask
    at = home(key, mask)
    while shelves.table[base + at, 0] != 0 and shelves.table[base + at, 0] != key:
        at = (at + 1) & mask
    return int(base + at)


@compiled_part
def entry_of(shelves: Shelves, store: int, key: int) -> int:
    """Return the entry of a store that holds a content, or -1."""
    at = spot(shelves, store, key)
    return int(shelves.table[at, 1]) if shelves.table[at, 0] == key else -1


@compiled_part
def erase(shelves: Shelves, store: int, key: int) -> None:
    """Remove a content from a store's table (backward-shift deletion)."""
    base, mask, table = shelves.stores[store].table, shelves.stores[store].mask, shelves.table
    hole = spot(shelves, store, key) - base
    at = (hole + 1) & mask
    while table[base + at, 0] != 0:
        begin = home(table[base + at, 0], mask)
        if ((at - begin) & mask) >= ((at - hole) & mask):
            table[base + hole, 0], table[base + hole, 1] = table[base + at, 0], table[base + at, 1]
            hole = at
        at = (at + 1) & mask
    table[base + hole, 0] = 0


@compiled_part
def unlink_entry(shelves: Shelves, row: int) -> None:
    """Remove an entry from its store's list."""
    after, before = shelves.entries[row].next, shelves.entries[row].previous
    shelves.entries[before].next, shelves.entries[after].previous = after, before


@compiled_part
def append_entry(shelves: Shelves, store: int, row: int) -> None:
    """Append an entry to the end of its store's list: the most recently used."""
    end = shelves.stores[store].first + shelves.stores[store].room
    last = shelves.entries[end].previous
    shelves.entries[last].next, shelves.entries[row].previous = row, last
    shelves.entries[row].next, shelves.entries[end].previous = end, row


@compiled_part
def touch(shelves: Shelves, store: int, row: int) -> None:
    """Mark an entry as the most recently used."""
    unlink_entry(shelves, row)
    append_entry(shelves, store, row)


@compiled_part
def put(shelves: Shelves, s: int, key: int, owner: int) -> tuple[int, int]:
    """Insert a content that a store does not have; return its entry and the key of the evicted content (0: none)."""
    store, out = shelves.stores[s], int64(0)
    if store.used < store.room:
        e = store.first + store.used
        store.used += 1
    else:
        e = shelves.entries[store.first + store.room].next
        out = shelves.entries[e].key
        unlink_entry(shelves, e)
        if out != 0:
            erase(shelves, s, out)
    shelves.entries[e].key, shelves.entries[e].owner = key, owner
    at = spot(shelves, s, key)
    shelves.table[at, 0], shelves.table[at, 1] = key, e
    append_entry(shelves, s, e)
    store.held += out == 0
    store.peak = max(store.peak, store.held)
    return int(e), int(out)


@compiled_part
def moved(tiers: TierState, rank: int, level: int, way: int, begin: float, blocks: int) -> float:
    """Transfer blocks over a level's link as soon as it is free; return the end time [s]."""
    wire = blocks * tiers.pace[level, tier.P_BLOCK]
    free = max(begin, tiers.free_s[rank, level, way]) + wire
    tiers.free_s[rank, level, way] = free
    tiers.link_s[level, way] += wire
    return float(free + tiers.pace[level, tier.P_LATENCY])


@compiled_part
def keep(tiers: TierState, rank: int, level: int, key: int, now: float) -> float:
    """Write a block to a level if it is missing; return the time at which it is complete [s].

    With write-back, an evicted block moves to the next level, and its entry is free after the transfer.
    """
    x, levels = tiers.shelves, tiers.which.shape[1]
    last, out = level, key
    while last < levels and out != 0:
        s = tiers.which[rank, last]
        tiers.chain[last] = -1
        if tiers.worth[last] == 1:
            e = entry_of(x, s, out)
            if e >= 0:
                touch(x, s, e)
                if last == level:
                    return float(x.came[e])
                break
            e, out = put(x, s, out, tiers.owner)
            tiers.chain[last] = e
            tiers.counts[last].stored += 1
            tiers.counts[last].evicted += out != 0
            if tiers.through:
                last += 1
                break
        last += 1
    ready = now
    while last > level:
        last -= 1
        e, above = tiers.chain[last], last - 1
        while above >= level and tiers.chain[above] < 0:
            above -= 1
        if e >= 0:
            if above >= level:  # a block that is evicted from the level above must have arrived there
                ready = max(ready, x.came[tiers.chain[above]])
            ready = moved(tiers, rank, last, tier.DOWN, ready, 1)
            x.came[e] = ready
    return ready


@compiled_part
def leave(tiers: TierState, rank: int, block: int, key: int) -> None:
    """Evict a content from device memory: delay the next step until the content is copied."""
    ready = (
        tiers.out_s[rank, block] if tiers.through else keep(tiers, rank, 0, tier_key(tiers, key), tiers.seconds[0].now)
    )
    tiers.seconds[0].held_until = max(tiers.seconds[0].held_until, ready)


@compiled_code
def lose(tiers: TierState, state: State, rank: int, b: int) -> None:
    """Evict the content of a block in device memory; if it is the only copy there, it must be in the tiers first."""
    block = state.pool.blocks[rank, b]
    if block.after == b:
        leave(tiers, rank, b, block.key)
    if tiers.through:
        tiers.out_s[rank, b] = 0.0


@compiled_part
def write_through(tiers: TierState, state: State, kv_rules: KvRules, rank: int, index: int, tokens: int) -> None:
    """Copy the blocks that a sequence's first `tokens` tokens fill to all tiers, each block once."""
    pool, content = state.pool, state.contents[index]
    if not tiers.through:
        return
    full = (min(tokens, tiers.rows[index].computed) if tiers.piped else tokens) // kv_rules.block
    row = pool.held[rank, content.slot]
    while tiers.rows[index].stored < full:
        j, ready = tiers.rows[index].stored, np.inf
        key = tier_key(tiers, content_key(pool, content.hashes, content.hashed, index, j, kv_rules.block))
        for level in range(tiers.which.shape[1]):
            if tiers.worth[level] == 1:
                ready = min(ready, keep(tiers, rank, level, key, tiers.seconds[0].now))
        tiers.out_s[rank, row[j]] = 0.0 if ready == np.inf else ready
        tiers.rows[index].stored += 1


@compiled_code
def store_freed(tiers: TierState, state: State, kv_rules: KvRules, rank: int, index: int, noted: int) -> None:
    """Record and write through the content of a sequence that frees its blocks, including output that a trace does not name."""
    note_content(state, kv_rules, rank, index, noted)
    write_through(tiers, state, kv_rules, rank, index, noted)
    tiers.rows[index].stored = tiers.rows[index].computed = 0


@compiled_code
def store_planned(tiers: TierState, state: State, kv_rules: KvRules, rank: int, index: int) -> None:
    """Record the content of a planned sequence, so that tiers can store its blocks; write through what is computed."""
    note_content(state, kv_rules, rank, index, state.requests[index].noted)
    write_through(tiers, state, kv_rules, rank, index, state.requests[index].cached)


HOOKS = {"on_evict": lose, "on_free": store_freed, "on_note": store_planned}
