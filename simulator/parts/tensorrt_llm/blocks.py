"""TensorRT-LLM's KV blocks: a queue of free ones, and a tree of reusable ones (`WindowBlockManager` in cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp, `LRUEvictionPolicy` in evictionPolicy.cpp).

A freed block goes to the end of the queue, a sequence's last block first; the first in the queue is allocated next, and
its successors in the tree are lost. A prompt reuses the leading full blocks, except its last token; partial reuse is
off (`enable_partial_reuse`). Content without a trace hash is inserted only at a pause, for the same request. Columns of
a request: `I_ROOM` tokens of its sequence (0: none), `I_BLOCKS` its blocks, `I_KEYED` its leading consecutive blocks in
the tree, which it locks, `I_SLOT` its row of `held`.
"""

from __future__ import annotations

from ....workloads.jit import compiled_inside, compiled_part, int64
from ...batching.kv import KvRules
from ...batching.prefix import NEXT, append, unlink
from ...batching.radix import enter, key_at, slot_of, strike
from ...batching.state import I8, I_BLOCKS, I_KEYED, I_ROOM, I_SLOT, I_TARGET, State
from .state import B_BEFORE, B_CHILD, B_KEY, B_MARK, B_NEXT, B_PARENT, B_USERS, T_FREE, T_SLOTS, Trtllm


@compiled_inside
def count_free(state: State, kv_rules: KvRules, trtllm: Trtllm, rank: int) -> None:
    """Bring a rank's free bytes in line with its blocks."""
    state.free[rank] = trtllm.ranks[rank, T_FREE] * kv_rules.block_bytes[0]


@compiled_part
def detach(blocks: I8, table: I8, b: int) -> None:
    """Take a block without children out of the tree."""
    block = blocks[b]
    if block[B_KEY] == 0:
        return
    parent, before, after = block[B_PARENT], block[B_BEFORE], block[B_NEXT]
    strike(table, block[B_KEY], parent)
    if before >= 0:
        blocks[before, B_NEXT] = after
    elif parent >= 0:
        blocks[parent, B_CHILD] = after
    if after >= 0:
        blocks[after, B_BEFORE] = before
    block[B_KEY] = 0
    block[B_PARENT] = block[B_NEXT] = block[B_BEFORE] = -1


@compiled_part
def forget(blocks: I8, table: I8, block: int) -> None:
    """Take a block and all that follows it out of the tree."""
    at = block
    while True:
        while blocks[at, B_CHILD] >= 0:
            at = blocks[at, B_CHILD]
        parent = blocks[at, B_PARENT]
        detach(blocks, table, at)
        if at == block:
            return
        at = parent


@compiled_inside
def take_block(state: State, trtllm: Trtllm, rank: int, index: int) -> None:
    """Give a request the block that was freed longest ago; there is one."""
    links, blocks, request = trtllm.links[rank], trtllm.blocks[rank], state.ints[index]
    b = links[links.shape[0] - 1, NEXT]
    unlink(links, b)
    if blocks[b, B_KEY] != 0:
        forget(blocks, trtllm.table[rank], b)
    blocks[b, B_USERS] = 1
    trtllm.ranks[rank, T_FREE] -= 1
    trtllm.held[rank, request[I_SLOT], request[I_BLOCKS]] = b
    request[I_BLOCKS] += 1


@compiled_inside
def child_of(state: State, trtllm: Trtllm, rank: int, index: int, position: int, parent: int) -> int:
    """The block with a request's `position`-th content behind another block, or -1."""
    table = trtllm.table[rank]
    return int(table[slot_of(table, key_at(state, index, position, trtllm.rules.block), parent), 2] - 1)


@compiled_part
def begin(state: State, trtllm: Trtllm, rank: int, index: int) -> int:
    """Start a request's sequence: blocks of its whole prompt; tokens that were found."""
    request, rank_state, block = state.ints[index], trtllm.ranks[rank], trtllm.rules.block
    rank_state[T_SLOTS] -= 1
    request[I_SLOT] = trtllm.held[rank, rank_state[T_SLOTS], trtllm.held.shape[2] - 1]
    request[I_BLOCKS], request[I_ROOM] = 0, request[I_TARGET]
    row, parent, most = trtllm.held[rank, request[I_SLOT]], int64(-1), int64(0)
    if trtllm.rules.reuse:
        most = (request[I_TARGET] - 1) // block
    while request[I_BLOCKS] < most:
        b = child_of(state, trtllm, rank, index, request[I_BLOCKS], parent)
        if b < 0:
            break
        if trtllm.blocks[rank, b, B_USERS] == 0:
            unlink(trtllm.links[rank], b)
            rank_state[T_FREE] -= 1
        trtllm.blocks[rank, b, B_USERS] += 1
        row[request[I_BLOCKS]] = b
        request[I_BLOCKS] += 1
        parent = b
    reused = request[I_BLOCKS] * block
    request[I_KEYED] = request[I_BLOCKS]
    while request[I_BLOCKS] * block < request[I_TARGET]:
        take_block(state, trtllm, rank, index)
    return int(reused)


