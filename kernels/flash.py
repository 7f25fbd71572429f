"""Attention on the CPU in one pass over keys and values, used by decode, prefill and MLA.

The work is cut into *units*: some query positions of one sequence, all query heads of one key/value head, and a range
of keys. A unit walks its keys tile by tile; four query vectors at a time take scores, a step of the online softmax and
the weighted sum of values, all in registers (`tiles`). While scores are taken the next tile's values are fetched, while
values are added the keys after next: attention in a decode step is bound by memory, and its rows are too short for the
hardware to run ahead. Units of the same queries are merged at the end, in a fixed order, so that equal inputs give
equal bits on any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
import numpy.typing as npt

from ..workloads.records import Records, filled, named
from .jit import inner, parallel
from .tiles import GROUP, add_values, score_tile, softmax_tile

F4 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int64]

TILES = (32, 64, 128, 256)
"""Possible numbers of keys in a tile: whole vector registers of scores, and whole strips of values."""
LOW = -3.0e38
"""Initial running maximum of a row that has seen no key."""
UNIT = named("seq head query queries start stop", "")
"""Record of a unit: sequence, key/value head, first query, queries, first key, end of keys."""


@dataclass(frozen=True, slots=True)
class Units:
    """Division of a batch into units, made once per step and used by every layer.

    Attributes
    ----------
    rows : records of `UNIT`, shape (n,)
        The units of the same queries stand together.
    groups : int64 array, shape (g + 1,)
        Where the units of the same queries begin.
    cost : int64 array, shape (n,)
        Keys times query groups, to share the units evenly.
    """

    rows: Records
    groups: I8
    cost: I8

    def shares(self, threads: int) -> I8:
        """Return the bounds of each thread's units, with about equal cost: shape (threads + 1,)."""
        done = np.concatenate([[0], np.cumsum(self.cost)])
        aims = done[-1] * np.arange(threads + 1) / threads
        bounds: I8 = np.searchsorted(done, aims, side="left").astype(np.int64)
        return bounds


