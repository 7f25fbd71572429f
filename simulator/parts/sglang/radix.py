"""SGLang's radix cache: a tree of KV pages, evicted by whole leaves, least recently used first.

A node is a sequence of pages after its parent's; a request with the same content identifies them
(`prefix.content_key`). As in SGLang a match that ends inside a node splits it, a use touches every node on its path,
and an unlocked leaf is evicted as a whole (sglang/srt/mem_cache/radix_cache.py, 0.5.9: `_match_prefix_helper`,
`_insert_helper`, `_split_node`, `evict`, `inc_lock_ref`). Pages are counted, not numbered.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit import compiled_inside, compiled_part, int64
from ....workloads.jit_address import by_address
from ....workloads.records import Records, named, records
from ...engine.prefix import content_key, place
from ...engine.state import State

I8 = npt.NDArray[np.int64]

ROOT = 0
"""Node without pages; it is never evicted."""

NODE = named("parent owner start pages lock time children place", "")
"""Fields of a node: its parent; a request whose pages from `start` on are the node's pages; number of pages before it and in
it; running requests that lock it; time of the last use; number of children; its index in the heap (-1: not evictable).
"""

TOP = named("used spare heap clock evictable free", "")
"""Fields of a rank's tree: nodes ever used; returned nodes; leaves in the heap; clock of uses; pages in unlocked nodes;
free pages.
"""

SPREAD = 2177342782468422677
"""Odd factor that separates the children of different parents in the table."""


@by_address
class Tree(NamedTuple):
    """Radix trees of R ranks, with at most N nodes each."""

    nodes: Records  # [R, N] of `NODE`
    table: I8  # [R, T, 3] key of a child's first page, its parent, the child (0: empty); T a power of 2
    heap: I8  # [R, N] leaves that can be evicted, the least recently used first
    spare: I8  # [R, N] nodes that were returned
    tops: Records  # [R] of `TOP`


def new_tree(ranks: int, pages: int) -> Tree:
    """Return one empty prefix tree per rank, over `pages` free pages each.

    Every node has at least one page, so `pages` bounds the number of nodes. The arrays of unused nodes take no memory.
    """
    size = pages + 2
    tops = records(ranks, TOP)
    tops.used, tops.free = 1, pages
    nodes = records((ranks, size), NODE)
    nodes.lock[:, ROOT], nodes.place[:, ROOT] = 1, -1
    return Tree(
        nodes,
        np.zeros((ranks, 1 << int(2 * size - 1).bit_length(), 3), dtype=np.int64),
        np.zeros((ranks, size), dtype=np.int64),
        np.zeros((ranks, size), dtype=np.int64),
        tops,
    )


@compiled_inside
def key_at(state: State, index: int, position: int, page: int) -> int:
    """Return the key of the content of a request's page number `position`."""
    content = state.contents[index]
    return content_key(state.pool, content.hashes, content.hashed, index, position, page)


@compiled_inside
def common_tokens(state: State, index: int, position: int) -> int:
    """Return the number of leading tokens that two requests are known to share."""
    one, other = state.contents[index], state.contents[position]
    if index == position:
        return 1 << 60
    most = min(one.hashed, other.hashed)
    first, second = one.hashes, other.hashes
    if first < 0 or second < 0:  # of sessions
        return int(most) if first == second else 0
    tokens, hashes, piece, shared = int64(0), state.pool.hashes, state.pool.piece, state.pool.shared
    while tokens < min(most, shared) and hashes[first] == hashes[second]:
        first, second, tokens = first + 1, second + 1, tokens + piece
    if most <= shared or tokens < shared:
        return int(min(tokens, most))
    return int(most if hashes[first] == hashes[second] else shared)


@compiled_part
def sift_up(nodes: Records, heap: I8, place: int) -> None:
    """Move a leaf of the heap towards its root."""
    x = heap[place]
    while place > 0:
        above = (place - 1) // 2
        if nodes[heap[above]].time <= nodes[x].time:
            break
        heap[place] = heap[above]
        nodes[heap[place]].place = place
        place = above
    heap[place], nodes[x].place = x, place


@compiled_part
def sift_down(nodes: Records, heap: I8, place: int, size: int) -> None:
    """Move a leaf of the heap away from its root."""
    x, below = heap[place], 2 * place + 1
    while below < size:
        if below + 1 < size and nodes[heap[below + 1]].time < nodes[heap[below]].time:
            below += 1
        if nodes[x].time <= nodes[heap[below]].time:
            break
        heap[place] = heap[below]
        nodes[heap[place]].place = place
        place, below = below, 2 * below + 1
    heap[place], nodes[x].place = x, place


@compiled_part
def settle_leaf(tree: Tree, rank: int, node: int) -> None:
    """Insert a node into the heap if it can be evicted; remove it otherwise."""
    nodes, heap, top = tree.nodes[rank], tree.heap[rank], tree.tops[rank]
    leaf = node != ROOT and nodes[node].lock == 0 and nodes[node].children == 0
    at = nodes[node].place
    if leaf and at < 0:
        heap[top.heap] = node
        top.heap += 1
        sift_up(nodes, heap, top.heap - 1)
    elif not leaf and at >= 0:
        top.heap -= 1
        last = heap[top.heap]
        nodes[node].place = -1
        if last != node:
            heap[at] = last
            sift_up(nodes, heap, at)
            sift_down(nodes, heap, nodes[last].place, top.heap)


@compiled_inside
def touch(tree: Tree, rank: int, node: int, time: int) -> None:
    """Record a use of a node at `time`, which is later than all earlier uses."""
    nodes = tree.nodes[rank]
    nodes[node].time = time
    if nodes[node].place >= 0:
        sift_down(nodes, tree.heap[rank], nodes[node].place, tree.tops[rank].heap)


