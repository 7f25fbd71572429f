"""The controller's queues: requests by bank, with each bank's oldest row hit and oldest other.

A first-ready, first-come scheduler needs one candidate per bank: all row hits of a bank become ready at the same tick,
and so do all others.
"""

from __future__ import annotations

from typing import Any

from ...workloads.jit import compiled_inside, compiled_part
from .mapping import COL_SHIFT, ROW_SHIFT
from .state import READ, WRITE
from .streams import next_block

BANK_MASK, COL_MASK = (1 << COL_SHIFT) - 1, (1 << (ROW_SHIFT - COL_SHIFT)) - 1


@compiled_inside
def fetch(st: Any) -> None:
    """Take the next request of the stream into the hand: bank, row and column."""
    s = st.s[0]
    block = next_block(st.streams[0])
    s.held_write = 0
    if block < 0:
        block = -1 - block
        s.held_write = 1
    place = st.tables[0, block & 255] ^ st.tables[1, (block >> 8) & 255]
    place ^= st.tables[2, (block >> 16) & 255] ^ st.tables[3, (block >> 24) & 255]
    place ^= st.tables[4, (block >> 32) & 255]
    s.held, s.held_bank = 1, place & BANK_MASK
    s.held_col, s.held_row = (place >> COL_SHIFT) & COL_MASK, place >> ROW_SHIFT


@compiled_inside
def list_hit(st: Any, q: int, b: int, entry: int) -> None:
    """Set a bank's oldest row hit in queue `q`; -1 for none."""
    requests, pc = st.lists[q, b], st.banks[b].pc
    if requests.hit < 0 and entry >= 0:
        n = st.counts[q, pc]
        st.hits[q, pc, n] = b
        requests.hit_at = n
        st.counts[q, pc] = n + 1
    elif requests.hit >= 0 and entry < 0:
        n = st.counts[q, pc] - 1
        last = st.hits[q, pc, n]
        st.hits[q, pc, requests.hit_at] = last
        st.lists[q, last].hit_at = requests.hit_at
        st.counts[q, pc] = n
    requests.hit = entry


@compiled_inside
def list_miss(st: Any, q: int, b: int, entry: int) -> None:
    """Set a bank's oldest request of another row than the open one in queue `q`; -1 for none."""
    requests, pc = st.lists[q, b], st.banks[b].pc
    if requests.miss < 0 and entry >= 0:
        n = st.counts[2 + q, pc]
        st.misses[q, pc, n] = b
        requests.miss_at = n
        st.counts[2 + q, pc] = n + 1
    elif requests.miss >= 0 and entry < 0:
        n = st.counts[2 + q, pc] - 1
        last = st.misses[q, pc, n]
        st.misses[q, pc, requests.miss_at] = last
        st.lists[q, last].miss_at = requests.miss_at
        st.counts[2 + q, pc] = n
    requests.miss = entry


@compiled_part
def is_buffered(st: Any, b: int, row: int, col: int) -> bool:
    """Whether the write queue holds that very block."""
    e = st.lists[WRITE, b].head
    while e >= 0:
        if st.entries[e].row == row and st.entries[e].col == col:
            return True
        e = st.entries[e].next
    return False


@compiled_inside
def accept(st: Any) -> bool:
    """Let the next request enter its queue; return False if it is full."""
    s, c = st.s[0], st.config[0]
    q = WRITE if s.held_write else READ
    b = s.held_bank
    if s.writes > 0 and st.lists[WRITE, b].head >= 0 and is_buffered(st, b, s.held_row, s.held_col):
        # A write already waiting answers a read at once, and takes up a second write.
        if q == READ:
            s.latency += 1
            s.reads_done += 1
        else:
            s.writes_done += 1
        return True
    if q == READ:
        if s.reads >= c.read_queue or (c.window > 0 and s.outstanding >= c.window):
            return False
        s.reads += 1
        s.outstanding += c.window > 0
    else:
        if s.writes >= c.write_queue:
            return False
        s.writes += 1
    index = s.free
    e = st.entries[index]
    s.free = e.next
    e.bank, e.row, e.col, e.arrive, e.seq, e.write = b, s.held_row, s.held_col, s.clock, s.seq, q
    s.seq += 1
    append(st, q, b, index)
    return True


@compiled_inside
def append(st: Any, q: int, b: int, index: int) -> None:
    """Put a request behind the others of its bank."""
    requests, e = st.lists[q, b], st.entries[index]
    e.next, e.prev = -1, requests.tail
    if requests.tail >= 0:
        st.entries[requests.tail].next = index
    else:
        requests.head = index
    requests.tail = index
    if e.row == st.banks[b].open:
        if requests.hit < 0:
            list_hit(st, q, b, index)
    elif requests.miss < 0:
        list_miss(st, q, b, index)


@compiled_inside
def take(st: Any, index: int) -> None:
    """Remove a request from its queue; its place is free when `release` is called."""
    e, s = st.entries[index], st.s[0]
    q, b = e.write, e.bank
    requests = st.lists[q, b]
    after = e.next
    if e.prev >= 0:
        st.entries[e.prev].next = after
    else:
        requests.head = after
    if after >= 0:
        st.entries[after].prev = e.prev
    else:
        requests.tail = e.prev
    row = st.banks[b].open
    if requests.hit == index:
        while after >= 0 and st.entries[after].row != row:
            after = st.entries[after].next
        list_hit(st, q, b, after)
    elif requests.miss == index:
        while after >= 0 and st.entries[after].row == row:
            after = st.entries[after].next
        list_miss(st, q, b, after)
    s.blocked = 0
    if q == READ:
        s.reads -= 1
    else:
        s.writes -= 1


@compiled_inside
def release(st: Any, index: int) -> None:
    """Give the place of a finished request back."""
    st.entries[index].next = st.s[0].free
    st.s[0].free = index


@compiled_inside
def opened(st: Any, b: int) -> None:
    """Sort a bank's requests after its row has been opened; before, none was a hit."""
    row = st.banks[b].open
    for q in range(2):
        requests = st.lists[q, b]
        e = requests.head
        if e < 0:
            continue
        hit, miss = e, e
        while hit >= 0 and st.entries[hit].row != row:
            hit = st.entries[hit].next
        while miss >= 0 and st.entries[miss].row == row:
            miss = st.entries[miss].next
        if hit >= 0:
            list_hit(st, q, b, hit)
        if miss != requests.miss:
            list_miss(st, q, b, miss)


@compiled_inside
def closed(st: Any, b: int) -> None:
    """Mark all requests of a bank as row conflicts after its row has been closed."""
    for q in range(2):
        requests = st.lists[q, b]
        if requests.hit >= 0:
            list_hit(st, q, b, -1)
        if requests.miss != requests.head:
            list_miss(st, q, b, requests.head)