def ceil_div(a: int, b: int) -> int:
    """Return the number of pieces of size `b` that cover `a`."""
    return -(-a // b)


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """Sizes by which attention is divided into units and tiles.

    Attributes
    ----------
    tile : int
        Keys of a tile. With 64 its scores fill four vector registers a row of AVX-512, and keys and
        values of 64 numbers half an L1.
    chunk : int
        Keys of one unit of a decode: short enough to share a long sequence, long enough (1 MB of
        fp32 keys and values at head_dim 128) that merging the parts costs under half a percent.
    block : int
        Query positions of one unit of a prefill: each tile of keys serves this many times the group.
    """

    tile: int = 64
    chunk: int = 1024
    block: int = 16

    def invalid(self) -> str:
        """Return the reason why the configuration cannot run; empty if it can."""
        if self.tile not in TILES:
            return f"tile must be one of {', '.join(map(str, TILES))}, not {self.tile}"
        if self.chunk < 1 or self.block < 1:
            return "chunk and block must be 1 at least"
        return ""


def cut(queries: I8, lengths: I8, heads_kv: int, window: int, block: int, chunk: int, group: int, tile: int) -> Units:
    """Divide a batch into units.

    Parameters
    ----------
    queries, lengths : int64 array, shape (sequences,)
        New positions at the end of each sequence, and its keys, theirs included.
    window : int
        Keys a query sees at most, itself included; 0 = all.
    block, chunk : int
        Query positions and keys of one unit at most.
    group : int
        Query heads of a key/value head.
    tile : int
        Keys of a tile; units are whole tiles but for the last.
    """
    rows, groups, cost = [], [0], []
    for b, (new, length) in enumerate(zip(queries.tolist(), lengths.tolist(), strict=True)):
        for first in range(0, new if length else 0, block):
            count = min(block, new - first)
            position = length - new + first
            low = max(0, position + 1 - window) if window else 0
            high = position + count
            parts = ceil_div(high - low, chunk)
            step = ceil_div(ceil_div(high - low, parts), tile) * tile
            starts = range(low, high, step)
            for head in range(heads_kv):
                for start in starts:
                    stop = min(start + step, high)
                    rows.append((b, head, first, count, start, stop))
                    cost.append((stop - start) * ceil_div(count * group, GROUP))
                groups.append(len(rows))
    return Units(filled(UNIT, rows), np.array(groups, dtype=np.int64), np.array(cost, dtype=np.int64))


@inner
def place_rows(rows, table, heads, page, row_bytes, seq, head, start, count):
    """Compute the byte offsets of `count` keys from `start` on; the last offset is repeated to fill the tile."""
    slot = start % page
    index = start // page
    base = (np.int64(table[seq, index]) * heads + head) * page * row_bytes
    for t in range(count):
        if slot == page:
            slot = 0
            index += 1
            base = (np.int64(table[seq, index]) * heads + head) * page * row_bytes
        rows[t] = base + slot * row_bytes
        slot += 1
    for t in range(count, len(rows)):
        rows[t] = rows[count - 1]


@inner
def next_tile(cursor, end, rows, table, heads, page, row_bytes, units):
    """Compute the row offsets of the tile at `cursor` (unit, key) and advance the cursor; none past the end."""
    u, start = cursor[0], cursor[1]
    if u >= end:
        return
    stop = units[u].stop
    count = min(len(rows), stop - start)
    place_rows(rows, table, heads, page, row_bytes, units[u].seq, units[u].head, start, count)
    cursor[1] = start + count
    if cursor[1] == stop:
        cursor[0] = u + 1
        if u + 1 < end:
            cursor[1] = units[u + 1].start


@inner
def merge(g, units, groups, group_size, top, total, parts, out):
    """Combine the units of the same queries, in order, and divide by the softmax's sum."""
    lo, hi = groups[g], groups[g + 1]
    if hi == lo:
        return
    seq, head = units[lo].seq, units[lo].head
    first, count = units[lo].query, units[lo].queries
    dim = out.shape[3]
    for n in range(count * group_size):
        best = top[lo, n]
        for u in range(lo + 1, hi):
            best = max(best, top[u, n])
        at, which = first + n // group_size, head * group_size + n % group_size
        for d in range(dim):
            out[seq, at, which, d] = 0.0
        weight_sum = np.float32(0.0)
        for u in range(lo, hi):
            weight = np.exp(top[u, n] - best)
            weight_sum += weight * total[u, n]
            for d in range(dim):
                out[seq, at, which, d] += weight * parts[u, n, d]
        for d in range(dim):
            out[seq, at, which, d] /= weight_sum


@inner
def load_queries(unit, group_size, q, vectors, states, out):
    """Copy a unit's query vectors into one array and initialise their softmax; the sums become 0.

    Returns the number of vectors, and of groups of `GROUP`, the last one padded with zeros.
    """
    seq, head, first, count = unit.seq, unit.head, unit.query, unit.queries
    used = count * group_size
    packed = (used + GROUP - 1) // GROUP
    for n in range(packed * GROUP):
        for d in range(vectors.shape[1]):
            vectors[n, d] = 0.0
        if n < used:
            at, which = first + n // group_size, head * group_size + n % group_size
            for d in range(vectors.shape[1]):
                vectors[n, d] = q[seq, at, which, d]
        states[n // GROUP, 0, n % GROUP] = LOW
        states[n // GROUP, 1, n % GROUP] = 0.0
        for d in range(out.shape[1]):
            out[n, d] = 0.0
    return used, packed


@inner
def visible(bounds, group, used, group_size, position, window, start, count, tile):
    """Write to `bounds` which of `count` keys from `start` on each vector of a group sees.

    `position` is the place of the unit's first query. Returns whether any sees one, and the end of
    the keys that one sees.
    """
    seen, skip = 0, tile
    for i in range(GROUP):
        at = position + min(group * GROUP + i, used - 1) // group_size
        high = min(max(at + 1 - start, 0), count)
        low = min(max(at + 1 - window - start, 0), count) if window > 0 else 0
        bounds[0, i] = low
        bounds[1, i] = high
        seen, skip = max(seen, high), min(skip, low)
    return seen > skip, seen


@cache
def attention(dim: int, dim_v: int, tile: int) -> Callable[..., None]:
    """Return the compiled kernel for keys of `dim` and values of `dim_v` numbers, with `tile` keys at a time."""
    group = GROUP  # a literal: a closure over integers can be cached on disk

    @parallel
    def run(q, k_at, v_at, table, heads, page, units, groups, shares, group_size, scale, offset,
            window, top, total, parts, out, threads):  # fmt: skip
        for thread in numba.prange(threads):
            end = shares[thread + 1]
            if shares[thread] == end:
                continue
            rows = np.zeros((3, tile), np.int64)
            cursor = np.array([shares[thread], units[shares[thread]].start])
            scores = np.empty((group, tile), np.float32)
            bounds = np.empty((2, group), np.int32)
            most = top.shape[1]
            vectors = np.zeros((most, dim), np.float32)
            states = np.empty((most // group, 3, group), np.float32)
            for n in range(2):
                next_tile(cursor, end, rows[n], table, heads, page, dim * 4, units)
            here = 0
            for u in range(shares[thread], end):
                used, packed = load_queries(units[u], group_size, q, vectors, states, parts[u])
                position = offset[units[u].seq] + units[u].query
                for t0 in range(units[u].start, units[u].stop, tile):
                    n_keys = min(tile, units[u].stop - t0)
                    second, third = (here + 1) % 3, (here + 2) % 3
                    next_tile(cursor, end, rows[third], table, heads, page, dim * 4, units)
                    for g in range(packed):
                        any_seen, seen = visible(bounds, g, used, group_size, position, window, t0, n_keys, tile)
                        if not any_seen:
                            continue
                        s_at = scores.ctypes.data
                        state_at = states[g].ctypes.data
                        r_at = rows[here].ctypes.data
                        score_tile(vectors[g * group].ctypes.data, k_at, r_at, n_keys, v_at,
                                   r_at, rows[second].ctypes.data, s_at, dim, tile)  # fmt: skip
                        softmax_tile(s_at, bounds[0].ctypes.data, bounds[1].ctypes.data, scale, state_at, tile)
                        add_values(s_at, v_at, r_at, seen, k_at, rows[second].ctypes.data,
                                   rows[third].ctypes.data, state_at,
                                   parts[u, g * group].ctypes.data, dim_v, tile)  # fmt: skip
                    here = second
                for n in range(packed * group):
                    top[u, n] = states[n // group, 0, n % group]
                    total[u, n] = states[n // group, 1, n % group]
        for g in numba.prange(len(groups) - 1):
            merge(g, units, groups, group_size, top, total, parts, out)

    return run
