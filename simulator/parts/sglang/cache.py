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
def count_free(st: State, kv: KvRules, x: Sglang, r: int) -> None:
    """Bring a rank's free bytes in line with its pages."""
    top = x.tree.tops[r]
    st.free[r] = (top[K_FREE] + top[K_EVICTABLE]) * kv.block_bytes[0]


@compiled_inside
def take_tokens(st: State, x: Sglang, r: int, i: int, tokens: int) -> None:
    """Give a request memory for `tokens` more tokens; there is enough."""
    request, page = st.ints[i], x.rules.page
    more = tokens
    if page > 1:
        more = blocks_of(request[I_ROOM] + tokens, page) - blocks_of(request[I_ROOM], page)
    request[I_ROOM] += tokens
    request[I_BLOCKS] += more
    x.tree.tops[r, K_FREE] -= more


@compiled_part
def use_prefix(st: State, x: Sglang, r: int, i: int, tokens: int) -> int:
    """Look for a waiting request's prompt in the tree, but for its last token; tokens found."""
    request = st.ints[i]
    pages, node = 0, ROOT
    if x.rules.radix:
        pages, node = match(x.tree, st, r, i, (tokens - 1) // x.rules.page, x.rules.page)
    request[I_KEYED], request[I_SLOT] = pages, node
    return int(pages * x.rules.page)


@compiled_part
def keep_prompt(st: State, x: Sglang, r: int, i: int, tokens: int) -> None:
    """Put what a running request has computed into the tree (`cache_unfinished_req`)."""
    if not x.rules.radix:
        return
    request, page = st.ints[i], x.rules.page
    pages = tokens // page
    inserted = insert(x.tree, st, r, i, pages, page)
    x.tree.tops[r, K_FREE] += inserted - request[I_KEYED]  # computed twice
    _, node = match(x.tree, st, r, i, pages, page)
    request[I_BLOCKS] -= pages - request[I_KEYED]
    lock(x.tree, r, request[I_SLOT], -1)
    lock(x.tree, r, node, 1)
    request[I_KEYED], request[I_SLOT] = pages, node


@compiled_part
def give_up(st: State, x: Sglang, r: int, i: int, keep: bool) -> None:
    """Free a request's memory, with its computed tokens inserted into the tree or not (`release_kv_cache`)."""
    request, page = st.ints[i], x.rules.page
    top = x.tree.tops[r]
    top[K_FREE] += request[I_BLOCKS]
    if x.rules.radix:
        if keep:
            pages = request[I_ROOM] // page
            inserted = insert(x.tree, st, r, i, pages, page)
            top[K_FREE] -= pages - inserted
        lock(x.tree, r, request[I_SLOT], -1)
    request[I_BLOCKS] = request[I_KEYED] = request[I_SLOT] = 0
    count_slots(x, r, 1)


@compiled_inside
def count_slots(x: Sglang, r: int, more: int) -> None:
    """Give back places of requests, or take some (`req_to_token_pool`)."""
    if x.turns.slots.size > 0:
        x.turns.slots[r] += more


@compiled_part
def retract(st: State, x: Sglang, r: int, i: int, others: int) -> None:
    """Free a retracted request's memory, evict for the others' next steps (`release_req`), and restart the request."""
    give_up(st, x, r, i, False)
    request = st.ints[i]
    request[I_ROOM] = request[col.I_CACHED] = 0
    request[col.I_TARGET] = request[col.I_INPUT] + request[col.I_GENERATED]
    request[col.I_PREEMPTED] += 1
    st.counters[col.C_PREEMPTIONS] += 1
    hooks.on_preempted(st, i)
    if x.rules.radix:
        make_room(x.tree, st, r, others * RETRACT_STEPS, x.rules.page)