@compiled_part
def store(state: State, trtllm: Trtllm, rank: int, index: int, tokens: int) -> None:
    """Let others find the full blocks of a request's first tokens where their content is not yet there."""
    if not trtllm.rules.reuse or tokens < trtllm.rules.block:
        return
    blocks, request, block = trtllm.blocks[rank], state.ints[index], trtllm.rules.block
    row, parent, matching = trtllm.held[rank, request[I_SLOT]], int64(-1), True
    first = request[I_KEYED]
    if first > 0:
        parent = row[first - 1]
    for j in range(first, min(tokens // block, request[I_BLOCKS])):
        b = child_of(state, trtllm, rank, index, j, parent) if matching else int64(-1)
        if b < 0:
            matching = False
            b = row[j]
            if blocks[b, B_KEY] != 0:
                forget(blocks, trtllm.table[rank], b)
            key = key_at(state, index, j, block)
            enter(trtllm.table[rank], key, parent, b + 1)
            blocks[b, B_KEY], blocks[b, B_PARENT], blocks[b, B_BEFORE] = key, parent, -1
            blocks[b, B_NEXT] = -1
            if parent >= 0:
                child = blocks[parent, B_CHILD]
                blocks[b, B_NEXT], blocks[parent, B_CHILD] = child, b
                if child >= 0:
                    blocks[child, B_BEFORE] = b
        if b == row[j] and request[I_KEYED] == j:
            request[I_KEYED] += 1
        parent = b


@compiled_part
def give_back(state: State, trtllm: Trtllm, rank: int, index: int, kept: int) -> None:
    """Take all but the first `kept` blocks of a request."""
    request, row = state.ints[index], trtllm.held[rank, state.ints[index, I_SLOT]]
    while request[I_BLOCKS] > kept:
        request[I_BLOCKS] -= 1
        b = row[request[I_BLOCKS]]
        trtllm.blocks[rank, b, B_MARK] = 0
        trtllm.blocks[rank, b, B_USERS] -= 1
        if trtllm.blocks[rank, b, B_USERS] == 0:
            append(trtllm.links[rank], b)
            trtllm.ranks[rank, T_FREE] += 1


@compiled_part
def end(state: State, trtllm: Trtllm, rank: int, index: int, tokens: int) -> None:
    """End a request's sequence; what it computed, of its first tokens, can be found."""
    request, rank_state = state.ints[index], trtllm.ranks[rank]
    store(state, trtllm, rank, index, tokens)
    give_back(state, trtllm, rank, index, 0)
    trtllm.held[rank, rank_state[T_SLOTS], trtllm.held.shape[2] - 1] = request[I_SLOT]
    rank_state[T_SLOTS] += 1
    request[I_SLOT], request[I_ROOM], request[I_KEYED] = -1, 0, 0


@compiled_part
def mark(state: State, trtllm: Trtllm, rank: int, index: int) -> int:
    """Return the blocks freed by pausing a request, in addition to those already marked."""
    request, freed = state.ints[index], int64(0)
    for j in range(request[I_BLOCKS]):
        block = trtllm.blocks[rank, trtllm.held[rank, request[I_SLOT], j]]
        block[B_MARK] += 1
        freed += block[B_MARK] == block[B_USERS]
    return int(freed)


@compiled_part
def first_new(state: State, trtllm: Trtllm, rank: int, index: int, tokens: int) -> tuple[int, int]:
    """Key and parent of a prompt's first full block that cannot be found; key 0 if all can."""
    parent = int64(-1)
    for j in range(tokens // trtllm.rules.block):
        b = child_of(state, trtllm, rank, index, j, parent)
        if b < 0:
            return key_at(state, index, j, trtllm.rules.block), parent
        parent = b
    return 0, int(parent)
