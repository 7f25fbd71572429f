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

from ...workloads.jit import compiled_inside, compiled_part, int64
from ...workloads.jit_held import held
from .prefix import content_key, place
from .state import I_HASHED, I_HASHES, State

I8 = npt.NDArray[np.int64]

ROOT = 0
"""The node of no pages; it is never evicted."""

(N_PARENT, N_OWNER, N_START, N_PAGES, N_LOCK, N_TIME, N_CHILDREN, N_PLACE) = range(8)
NUM_NODE = 8
"""Columns of `Tree.nodes`: its parent; a request whose pages from its start on are the node's; pages
before it and in it; running requests whose prefix it is in; when it was used last; children; its place
in the heap (-1: it cannot be evicted)."""

(K_USED, K_SPARE, K_HEAP, K_CLOCK, K_EVICTABLE, K_FREE) = range(6)
NUM_TOP = 6
"""Columns of `Tree.tops`: nodes ever used, of them given back; leaves in the heap; the clock of uses;
pages in nodes that nobody locks; pages that hold nothing."""

SPREAD = 2177342782468422677
"""Odd factor that tells a parent's children from another's in the table."""


@held
class Tree(NamedTuple):
    """The trees of R ranks, of N nodes each at most."""

    nodes: I8  # [R, N, NUM_NODE]
    table: I8  # [R, T, 3] key of a child's first page, its parent, the child (0: empty); T a power of 2
    heap: I8  # [R, N] leaves that can be evicted, the least recently used first
    spare: I8  # [R, N] nodes given back
    tops: I8  # [R, NUM_TOP]


def new_tree(ranks: int, pages: int) -> Tree:
    """Return empty trees over `pages` free pages per rank.

    A node has a page at least, so there are never more nodes; memory that no node has used is not taken.
    """
    size = pages + 2
    tops = np.zeros((ranks, NUM_TOP), dtype=np.int64)
    tops[:, K_USED], tops[:, K_FREE] = 1, pages
    nodes = np.zeros((ranks, size, NUM_NODE), dtype=np.int64)
    nodes[:, ROOT, N_LOCK], nodes[:, ROOT, N_PLACE] = 1, -1
    return Tree(
        nodes,
        np.zeros((ranks, 1 << int(2 * size - 1).bit_length(), 3), dtype=np.int64),
        np.zeros((ranks, size), dtype=np.int64),
        np.zeros((ranks, size), dtype=np.int64),
        tops,
    )


@compiled_inside
def key_at(state: State, index: int, position: int, page: int) -> int:
    """Key of the content of a request's page `position`."""
    request = state.ints[index]
    return content_key(state.pool, request[I_HASHES], request[I_HASHED], index, position, page)


@compiled_inside
def common_tokens(state: State, index: int, position: int) -> int:
    """Leading tokens that two requests are known to have in common."""
    one, other = state.ints[index], state.ints[position]
    if index == position:
        return 1 << 60
    most = min(one[I_HASHED], other[I_HASHED])
    first, second = one[I_HASHES], other[I_HASHES]
    if first < 0 or second < 0:  # of sessions
        return int(most) if first == second else 0
    tokens, hashes, piece = int64(0), state.pool.hashes, state.pool.piece
    while tokens < most and hashes[first] == hashes[second]:
        first, second, tokens = first + 1, second + 1, tokens + piece
    return int(min(tokens, most))


@compiled_part
def sift_up(nodes: I8, heap: I8, place: int) -> None:
    """Move a leaf of the heap towards its start."""
    x = heap[place]
    while place > 0:
        above = (place - 1) // 2
        if nodes[heap[above], N_TIME] <= nodes[x, N_TIME]:
            break
        heap[place] = heap[above]
        nodes[heap[place], N_PLACE] = place
        place = above
    heap[place], nodes[x, N_PLACE] = x, place


@compiled_part
def sift_down(nodes: I8, heap: I8, place: int, size: int) -> None:
    """Move a leaf of the heap towards its end."""
    x, below = heap[place], 2 * place + 1
    while below < size:
        if below + 1 < size and nodes[heap[below + 1], N_TIME] < nodes[heap[below], N_TIME]:
            below += 1
        if nodes[x, N_TIME] <= nodes[heap[below], N_TIME]:
            break
        heap[place] = heap[below]
        nodes[heap[place], N_PLACE] = place
        place, below = below, 2 * below + 1
    heap[place], nodes[x, N_PLACE] = x, place


@compiled_part
def settle_leaf(tree: Tree, rank: int, node: int) -> None:
    """Put a node into the heap if it can be evicted, take it out if not."""
    nodes, heap, top = tree.nodes[rank], tree.heap[rank], tree.tops[rank]
    leaf = node != ROOT and nodes[node, N_LOCK] == 0 and nodes[node, N_CHILDREN] == 0
    at = nodes[node, N_PLACE]
    if leaf and at < 0:
        heap[top[K_HEAP]] = node
        top[K_HEAP] += 1
        sift_up(nodes, heap, top[K_HEAP] - 1)
    elif not leaf and at >= 0:
        top[K_HEAP] -= 1
        last = heap[top[K_HEAP]]
        nodes[node, N_PLACE] = -1
        if last != node:
            heap[at] = last
            sift_up(nodes, heap, at)
            sift_down(nodes, heap, nodes[last, N_PLACE], top[K_HEAP])


@compiled_inside
def touch(tree: Tree, rank: int, node: int, time: int) -> None:
    """Note a use of a node, later than all before."""
    nodes = tree.nodes[rank]
    nodes[node, N_TIME] = time
    if nodes[node, N_PLACE] >= 0:
        sift_down(nodes, tree.heap[rank], nodes[node, N_PLACE], tree.tops[rank, K_HEAP])


