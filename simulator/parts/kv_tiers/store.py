"""What a tier keeps: blocks by content, the one used longest ago goes first; and the links' time."""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_code, compiled_part, int64
from ...batching.holding import note_content
from ...batching.kv import KvRules
from ...batching.prefix import AFTER, KEY, content_key, place
from ...batching.state import I_CACHED, I_HASHED, I_HASHES, I_NOTED, I_SLOT, State
from . import state as tier
from .state import W_COMPUTED, W_STORED, Z_NOW, Shelves, TierState


@compiled_part
def tier_key(t: TierState, key: int) -> int:
    """Key of a block's content in the tiers, from that in the devices' memory (`content_key`)."""
    return int(key if key & 1 else key + t.own)


@compiled_part
def home(key: int, mask: int) -> int:
    """Where a key's search starts: blocks that follow each other lie side by side, eight to a place.

    They are asked for one after another, and a large table is in no cache.
    """
    return int((place(key >> 4, mask >> 3) << 3) + ((key >> 1) & 7))


@compiled_part
def spot(x: Shelves, s: int, key: int) -> int:
    """Row of the table where a store's content is, or would be."""
    base, mask = x.stores[s, tier.H_TABLE], x.stores[s, tier.H_MASK]
    at = home(key, mask)
    while x.table[base + at, 0] != 0 and x.table[base + at, 0] != key:
        at = (at + 1) & mask
    return int(base + at)


@compiled_part
def entry_of(x: Shelves, s: int, key: int) -> int:
    """Entry of a store that holds a content, or -1."""
    at = spot(x, s, key)
    return int(x.table[at, 1]) if x.table[at, 0] == key else -1


@compiled_part
def erase(x: Shelves, s: int, key: int) -> None:
    """Take a content out of a store's table (backward-shift deletion)."""
    base, mask, table = x.stores[s, tier.H_TABLE], x.stores[s, tier.H_MASK], x.table
    hole = spot(x, s, key) - base
    at = (hole + 1) & mask
    while table[base + at, 0] != 0:
        begin = home(table[base + at, 0], mask)
        if ((at - begin) & mask) >= ((at - hole) & mask):
            table[base + hole, 0], table[base + hole, 1] = table[base + at, 0], table[base + at, 1]
            hole = at
        at = (at + 1) & mask
    table[base + hole, 0] = 0


@compiled_part
def unlink_entry(x: Shelves, e: int) -> None:
    """Take an entry out of its list."""
    after, before = x.entries[e, tier.E_NEXT], x.entries[e, tier.E_PREVIOUS]
    x.entries[before, tier.E_NEXT], x.entries[after, tier.E_PREVIOUS] = after, before


@compiled_part
def append_entry(x: Shelves, s: int, e: int) -> None:
    """Put an entry at the end of its store's list: used last."""
    end = x.stores[s, tier.H_FIRST] + x.stores[s, tier.H_ROOM]
    last = x.entries[end, tier.E_PREVIOUS]
    x.entries[last, tier.E_NEXT], x.entries[e, tier.E_PREVIOUS] = e, last
    x.entries[e, tier.E_NEXT], x.entries[end, tier.E_PREVIOUS] = end, e


@compiled_part
def touch(x: Shelves, s: int, e: int) -> None:
    """Note that an entry is used now."""
    unlink_entry(x, e)
    append_entry(x, s, e)


@compiled_part
def put(x: Shelves, s: int, key: int, owner: int) -> tuple[int, int]:
    """Keep a content that a store has not; its entry, and the content that had to leave (0: none)."""
    store, out = x.stores[s], int64(0)
    if store[tier.H_USED] < store[tier.H_ROOM]:
        e = store[tier.H_FIRST] + store[tier.H_USED]
        store[tier.H_USED] += 1
    else:
        e = x.entries[store[tier.H_FIRST] + store[tier.H_ROOM], tier.E_NEXT]
        out = x.entries[e, tier.E_KEY]
        unlink_entry(x, e)
        if out != 0:
            erase(x, s, out)
    x.entries[e, tier.E_KEY], x.entries[e, tier.E_OWNER] = key, owner
    at = spot(x, s, key)
    x.table[at, 0], x.table[at, 1] = key, e
    append_entry(x, s, e)
    store[tier.H_HELD] += out == 0
    store[tier.H_PEAK] = max(store[tier.H_PEAK], store[tier.H_HELD])
    return int(e), int(out)