@compiled_inside
def slot_of(table: I8, key: int, parent: int) -> int:
    """Return the table slot of a parent's child by its first page, or the empty slot for this child."""
    mask = table.shape[0] - 1
    at = place(key + int64(parent) * SPREAD, mask)
    while table[at, 2] != 0 and not (table[at, 0] == key and table[at, 1] == parent):
        at = (at + 1) & mask
    return int(at)


@compiled_part
def enter(table: I8, key: int, parent: int, node: int) -> None:
    """Insert a parent's child into the table, or replace the child with the same first page."""
    at = slot_of(table, key, parent)
    table[at, 0], table[at, 1], table[at, 2] = key, parent, node


@compiled_part
def strike(table: I8, key: int, parent: int) -> None:
    """Remove a child from the table (backward-shift deletion)."""
    mask = table.shape[0] - 1
    hole = slot_of(table, key, parent)
    at = (hole + 1) & mask
    while table[at, 2] != 0:
        home = place(table[at, 0] + table[at, 1] * SPREAD, mask)
        if ((at - home) & mask) >= ((at - hole) & mask):
            for c in range(3):
                table[hole, c] = table[at, c]
            hole = at
        at = (at + 1) & mask
    table[hole, 2] = 0


@compiled_part
def new_node(tree: Tree, rank: int, parent: int, owner: int, start: int, pages: int) -> int:
    """Return a new node that is used now; it is not yet in a table or heap."""
    nodes, top = tree.nodes[rank], tree.tops[rank]
    if top.spare > 0:
        top.spare -= 1
        x = tree.spare[rank, top.spare]
    else:
        x = top.used
        top.used += 1
    top.clock += 1
    node = nodes[x]
    node.parent, node.owner, node.start, node.pages = parent, owner, start, pages
    node.lock, node.time, node.children, node.place = 0, top.clock, 0, -1
    return int(x)


@compiled_part
def split(tree: Tree, state: State, rank: int, x: int, pages: int, page: int) -> int:
    """Split a node after its first `pages` pages; return the new node with these pages, which is the parent of the rest."""
    nodes, table = tree.nodes[rank], tree.table[rank]
    node = nodes[x]
    owner, start, parent = node.owner, node.start, node.parent
    first = new_node(tree, rank, parent, owner, start, pages)
    nodes[first].lock, nodes[first].children = node.lock, 1
    enter(table, key_at(state, owner, start, page), parent, first)
    node.parent, node.start, node.pages = first, start + pages, node.pages - pages
    enter(table, key_at(state, owner, start + pages, page), first, x)
    return first


@compiled_part
def match(tree: Tree, state: State, rank: int, index: int, pages: int, page: int) -> tuple[int, int]:
    """Match the first `pages` pages of a request with the tree; return the number found and their last node.

    Every node on the path is marked as used. The last node is split if the match ends inside it.
    """
    nodes, table, top = tree.nodes[rank], tree.table[rank], tree.tops[rank]
    top.clock += 1
    time, x, depth = top.clock, int64(ROOT), int64(0)
    while depth < pages:
        child = table[slot_of(table, key_at(state, index, depth, page), x), 2]
        if child == 0:
            break
        touch(tree, rank, child, time)
        end = nodes[child].start + nodes[child].pages
        same = min(common_tokens(state, nodes[child].owner, index) // page, pages)
        if same < end:
            x = split(tree, state, rank, child, same - depth, page)
            depth = same
            break
        x, depth = child, end
    return int(depth), int(x)


@compiled_part
def insert(tree: Tree, state: State, rank: int, index: int, pages: int, page: int) -> int:
    """Insert a request's leading pages into the tree; return the number that were in it before."""
    depth, x = match(tree, state, rank, index, pages, page)
    if depth < pages:
        leaf = new_node(tree, rank, x, index, depth, pages - depth)
        enter(tree.table[rank], key_at(state, index, depth, page), x, leaf)
        tree.nodes[rank, x].children += 1
        tree.tops[rank].evictable += pages - depth
        settle_leaf(tree, rank, x)
        settle_leaf(tree, rank, leaf)
    return depth


@compiled_part
def lock(tree: Tree, rank: int, node: int, by: int) -> None:
    """Lock (`by` 1) or unlock (-1) a node and all its ancestors."""
    nodes, top = tree.nodes[rank], tree.tops[rank]
    while node != ROOT:
        before = nodes[node].lock
        nodes[node].lock = before + by
        if before == 0:
            top.evictable -= nodes[node].pages
        elif before + by == 0:
            top.evictable += nodes[node].pages
        settle_leaf(tree, rank, node)
        node = nodes[node].parent


@compiled_part
def evict(tree: Tree, state: State, rank: int, tokens: int, page: int) -> None:
    """Evict whole leaves, least recently used first, until `tokens` tokens are freed or no leaf is left."""
    nodes, table, top = tree.nodes[rank], tree.table[rank], tree.tops[rank]
    gone = int64(0)
    while gone < tokens and top.heap > 0:
        x = tree.heap[rank, 0]
        node = nodes[x]
        parent, pages = node.parent, node.pages
        strike(table, key_at(state, node.owner, node.start, page), parent)
        node.children = 1  # no leaf any more
        settle_leaf(tree, rank, x)
        gone += pages * page
        top.evictable -= pages
        top.free += pages
        tree.spare[rank, top.spare] = x
        top.spare += 1
        nodes[parent].children -= 1
        settle_leaf(tree, rank, parent)


@compiled_part
def evict_until_fits(tree: Tree, state: State, rank: int, tokens: int, page: int) -> None:
    """Evict `tokens` tokens if fewer than that are free (`evict_from_tree_cache`)."""
    if tree.tops[rank].free * page < tokens:
        evict(tree, state, rank, tokens, page)
