"""Memory of SGLang's requests: their pages, and a locked prefix of the radix tree.

Fields of a request: `covered` counts the tokens with memory (kv_committed_len, including the planned step; 0 after
retraction). `blocks` counts its private pages, `keyed` its pages in the tree (cache_protected_len), and `slot` is the last
node of these.
"""

from __future__ import annotations

from ....workloads.jit import compiled_inside, compiled_part
from ...engine import hooks
from ...engine.kv import KvRules, blocks_of
from ...engine.state import State
from .radix import ROOT, evict_until_fits, insert, lock, match
from .state import RETRACT_STEPS, Sglang


@compiled_inside
def count_free(state: State, kv_rules: KvRules, sglang: Sglang, rank: int) -> None:
    """Set a rank's free bytes from its free and evictable pages."""
    top = sglang.tree.tops[rank]
    state.free[rank] = (top.free + top.evictable) * kv_rules.block_bytes[0]


@compiled_inside
def take_tokens(state: State, sglang: Sglang, rank: int, index: int, tokens: int) -> None:
    """Allocate memory for `tokens` more tokens of a request; enough is free."""
    request, page, content = state.requests[index], sglang.rules.page, state.contents[index]
    more = tokens
    if page > 1:
        more = blocks_of(request.covered + tokens, page) - blocks_of(request.covered, page)
    request.covered += tokens
    content.blocks += more
    sglang.tree.tops[rank].free -= more


@compiled_part
def use_prefix(state: State, sglang: Sglang, rank: int, index: int, tokens: int) -> int:
    """Find a waiting request's prompt in the tree, except its last token; return the number of tokens found."""
    content = state.contents[index]
    pages, node = 0, ROOT
    if sglang.rules.radix:
        pages, node = match(sglang.tree, state, rank, index, (tokens - 1) // sglang.rules.page, sglang.rules.page)
    content.keyed, content.slot = pages, node
    return int(pages * sglang.rules.page)


@compiled_part
def keep_prompt(state: State, sglang: Sglang, rank: int, index: int, tokens: int) -> None:
    """Insert the computed tokens of a running request into the tree (`cache_unfinished_req`)."""
    if not sglang.rules.radix:
        return
    page, content = sglang.rules.page, state.contents[index]
    pages = tokens // page
    inserted = insert(sglang.tree, state, rank, index, pages, page)
    sglang.tree.tops[rank].free += inserted - content.keyed  # pages that another request has inserted in the meantime
    _, node = match(sglang.tree, state, rank, index, pages, page)
    content.blocks -= pages - content.keyed
    lock(sglang.tree, rank, content.slot, -1)
    lock(sglang.tree, rank, node, 1)
    content.keyed, content.slot = pages, node


@compiled_part
def give_up(state: State, sglang: Sglang, rank: int, index: int, keep: bool) -> None:
    """Free a request's memory; insert its computed tokens into the tree if `keep` is set (`release_kv_cache`)."""
    request, page, content = state.requests[index], sglang.rules.page, state.contents[index]
    top = sglang.tree.tops[rank]
    top.free += content.blocks
    if sglang.rules.radix:
        if keep:
            pages = request.covered // page
            inserted = insert(sglang.tree, state, rank, index, pages, page)
            top.free -= pages - inserted
        lock(sglang.tree, rank, content.slot, -1)
    content.blocks = content.keyed = content.slot = 0
    count_slots(sglang, rank, 1)


@compiled_inside
def count_slots(sglang: Sglang, rank: int, more: int) -> None:
    """Add `more` to the rank's free request slots (`req_to_token_pool`); negative values take slots."""
    if sglang.turns.slots.size > 0:
        sglang.turns.slots[rank] += more


@compiled_part
def retract(state: State, sglang: Sglang, rank: int, index: int, others: int) -> None:
    """Free a retracted request's memory, evict pages for the next steps of the others (`release_req`), and reset the request."""
    give_up(state, sglang, rank, index, False)
    request = state.requests[index]
    request.covered = request.cached = 0
    request.target = request.input + request.generated
    request.preempted += 1
    state.counters[0].preemptions += 1
    hooks.on_preempted(state, index)
    if sglang.rules.radix:
        evict_until_fits(sglang.tree, state, rank, others * RETRACT_STEPS, sglang.rules.page)
