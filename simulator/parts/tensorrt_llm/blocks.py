"""TensorRT-LLM's KV blocks: a queue of free blocks, and a tree of reusable blocks.

(`WindowBlockManager` in cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp, `LRUEvictionPolicy` in evictionPolicy.cpp.)
Freed blocks are appended to the queue, a sequence's last block first. The first block of the queue is allocated next; it
and its descendants are then removed from the tree. A prompt reuses its leading full blocks, except its last token; partial
reuse is off (`enable_partial_reuse`). Content without a trace hash is inserted only at a pause, for the same request.

Fields of a request: `covered` tokens with memory (0: none), `blocks` its number of blocks, `keyed` its leading blocks in the
tree, which it locks, `slot` its row of `held`.
"""

from __future__ import annotations

from ....workloads.jit import compiled_inside, compiled_part, int64
from ...engine.kv import KvRules
from ...engine.prefix import append, unlink
from ...engine.state import I8, State
from ..sglang.radix import enter, key_at, slot_of, strike
from .rules import Trtllm


@compiled_inside
def count_free(state: State, kv_rules: KvRules, trtllm: Trtllm, rank: int) -> None:
    """Set a rank's free bytes from its free blocks."""
    state.free[rank] = trtllm.ranks[rank].free * kv_rules.block_bytes[0]


@compiled_part
def detach(blocks: I8, table: I8, b: int) -> None:
    """Remove a block without children from the tree."""
    block = blocks[b]
    if block.key == 0:
        return
    parent, before, after = block.parent, block.before, block.next
    strike(table, block.key, parent)
    if before >= 0:
        blocks[before].next = after
    elif parent >= 0:
        blocks[parent].child = after
    if after >= 0:
        blocks[after].before = before
    block.key = 0
    block.parent = block.next = block.before = -1


@compiled_part
def forget(blocks: I8, table: I8, block: int) -> None:
    """Remove a block and all its descendants from the tree."""
    at = block
    while True:
        while blocks[at].child >= 0:
            at = blocks[at].child
        parent = blocks[at].parent
        detach(blocks, table, at)
        if at == block:
            return
        at = parent


@compiled_inside
def take_block(state: State, trtllm: Trtllm, rank: int, index: int) -> None:
    """Allocate the block that was freed longest ago to a request; at least one block is free."""
    links, blocks, content = trtllm.links[rank], trtllm.blocks[rank], state.contents[index]
    b = links[links.shape[0] - 1].next
    unlink(links, b)
    if blocks[b].key != 0:
        forget(blocks, trtllm.table[rank], b)
    blocks[b].users = 1
    trtllm.ranks[rank].free -= 1
    trtllm.held[rank, content.slot, content.blocks] = b
    content.blocks += 1


@compiled_inside
def child_of(state: State, trtllm: Trtllm, rank: int, index: int, position: int, parent: int) -> int:
    """Return the child of `parent` with the content of a request's block `position`, or -1."""
    table = trtllm.table[rank]
    return int(table[slot_of(table, key_at(state, index, position, trtllm.rules.block), parent), 2] - 1)


@compiled_part
def begin(state: State, trtllm: Trtllm, rank: int, index: int) -> int:
    """Allocate the blocks of a request's whole prompt; return the number of cached tokens."""
    request, rank_state, block, content = (
        state.requests[index],
        trtllm.ranks[rank],
        trtllm.rules.block,
        state.contents[index],
    )
    rank_state.slots -= 1
    content.slot = trtllm.held[rank, rank_state.slots, trtllm.held.shape[2] - 1]
    content.blocks, request.covered = 0, request.target
    row, parent, most = trtllm.held[rank, content.slot], int64(-1), int64(0)
    if trtllm.rules.reuse:
        most = (request.target - 1) // block
    while content.blocks < most:
        b = child_of(state, trtllm, rank, index, content.blocks, parent)
        if b < 0:
            break
        if trtllm.blocks[rank, b].users == 0:
            unlink(trtllm.links[rank], b)
            rank_state.free -= 1
        trtllm.blocks[rank, b].users += 1
        row[content.blocks] = b
        content.blocks += 1
        parent = b
    reused = content.blocks * block
    content.keyed = content.blocks
    while content.blocks * block < request.target:
        take_block(state, trtllm, rank, index)
    return int(reused)


@compiled_part
def store(state: State, trtllm: Trtllm, rank: int, index: int, tokens: int) -> None:
    """Insert the full blocks of a request's first `tokens` tokens into the tree, unless their content is there."""
    if not trtllm.rules.reuse or tokens < trtllm.rules.block:
        return
    blocks, block, content = trtllm.blocks[rank], trtllm.rules.block, state.contents[index]
    row, parent, matching = trtllm.held[rank, content.slot], int64(-1), True
    first = content.keyed
    if first > 0:
        parent = row[first - 1]
    for j in range(first, min(tokens // block, content.blocks)):
        b = child_of(state, trtllm, rank, index, j, parent) if matching else int64(-1)
        if b < 0:
            matching = False
            b = row[j]
            if blocks[b].key != 0:
                forget(blocks, trtllm.table[rank], b)
            key = key_at(state, index, j, block)
            enter(trtllm.table[rank], key, parent, b + 1)
            blocks[b].key, blocks[b].parent, blocks[b].before = key, parent, -1
            blocks[b].next = -1
            if parent >= 0:
                child = blocks[parent].child
                blocks[b].next, blocks[parent].child = child, b
                if child >= 0:
                    blocks[child].before = b
        if b == row[j] and content.keyed == j:
            content.keyed += 1
        parent = b


@compiled_part
def give_back(state: State, trtllm: Trtllm, rank: int, index: int, kept: int) -> None:
    """Free all but the first `kept` blocks of a request."""
    row, content = trtllm.held[rank, state.contents[index].slot], state.contents[index]
    while content.blocks > kept:
        content.blocks -= 1
        b = row[content.blocks]
        trtllm.blocks[rank, b].mark = 0
        trtllm.blocks[rank, b].users -= 1
        if trtllm.blocks[rank, b].users == 0:
            append(trtllm.links[rank], b)
            trtllm.ranks[rank].free += 1


@compiled_part
def end(state: State, trtllm: Trtllm, rank: int, index: int, tokens: int) -> None:
    """Free a request's memory; insert the full blocks of its first `tokens` tokens into the tree."""
    request, rank_state, content = state.requests[index], trtllm.ranks[rank], state.contents[index]
    store(state, trtllm, rank, index, tokens)
    give_back(state, trtllm, rank, index, 0)
    trtllm.held[rank, rank_state.slots, trtllm.held.shape[2] - 1] = content.slot
    rank_state.slots += 1
    content.slot, request.covered, content.keyed = -1, 0, 0


@compiled_part
def mark(state: State, trtllm: Trtllm, rank: int, index: int) -> int:
    """Return the blocks freed by pausing a request, in addition to those already marked."""
    freed, content = int64(0), state.contents[index]
    for j in range(content.blocks):
        block = trtllm.blocks[rank, trtllm.held[rank, content.slot, j]]
        block.mark += 1
        freed += block.mark == block.users
    return int(freed)


@compiled_part
def first_new(state: State, trtllm: Trtllm, rank: int, index: int, tokens: int) -> tuple[int, int]:
    """Return key and parent of a prompt's first full block that is not in the tree; key 0 if all blocks are."""
    parent = int64(-1)
    for j in range(tokens // trtllm.rules.block):
        b = child_of(state, trtllm, rank, index, j, parent)
        if b < 0:
            return key_at(state, index, j, trtllm.rules.block), parent
        parent = b
    return 0, int(parent)
