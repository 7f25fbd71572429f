"""Queues of the controller: requests by bank, with each bank's oldest row hit and oldest other request.

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
def fetch(channel: Any) -> None:
    """Fetch the next request of the stream and compute its bank, row and column."""
    s = channel.s[0]
    block = next_block(channel.streams[0])
    s.held_write = 0
    if block < 0:
        block = -1 - block
        s.held_write = 1
    place = channel.tables[0, block & 255] ^ channel.tables[1, (block >> 8) & 255]
    place ^= channel.tables[2, (block >> 16) & 255] ^ channel.tables[3, (block >> 24) & 255]
    place ^= channel.tables[4, (block >> 32) & 255]
    s.held, s.held_bank = 1, place & BANK_MASK
    s.held_col, s.held_row = (place >> COL_SHIFT) & COL_MASK, place >> ROW_SHIFT


@compiled_inside
def list_hit(channel: Any, queue: int, bank: int, entry: int) -> None:
    """Set a bank's oldest row hit in `queue`; -1 for none."""
    requests, pc = channel.lists[queue, bank], channel.banks[bank].pc
    if requests.hit < 0 and entry >= 0:
        n = channel.counts[queue, pc]
        channel.hits[queue, pc, n] = bank
        requests.hit_at = n
        channel.counts[queue, pc] = n + 1
    elif requests.hit >= 0 and entry < 0:
        n = channel.counts[queue, pc] - 1
        last = channel.hits[queue, pc, n]
        channel.hits[queue, pc, requests.hit_at] = last
        channel.lists[queue, last].hit_at = requests.hit_at
        channel.counts[queue, pc] = n
    requests.hit = entry


@compiled_inside
def list_miss(channel: Any, queue: int, bank: int, entry: int) -> None:
    """Set a bank's oldest request in `queue` for another row than the open one; -1 for none."""
    requests, pc = channel.lists[queue, bank], channel.banks[bank].pc
    if requests.miss < 0 and entry >= 0:
        n = channel.counts[2 + queue, pc]
        channel.misses[queue, pc, n] = bank
        requests.miss_at = n
        channel.counts[2 + queue, pc] = n + 1
    elif requests.miss >= 0 and entry < 0:
        n = channel.counts[2 + queue, pc] - 1
        last = channel.misses[queue, pc, n]
        channel.misses[queue, pc, requests.miss_at] = last
        channel.lists[queue, last].miss_at = requests.miss_at
        channel.counts[2 + queue, pc] = n
    requests.miss = entry


@compiled_part
def is_buffered(channel: Any, bank: int, row: int, col: int) -> bool:
    """Return whether the write queue contains the block at this bank, row and column."""
    e = channel.lists[WRITE, bank].head
    while e >= 0:
        if channel.entries[e].row == row and channel.entries[e].col == col:
            return True
        e = channel.entries[e].next
    return False


@compiled_inside
def accept(channel: Any) -> bool:
    """Let the next request enter its queue; return False if it is full."""
    s, c = channel.s[0], channel.config[0]
    q = WRITE if s.held_write else READ
    b = s.held_bank
    if s.writes > 0 and channel.lists[WRITE, b].head >= 0 and is_buffered(channel, b, s.held_row, s.held_col):
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
    e = channel.entries[index]
    s.free = e.next
    e.bank, e.row, e.col, e.arrive, e.seq, e.write = b, s.held_row, s.held_col, s.clock, s.seq, q
    s.seq += 1
    append(channel, q, b, index)
    return True


@compiled_inside
def append(channel: Any, queue: int, bank: int, index: int) -> None:
    """Append a request to its bank's list."""
    requests, e = channel.lists[queue, bank], channel.entries[index]
    e.next, e.prev = -1, requests.tail
    if requests.tail >= 0:
        channel.entries[requests.tail].next = index
    else:
        requests.head = index
    requests.tail = index
    if e.row == channel.banks[bank].open:
        if requests.hit < 0:
            list_hit(channel, queue, bank, index)
    elif requests.miss < 0:
        list_miss(channel, queue, bank, index)


@compiled_inside
def take(channel: Any, index: int) -> None:
    """Remove a request from its queue; `release` frees its entry later."""
    e, s = channel.entries[index], channel.s[0]
    q, b = e.write, e.bank
    requests = channel.lists[q, b]
    after = e.next
    if e.prev >= 0:
        channel.entries[e.prev].next = after
    else:
        requests.head = after
    if after >= 0:
        channel.entries[after].prev = e.prev
    else:
        requests.tail = e.prev
    row = channel.banks[b].open
    if requests.hit == index:
        while after >= 0 and channel.entries[after].row != row:
            after = channel.entries[after].next
        list_hit(channel, q, b, after)
    elif requests.miss == index:
        while after >= 0 and channel.entries[after].row == row:
            after = channel.entries[after].next
        list_miss(channel, q, b, after)
    s.blocked = 0
    if q == READ:
        s.reads -= 1
    else:
        s.writes -= 1


@compiled_inside
def release(channel: Any, index: int) -> None:
    """Free the entry of a finished request."""
    channel.entries[index].next = channel.s[0].free
    channel.s[0].free = index


@compiled_inside
def opened(channel: Any, bank: int) -> None:
    """Sort a bank's requests into hits and misses after its row has been opened."""
    row = channel.banks[bank].open
    for q in range(2):
        requests = channel.lists[q, bank]
        e = requests.head
        if e < 0:
            continue
        hit, miss = e, e
        while hit >= 0 and channel.entries[hit].row != row:
            hit = channel.entries[hit].next
        while miss >= 0 and channel.entries[miss].row == row:
            miss = channel.entries[miss].next
        if hit >= 0:
            list_hit(channel, q, bank, hit)
        if miss != requests.miss:
            list_miss(channel, q, bank, miss)


@compiled_inside
def closed(channel: Any, bank: int) -> None:
    """Mark all requests of a bank as row conflicts after its row has been closed."""
    for q in range(2):
        requests = channel.lists[q, bank]
        if requests.hit >= 0:
            list_hit(channel, q, bank, -1)
        if requests.miss != requests.head:
            list_miss(channel, q, bank, requests.head)