@compiled_inside
def slot_of(table: I8, key: int, parent: int) -> int:
    """Where a parent's child of a first page is in the table, or the empty place where it would be."""
    mask = table.shape[0] - 1
    at = place(key + parent * SPREAD, mask)
    while table[at, 2] != 0 and not (table[at, 0] == key and table[at, 1] == parent):
        at = (at + 1) & mask
    return int(at)


@compiled_part
def enter(table: I8, key: int, parent: int, node: int) -> None:
    """Note a parent's child, in the place of another if it had one of this first page."""
    at = slot_of(table, key, parent)
    table[at, 0], table[at, 1], table[at, 2] = key, parent, node


@compiled_part
def strike(table: I8, key: int, parent: int) -> None:
    """Drop a child from the table (backward-shift deletion)."""
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
    """A node, used now; it is in nobody's table and heap yet."""
    nodes, top = tree.nodes[rank], tree.tops[rank]
    if top[K_SPARE] > 0:
        top[K_SPARE] -= 1
        x = tree.spare[rank, top[K_SPARE]]
    else:
        x = top[K_USED]
        top[K_USED] += 1
    top[K_CLOCK] += 1
    node = nodes[x]
    node[N_PARENT], node[N_OWNER], node[N_START], node[N_PAGES] = parent, owner, start, pages
    node[N_LOCK], node[N_TIME], node[N_CHILDREN], node[N_PLACE] = 0, top[K_CLOCK], 0, -1
    return int(x)


@compiled_part
def split(tree: Tree, state: State, rank: int, x: int, pages: int, page: int) -> int:
    """Cut a node behind its first `pages` pages; the node of these, the other's parent."""
    nodes, table = tree.nodes[rank], tree.table[rank]
    node = nodes[x]
    owner, start, parent = node[N_OWNER], node[N_START], node[N_PARENT]
    first = new_node(tree, rank, parent, owner, start, pages)
    nodes[first, N_LOCK], nodes[first, N_CHILDREN] = node[N_LOCK], 1
    enter(table, key_at(state, owner, start, page), parent, first)
    node[N_PARENT], node[N_START], node[N_PAGES] = first, start + pages, node[N_PAGES] - pages
    enter(table, key_at(state, owner, start + pages, page), first, x)
    return first


@compiled_part
def match(tree: Tree, state: State, rank: int, index: int, pages: int, page: int) -> tuple[int, int]:
    """Leading pages of a request, of the first `pages`, that are in the tree, and their last node.

    Every node on the way is touched; the last is cut where the match ends inside.
    """
    nodes, table, top = tree.nodes[rank], tree.table[rank], tree.tops[rank]
    top[K_CLOCK] += 1
    time, x, depth = top[K_CLOCK], int64(ROOT), int64(0)
    while depth < pages:
        child = table[slot_of(table, key_at(state, index, depth, page), x), 2]
        if child == 0:
            break
        touch(tree, rank, child, time)
        end = nodes[child, N_START] + nodes[child, N_PAGES]
        same = min(common_tokens(state, nodes[child, N_OWNER], index) // page, pages)
        if same < end:
            x = split(tree, state, rank, child, same - depth, page)
            depth = same
            break
        x, depth = child, end
    return int(depth), int(x)


@compiled_part
def insert(tree: Tree, state: State, rank: int, index: int, pages: int, page: int) -> int:
    """Put a request's leading pages into the tree; how many of them were in it."""
    depth, x = match(tree, state, rank, index, pages, page)
    if depth < pages:
        leaf = new_node(tree, rank, x, index, depth, pages - depth)
        enter(tree.table[rank], key_at(state, index, depth, page), x, leaf)
        tree.nodes[rank, x, N_CHILDREN] += 1
        tree.tops[rank, K_EVICTABLE] += pages - depth
        settle_leaf(tree, rank, x)
        settle_leaf(tree, rank, leaf)
    return depth


@compiled_part
def lock(tree: Tree, rank: int, node: int, by: int) -> None:
    """Lock (`by` 1) or unlock (-1) a node and all before it."""
    nodes, top = tree.nodes[rank], tree.tops[rank]
    while node != ROOT:
        before = nodes[node, N_LOCK]
        nodes[node, N_LOCK] = before + by
        if before == 0:
            top[K_EVICTABLE] -= nodes[node, N_PAGES]
        elif before + by == 0:
            top[K_EVICTABLE] += nodes[node, N_PAGES]
        settle_leaf(tree, rank, node)
        node = nodes[node, N_PARENT]


@compiled_part
def evict(tree: Tree, state: State, rank: int, tokens: int, page: int) -> None:
    """Drop whole leaves, least recently used first, until `tokens` tokens or all have gone."""
    nodes, table, top = tree.nodes[rank], tree.table[rank], tree.tops[rank]
    gone = int64(0)
    while gone < tokens and top[K_HEAP] > 0:
        x = tree.heap[rank, 0]
        node = nodes[x]
        parent, pages = node[N_PARENT], node[N_PAGES]
        strike(table, key_at(state, node[N_OWNER], node[N_START], page), parent)
        node[N_CHILDREN] = 1  # no leaf any more
        settle_leaf(tree, rank, x)
        gone += pages * page
        top[K_EVICTABLE] -= pages
        top[K_FREE] += pages
        tree.spare[rank, top[K_SPARE]] = x
        top[K_SPARE] += 1
        nodes[parent, N_CHILDREN] -= 1
        settle_leaf(tree, rank, parent)


@compiled_part
def make_room(tree: Tree, state: State, rank: int, tokens: int, page: int) -> None:
    """Evict `tokens` tokens if fewer than that are free (`evict_from_tree_cache`)."""
    if tree.tops[rank, K_FREE] * page < tokens:
        evict(tree, state, rank, tokens, page)