@compiled_part
def moved(t: TierState, r: int, level: int, way: int, begin: float, blocks: int) -> float:
    """Transfer blocks over a level's link once it is free; return the end."""
    wire = blocks * t.pace[level, tier.P_BLOCK]
    free = max(begin, t.free_s[r, level, way]) + wire
    t.free_s[r, level, way] = free
    t.link_s[level, way] += wire
    return float(free + t.pace[level, tier.P_LATENCY])


@compiled_part
def keep(t: TierState, r: int, level: int, key: int, now: float) -> float:
    """Write a block to a level if it is missing; return when it is there.

    With write-back, an evicted block moves to the next level, and its slot is free after the transfer.
    """
    x, levels = t.shelves, t.which.shape[1]
    last, out = level, key
    while last < levels and out != 0:
        s = t.which[r, last]
        t.chain[last] = -1
        if t.worth[last] == 1:
            e = entry_of(x, s, out)
            if e >= 0:
                touch(x, s, e)
                if last == level:
                    return float(x.came[e])
                break
            e, out = put(x, s, out, t.owner)
            t.chain[last] = e
            t.counts[last, tier.N_STORED] += 1
            t.counts[last, tier.N_EVICTED] += out != 0
            if t.through:
                last += 1
                break
        last += 1
    ready = now
    while last > level:
        last -= 1
        e, above = t.chain[last], last - 1
        while above >= level and t.chain[above] < 0:
            above -= 1
        if e >= 0:
            if above >= level:  # what comes from there must have come there
                ready = max(ready, x.came[t.chain[above]])
            ready = moved(t, r, last, tier.DOWN, ready, 1)
            x.came[e] = ready
    return ready


@compiled_part
def leave(t: TierState, r: int, b: int, key: int) -> None:
    """Evict a content from device memory: a copy must finish before its block is overwritten."""
    ready = t.out_s[r, b] if t.through else keep(t, r, 0, tier_key(t, key), t.seconds[tier.Z_NOW])
    t.seconds[tier.Z_HELD_UNTIL] = max(t.seconds[tier.Z_HELD_UNTIL], ready)


@compiled_code
def lose(t: TierState, st: State, r: int, b: int) -> None:
    """A block's content is lost: the last copy of a content goes to the tiers."""
    block = st.pool.blocks[r, b]
    if block[AFTER] == b:
        leave(t, r, b, block[KEY])
    if t.through:
        t.out_s[r, b] = 0.0


@compiled_part
def write_through(t: TierState, st: State, kv: KvRules, r: int, i: int, tokens: int) -> None:
    """Copy the blocks that a sequence's first `tokens` tokens fill to all tiers, each once."""
    pool, request = st.pool, st.ints[i]
    if not t.through:
        return
    full = (min(tokens, t.rows[i, W_COMPUTED]) if t.piped else tokens) // kv.block
    row = pool.held[r, request[I_SLOT]]
    while t.rows[i, W_STORED] < full:
        j, ready = t.rows[i, W_STORED], np.inf
        key = tier_key(t, content_key(pool, request[I_HASHES], request[I_HASHED], i, j, kv.block))
        for level in range(t.which.shape[1]):
            if t.worth[level] == 1:
                ready = min(ready, keep(t, r, level, key, t.seconds[Z_NOW]))
        t.out_s[r, row[j]] = 0.0 if ready == np.inf else ready
        t.rows[i, W_STORED] += 1


@compiled_code
def store_freed(t: TierState, st: State, kv: KvRules, r: int, i: int, noted: int) -> None:
    """A sequence gives back its blocks: tiers take all content, told or not."""
    note_content(st, kv, r, i, noted)
    write_through(t, st, kv, r, i, noted)
    t.rows[i, W_STORED] = t.rows[i, W_COMPUTED] = 0


@compiled_code
def store_planned(t: TierState, st: State, kv: KvRules, r: int, i: int) -> None:
    """Record all content if tiers keep evicted blocks; it is written once computed."""
    note_content(st, kv, r, i, st.ints[i, I_NOTED])
    write_through(t, st, kv, r, i, st.ints[i, I_CACHED])


HOOKS = {"on_evict": lose, "on_free": store_freed, "on_note": store_planned}
