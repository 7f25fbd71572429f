"""Memory of SGLang's requests: their pages, and a locked prefix of the radix tree.

Columns of a request: `I_ROOM` counts the tokens that have memory (kv_committed_len, including the planned step; 0 after
retraction), `I_BLOCKS` its own pages, `I_KEYED` its pages in the tree (cache_protected_len), `I_SLOT` their last node.
"""

from __future__ import annotations

from ....workloads.jit import compiled_inside, compiled_part
from ...batching import hooks
from ...batching import state as col
from ...batching.kv import KvRules, blocks_of
from ...batching.radix import K_EVICTABLE, K_FREE, ROOT, insert, lock, make_room, match
from ...batching.state import I_BLOCKS, I_KEYED, I_ROOM, I_SLOT, State
from .state import RETRACT_STEPS, Sglang


@compiled_inside
def count_free(state: State, kv_rules: KvRules, sglang: Sglang, rank: int) -> None:
    """Bring a rank's free bytes in line with its pages."""
    top = sglang.tree.tops[rank]
    state.free[rank] = (top[K_FREE] + top[K_EVICTABLE]) * kv_rules.block_bytes[0]


@compiled_inside
def take_tokens(state: State, sglang: Sglang, rank: int, index: int, tokens: int) -> None:
    """Give a request memory for `tokens` more tokens; there is enough."""
    request, page = state.ints[index], sglang.rules.page
    more = tokens
    if page > 1:
        more = blocks_of(request[I_ROOM] + tokens, page) - blocks_of(request[I_ROOM], page)
    request[I_ROOM] += tokens
    request[I_BLOCKS] += more
    sglang.tree.tops[rank, K_FREE] -= more


@compiled_part
def use_prefix(state: State, sglang: Sglang, rank: int, index: int, tokens: int) -> int:
    """Look for a waiting request's prompt in the tree, but for its last token; tokens found."""
    request = state.ints[index]
    pages, node = 0, ROOT
    if sglang.rules.radix:
        pages, node = match(sglang.tree, state, rank, index, (tokens - 1) // sglang.rules.page, sglang.rules.page)
    request[I_KEYED], request[I_SLOT] = pages, node
    return int(pages * sglang.rules.page)


@compiled_part
def keep_prompt(state: State, sglang: Sglang, rank: int, index: int, tokens: int) -> None:
    """Put what a running request has computed into the tree (`cache_unfinished_req`)."""
    if not sglang.rules.radix:
        return
    request, page = state.ints[index], sglang.rules.page
    pages = tokens // page
    inserted = insert(sglang.tree, state, rank, index, pages, page)
    sglang.tree.tops[rank, K_FREE] += inserted - request[I_KEYED]  # computed twice
    _, node = match(sglang.tree, state, rank, index, pages, page)
    request[I_BLOCKS] -= pages - request[I_KEYED]
    lock(sglang.tree, rank, request[I_SLOT], -1)
    lock(sglang.tree, rank, node, 1)
    request[I_KEYED], request[I_SLOT] = pages, node


@compiled_part
def give_up(state: State, sglang: Sglang, rank: int, index: int, keep: bool) -> None:
    """Free a request's memory, with its computed tokens inserted into the tree or not (`release_kv_cache`)."""
    request, page = state.ints[index], sglang.rules.page
    top = sglang.tree.tops[rank]
    top[K_FREE] += request[I_BLOCKS]
    if sglang.rules.radix:
        if keep:
            pages = request[I_ROOM] // page
            inserted = insert(sglang.tree, state, rank, index, pages, page)
            top[K_FREE] -= pages - inserted
        lock(sglang.tree, rank, request[I_SLOT], -1)
    request[I_BLOCKS] = request[I_KEYED] = request[I_SLOT] = 0
    count_slots(sglang, rank, 1)


@compiled_inside
def count_slots(sglang: Sglang, rank: int, more: int) -> None:
    """Give back places of requests, or take some (`req_to_token_pool`)."""
    if sglang.turns.slots.size > 0:
        sglang.turns.slots[rank] += more


@compiled_part
def retract(state: State, sglang: Sglang, rank: int, index: int, others: int) -> None:
    """Free a retracted request's memory, evict for the others' next steps (`release_req`), and restart the request."""
    give_up(state, sglang, rank, index, False)
    request = state.ints[index]
    request[I_ROOM] = request[col.I_CACHED] = 0
    request[col.I_TARGET] = request[col.I_INPUT] + request[col.I_GENERATED]
    request[col.I_PREEMPTED] += 1
    state.counters[col.C_PREEMPTIONS] += 1
    hooks.on_preempted(state, index)
    if sglang.rules.radix:
        make_room(sglang.tree, state, rank, others * RETRACT_STEPS, sglang.rules.page)
