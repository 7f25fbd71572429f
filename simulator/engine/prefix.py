"""Identity of KV blocks: the free list, and the content of a block (prefix caching).

As in vLLM, a freed block keeps its content until it is reused. The free list is a queue, least recently freed first. A
sequence frees its last block first, so the start of a prompt stays cached longest. A prompt does not recompute leading
blocks that are still cached. A key identifies a block's content. It is made from a trace's prefix hash or a session;
blocks that neither covers have a key that only their own request finds, after a preemption. If several blocks have the
same content, a search finds the oldest one (vLLM's BlockHashToBlockMap).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_inside, compiled_part, int64
from ...workloads.jit_address import by_address
from ...workloads.pages import new_rows
from ...workloads.records import Records, named
from ...workloads.requests.block import PREFIX_BLOCK_TOKENS

I8 = npt.NDArray[np.int64]

MOST_PIECES = 1 << 22
"""Most pieces of `PREFIX_BLOCK_TOKENS` tokens in one text; prompt and output together have at most 2^31 tokens."""

ALL_TOKENS = 1 << 40
"""A number larger than the tokens of any prompt."""

BLOCK = named("next previous bare users key after before resumes", "")
"""Fields of a block of a pool; one block fills one CPU cache line.

`next`, `previous`: its neighbours in the free list. `bare`: number of free blocks without content right before it in
this list. `users`: number of sequences that hold it. `key`: key of its content. `after`, `before`: next and previous
block with the same content, in a ring from the oldest to the newest. `resumes`: whether the state at its end is kept.

The last row is the head and tail of the free list. Its `users` is the number of block numbers used so far. Its `key` is
the block number returned last (-1: none); the field `next` links it to the other returned numbers.
"""


@by_address
class Pool(NamedTuple):
    """KV blocks of R ranks: N blocks, B sequences of at most W blocks, table of T entries.

    A block has a number only while its content can be found. Blocks without such content are interchangeable, so they
    are only counted: in a sequence after its first `keyed` blocks, and in the free list as `bare`.
    """

    blocks: Records  # [R, N+1] of `BLOCK`
    table: I8  # [R, T, 2] key (0: empty) and first block; open addressing, T a power of 2
    held: I8  # [R, B, W] blocks of each slot
    slots: I8  # [R, B] stack of free slots
    hashes: I8  # [H] prefix hashes of all requests, one request after another
    piece: int  # tokens that each hash covers
    shared: int  # prompt tokens covered by hashes; the rest belongs to a session, whose number follows the hashes


def new_pool(ranks: int, blocks: int, sequences: int) -> Pool:
    """Return a pool of `blocks` free blocks per rank, none of which has content."""
    rows = new_rows((ranks, blocks + 1), BLOCK, True).view(np.recarray)
    ends: Records = rows[:, -1]
    ends.next = ends.previous = ends.bare = blocks
    ends.key = -1
    size = 1 << max(int(2 * blocks - 1).bit_length(), 1)
    return Pool(
        rows,
        new_rows((ranks, size, 2), np.int64, True),
        np.zeros((ranks, sequences, 0), dtype=np.int64),
        np.tile(np.arange(sequences)[::-1], (ranks, 1)),
        np.zeros(0, dtype=np.int64),
        PREFIX_BLOCK_TOKENS,
        ALL_TOKENS,
    )


def stocked(pool: Pool, blocks: int) -> Pool:
    """Return the pool with `blocks` free blocks, if it has none yet."""
    ranks, sequences, _ = pool.held.shape
    if pool.blocks.shape[1] > 1:
        return pool
    new = new_pool(ranks, blocks, sequences)
    return pool._replace(blocks=new.blocks, table=new.table)


def widened(pool: Pool, width: int, free: I8) -> Pool:
    """Return the pool with tables for sequences of `width` blocks; `free` [R] is the number of empty slots of each rank."""
    ranks, sequences, have = pool.held.shape
    if width <= have:
        return pool
    rows = new_rows((ranks, sequences, width), np.int64, True)
    for r, count in enumerate(free.tolist()):  # empty slots are not written: they use address space, not memory
        used = np.setdiff1d(np.arange(sequences), pool.slots[r, :count])
        rows[r, used, :have] = pool.held[r, used]
    return pool._replace(held=rows)


def session_key(session: I8) -> I8:
    """Return the negative number that replaces the index of the first hash (`CONTENT.hashes`) of a session's requests.

    A session is one growing text: the prompt and output of each request extend the text of the previous request. Its
    pieces are numbered from ``session * MOST_PIECES`` on, so it needs no table of hashes.

    Examples
    --------
    >>> (session_key(np.arange(3)) + MOST_PIECES * np.arange(3)).tolist()
    [-1, -1, -1]
    """
    return -1 - session * MOST_PIECES


@compiled_part
def content_key(pool: Pool, first: int, hashed: int, request: int, position: int, block: int) -> int:
    """Return the content key of a request's block `position`: odd if `hashed` tokens cover it, else unique to the request."""
    if (position + 1) * block <= hashed:
        parts = pool.piece // block
        piece = position // parts
        if first < 0:
            content = piece - 1 - first
        elif (position + 1) * block <= pool.shared:
            content = pool.hashes[first + piece]
        else:
            content = -2 - piece - pool.hashes[first + -(-pool.shared // pool.piece)] * MOST_PIECES
        return int((content * parts + position % parts) * 2 + 1)
    return ((request << 24) + position) * 2 + 2


@compiled_part
def place(key: int, mask: int) -> int:
    """Return the index at which the search for a key starts in a hash table of ``mask + 1`` entries.

    It is taken from the high bits of a product, which depend on all bits of the key: keys of different sessions have
    equal low bits (`MOST_PIECES`).
    """
    return int(((int64(key) * 7046029254386353131) >> 32) & mask)


@compiled_part
def find(table: I8, key: int) -> int:
    """Return the first block that holds the content with a key, or -1 if no block does."""
    mask = table.shape[0] - 1
    at = place(key, mask)
    while table[at, 0] != 0:
        if table[at, 0] == key:
            return int(table[at, 1])
        at = (at + 1) & mask
    return -1


@compiled_part
def remember(pool: Pool, rank: int, key: int) -> int:
    """Record the content of a sequence's block after other blocks with equal content; return the block's new number."""
    table, blocks = pool.table[rank], pool.blocks[rank]
    top, mask = blocks[blocks.shape[0] - 1], table.shape[0] - 1
    b, at = top.key, place(key, mask)
    if b < 0:
        b = top.users
        top.users += 1
    else:
        top.key = blocks[b].next
    block = blocks[b]
    block.users, block.key, block.resumes = 1, key, 0
    while table[at, 0] != 0:
        if table[at, 0] == key:
            first = table[at, 1]
            last = blocks[first].before
            blocks[last].after, block.before = b, last
            block.after, blocks[first].before = first, b
            return int(b)
        at = (at + 1) & mask
    table[at, 0], table[at, 1] = key, b
    block.after = block.before = b
    return int(b)


@compiled_part
def forget(pool: Pool, rank: int, block: int) -> None:
    """Delete the content and the number of a block; for the last block of a content, delete the table's entry too."""
    table, blocks = pool.table[rank], pool.blocks[rank]
    key, after, before = blocks[block].key, blocks[block].after, blocks[block].before
    top, mask = blocks[blocks.shape[0] - 1], table.shape[0] - 1
    blocks[block].next, top.key = top.key, block
    hole = place(key, mask)
    while table[hole, 0] != key:
        hole = (hole + 1) & mask
    blocks[block].key = 0
    if after != block:  # other blocks have the same content
        blocks[before].after, blocks[after].before = after, before
        if table[hole, 1] == block:
            table[hole, 1] = after
        return
    at = (hole + 1) & mask
    while table[at, 0] != 0:
        home = place(table[at, 0], mask)
        if ((at - home) & mask) >= ((at - hole) & mask):
            table[hole, 0], table[hole, 1] = table[at, 0], table[at, 1]
            hole = at
        at = (at + 1) & mask
    table[hole, 0] = 0


@compiled_part
def unlink(links: Records, block: int) -> None:
    """Take a block out of the free list."""
    after, before = links[block].next, links[block].previous
    links[before].next, links[after].previous = after, before


@compiled_part
def append(links: Records, block: int) -> None:
    """Append a block to the end of the free list, so that it is reused last."""
    end = links.shape[0] - 1
    last = links[end].previous
    links[last].next, links[block].previous = block, last
    links[block].next, links[end].previous = end, block


@compiled_part
def unlink_block(blocks: Records, block: int) -> None:
    """Remove a block from the free list; the free blocks without content before it are kept."""
    blocks[blocks[block].next].bare += blocks[block].bare
    unlink(blocks, block)


@compiled_part
def share(pool: Pool, rank: int, block: int) -> bool:
    """Add a user to a cached block; return whether the block was free before."""
    blocks = pool.blocks[rank]
    users = blocks[block].users
    if users == 0:
        unlink_block(blocks, block)
    blocks[block].users = users + 1
    return bool(users == 0)


@compiled_part
def prepend(blocks: Records, block: int) -> None:
    """Insert a block at the start of the free list, so that it is reused next."""
    end = blocks.shape[0] - 1
    first = blocks[end].next
    blocks[first].previous, blocks[block].next = block, first
    blocks[block].previous, blocks[end].next = end, block
    blocks[block].bare = 0


@compiled_part
def give_back(pool: Pool, rank: int, block: int, next_out: bool) -> bool:
    """Remove a user from a block, which is reused next (`next_out`) or last; return whether it became free."""
    blocks = pool.blocks[rank]
    blocks[block].users -= 1
    if blocks[block].users > 0:
        return False
    if next_out:
        prepend(blocks, block)
    else:
        top = blocks[blocks.shape[0] - 1]
        blocks[block].bare, top.bare = top.bare, 0
        append(blocks, block)
    return True


@compiled_inside
def give_back_bare(pool: Pool, rank: int, count: int, next_out: bool) -> None:
    """Free blocks without findable content, which are reused next (`next_out`) or last."""
    blocks = pool.blocks[rank]
    end = blocks.shape[0] - 1
    blocks[blocks[end].next if next_out else end].bare += count
