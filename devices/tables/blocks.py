"""Decode attention of unequal contexts: the thread blocks of FlashAttention-2 on a GPU's cores.

Kernel tables time decodes of one context, whose blocks start and end together. In a server contexts differ, and at the
end a few long blocks run without the others. A block is one KV head of one sequence, with a tile of keys and one of
values in shared memory, which limits the blocks per core; blocks start in order of sequence, then head, as soon as
there is room. With few blocks the kernel splits each sequence into parts, in order of part, head, sequence. Running
blocks share the memory evenly, limited to the rate of a single block. A call with prompts packs no heads: each query
head of each sequence is a block for every 64 new tokens, unsplit, in order of heads, so the heads of a group read their
keys from the last-level cache if the keys of one head of all sequences fit, else from memory. Sources:
vllm-project/flash-attention, csrc/flash_attn: `num_splits_heuristic` and `set_params_splitkv` (flash_api.cpp),
`run_flash_splitkv_fwd` and `run_mha_fwd_splitkv_dispatch` (src/flash_fwd_launch_template.h),
`compute_attn_1rowblock_splitkv` (src/flash_fwd_kernel.h).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled, compiled_part
from ...workloads.records import Records, reals
from ..calibrated.terms import resident
from ..spec import DeviceSpec

F8 = npt.NDArray[np.float64]

BLOCKS = reals("cores", "places", "heads", "group", "tile", "splits", "alone", "shared", "start", "block", "cached")
"""Parameters of the kernel on one device: cores; blocks that run at once; KV heads; query heads of each; keys of a
tile; whether sequences may be split; seconds per key of a single block; seconds per key of all blocks together, if
the memory is the limit; seconds of a call; a block's fixed time, in keys; and keys of a head that the last-level
cache holds."""

NAMES = BLOCKS.names or ()

ABSENT: Records = np.zeros(0, BLOCKS)
"""Value that replaces the parameters if the device uses another kernel or the tables do not determine them."""

QUERY_ROWS, VALUE_BYTES, BLOCK_BYTES = 64, 2, 1024
"""Query rows of a block, bytes of a cached value, and shared memory that CUDA reserves in each block [B]."""

MOST_SPLITS, FULL, GOOD_ENOUGH = 128, 0.8, 0.85
"""Constants of `num_splits_heuristic`: maximum parts; share of the places above which nothing is split; and share of
the best occupancy that the chosen number of parts must reach."""

MANY = 8.0
"""Blocks of a call with prompts, over the places, from which the query heads of a group count as one
block on as many places fewer: the tail, which a long context sets, is then short."""

FEW = 4
"""Minimum sequences of the rows in a fit: keys of fewer sequences stay in the L2 cache."""
MOST_BESIDE = 400
"""Maximum number of rows of decodes with prompts in a fit."""


@dataclass(frozen=True, slots=True)
class BlockFit:
    """Fitted parameters of the kernel on one device.

    Attributes
    ----------
    parameters : records
        One record of `BLOCKS`.
    error : float
        Median of the absolute error of the rows of equal decodes, as a fraction.
    rows : int
        Number of fitted rows.
    """

    parameters: Records
    error: float
    rows: int


def tile_of(head_dim: int) -> int:
    """Return the number of keys that a block reads at once."""
    return 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64


def places_of(spec: DeviceSpec, head_dim: int) -> tuple[int, int]:
    """Return the cores of a device and the blocks that run at once; 0 if the device uses another kernel."""
    for processor in spec.processors.values():
        if processor.cores is not None and processor.shared_memory_bytes is not None:
            block_bytes = (QUERY_ROWS + 2 * tile_of(head_dim)) * head_dim * VALUE_BYTES + BLOCK_BYTES
            return processor.cores, processor.cores * int(processor.shared_memory_bytes // block_bytes)
    return 0, 0


def fit_blocks(spec: DeviceSpec, shape: tuple[int, int, int], points: F8, seconds: F8) -> BlockFit | None:
    """Fit the kernel to a table of equal decodes.

    The time per key of a single block is read from prompts of one tile of queries after long prefixes, or else fitted
    to decodes with such prompts, of which each head is a block. The other three parameters are fitted to the decodes,
    by the logarithm of the time.

    Parameters
    ----------
    shape : tuple of int
        Query heads, KV heads and head dimension of a device.
    points : float64 array, shape (n, 4)
        Prompt tokens, their context, decodes, their context.
    seconds : float64 array, shape (n,)

    Returns
    -------
    BlockFit or None
        None where the device or its table does not do.
    """
    heads, kv_heads, dim = shape
    cores, places = places_of(spec, dim)
    decodes_only = (points[:, 0] == 0) & (points[:, 2] >= FEW)
    if not places or decodes_only.sum() < 8 or (seconds[decodes_only] <= 0).any():
        return None
    group, cached = heads / kv_heads, spec.memory.cache_bytes / (2 * dim * VALUE_BYTES)
    decodes, contexts, times = points[decodes_only, 2], points[decodes_only, 3], seconds[decodes_only]
    largest = np.argmax(decodes * contexts)
    shared = times[largest] / (decodes[largest] * kv_heads * contexts[largest])
    p = np.array(
        [cores, places, kv_heads, group, tile_of(dim), group > 1, 0.5 * places * shared, shared,
         times.min(), 0.25 * tile_of(dim), cached]
    )  # fmt: skip
    alone = _alone(points, seconds, heads, places)
    if alone:
        p[NAMES.index("alone")] = alone
    else:
        beside = _beside(points)
        if not beside.any():
            return None
        _fitted(p, "alone", points[decodes_only | beside], seconds[decodes_only | beside])
    fitted_p = _fitted(p, "shared", points[decodes_only], times)
    return BlockFit(p.view(BLOCKS), float(np.median(np.abs(np.expm1(fitted_p)))), len(times))


def _fitted(values: F8, first: str, points: F8, seconds: F8) -> F8:
    """Fit the parameters from `first` on, in place, to rows of equal decodes; return the logarithms of the errors."""
    from scipy.optimize import least_squares

    asked, out = np.ascontiguousarray(points), np.empty(len(points))
    parameters, varied = values.view(BLOCKS)[0], slice(NAMES.index(first), NAMES.index("cached"))
    heap, prompt = np.empty(int(parameters.places)), np.empty((2, 1))

    def error(inputs: F8) -> F8:
        values[varied] = np.exp(inputs)
        _equal_rows(parameters, asked, out, heap, prompt)
        logarithm: F8 = np.log(out / seconds)
        return logarithm

    start = np.log(values[varied])
    fit = least_squares(error, start, method="lm", diff_step=np.full(len(start), 1e-3))
    return error(fit.x)


def _beside(points: F8) -> npt.NDArray[np.bool_]:
    """Return rows of one short prompt with decodes, evenly chosen among all of them."""
    rows_found = np.flatnonzero((points[:, 0] > 0) & (points[:, 0] <= QUERY_ROWS) & (points[:, 2] >= FEW))
    rows = np.zeros(len(points), dtype=bool)
    rows[rows_found[:: max(len(rows_found) // MOST_BESIDE, 1)]] = True
    return rows


def _alone(points: F8, seconds: F8, heads: int, places: int) -> float:
    """Return the seconds per key of blocks that run one per head on separate cores; 0 if not measured."""
    tokens = points[:, 0]
    rows = (tokens > 0) & (tokens <= QUERY_ROWS) & (points[:, 2] == 0)
    if not rows.any() or heads > places:
        return 0.0
    rows &= tokens == tokens[rows].min()
    contexts, times = points[rows, 1], seconds[rows]
    long = contexts >= 0.25 * contexts.max()
    if contexts.max() < 2048 or long.sum() < 2:
        return 0.0
    return max(float(np.polyfit(contexts[long], times[long], 1)[0]), 0.0)


@compiled_part
def parts_of(parameters: Records, blocks: float, tiles: float) -> float:
    """Return the number of parts of a sequence, for `blocks` unsplit blocks and a longest context of `tiles` tiles."""
    places = 2.0 * parameters.cores  # the kernel's own guess: two blocks of 128 threads a core
    if parameters.splits == 0.0 or blocks >= FULL * places:
        return 1.0
    most = min(MOST_SPLITS, places, tiles)
    best = 0.0
    for search in range(2):
        parts = 1.0
        while parts <= most:
            even = parts == 1.0 or np.ceil(tiles / parts) != np.ceil(tiles / (parts - 1.0))
            waves = parts * blocks / places
            if even and search == 0:
                best = max(best, waves / np.ceil(waves))
            elif even and waves / np.ceil(waves) >= GOOD_ENOUGH * best:
                return parts
            parts += 1.0
    return 1.0


@compiled_part
def _settle(heap: F8, size: int, value: float) -> None:
    """Replace the smallest value of a heap."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@compiled_part
def blocks_seconds(
    parameters: Records, contexts: F8, count: int, mean: float, batch: float, tiles: float, heap: F8
) -> float:
    """Return the seconds of one call.

    All running blocks are equally fast, so they end in the order of the remaining keys, and the time is the sum over
    intervals with equal numbers of running blocks.

    Parameters
    ----------
    contexts : float64 array
        Keys of each sequence, of which the first `count` are used.
    mean : float
        Keys of every sequence instead, if positive.
    batch : float
        Sequences that the kernel was launched for, the padding of a captured graph included.
    tiles : float
        Tiles of the longest context it was launched for.
    heap : float64 array, shape (places,)
        To work in: keys up to which each place is taken.
    """
    places, heads, tile = int(parameters.places), int(parameters.heads), parameters.tile
    for i in range(places):
        heap[i] = 0.0
    parts = parts_of(parameters, batch * heads, tiles)
    if parts == 1.0:
        for _ in range(heads):
            for j in range(count):
                keys = mean if mean > 0.0 else contexts[j]
                _settle(heap, places, heap[0] + keys + parameters.block)
    else:
        for j in range(count):
            keys = mean if mean > 0.0 else contexts[j]
            block_keys = np.ceil(np.ceil(keys / tile) / parts) * tile
            for _ in range(heads):
                left = keys
                while left > 0.0:
                    _settle(heap, places, heap[0] + min(left, block_keys) + parameters.block)
                    left -= block_keys
    return float(parameters.start + _played(heap, places, parameters.alone, parameters.shared))


@compiled_part
def _played(heap: F8, places: int, alone: float, shared: float) -> float:
    """Return the seconds until all blocks have ended; `heap` contains the cumulative keys of each place."""
    seconds, at, running = 0.0, 0.0, places
    while running > 0:
        seconds += (heap[0] - at) * max(alone, running * shared)
        at = heap[0]
        running -= 1
        _settle(heap, running, heap[running])
    return seconds


@compiled_part
def joint_seconds(
    parameters: Records, contexts: F8, count: int, mean: float, prompts: F8, chunks: int, heap: F8
) -> float:
    """Return the seconds of one call with prompts and decodes.

    Parameters
    ----------
    contexts : float64 array
        Keys of each decode, of which the first `count` are used.
    mean : float
        Keys of every decode instead, if positive.
    prompts : float64 array, shape (2, n)
        New tokens, and those before them, of each prompt, of which the first `chunks` are used.
    heap : float64 array, shape (places,)
        To work in, as for `blocks_seconds`.
    """
    places, heads, shared = int(parameters.places), int(parameters.heads), parameters.shared
    if parameters.group * heads * count > MANY * places:
        places = max(int(places / parameters.group), 1)
        blocks, once = parameters.group, 1.0
    else:
        heads, blocks, once = int(parameters.group * heads), 1.0, 1.0 / parameters.group
    total = mean * count
    if mean <= 0.0:
        for j in range(count):
            total += contexts[j]
    cached = resident(total, parameters.cached)
    shared *= cached * once + (1.0 - cached) * blocks
    for i in range(places):
        heap[i] = 0.0
    for _ in range(heads):
        for j in range(count):
            keys = mean if mean > 0.0 else contexts[j]
            _settle(heap, places, heap[0] + keys + parameters.block)
        for j in range(chunks):
            new, seen = prompts[0, j], 0.0
            while seen < new:
                seen = min(seen + QUERY_ROWS, new)
                _settle(heap, places, heap[0] + prompts[1, j] + seen + parameters.block)
    return float(parameters.start + _played(heap, places, parameters.alone, shared))


@compiled
def _equal_rows(parameters: Records, points: F8, out: F8, heap: F8, prompt: F8) -> None:
    """Return the seconds of equal decodes, without or with one prompt, as in tables.

    The new token's key is added to a context. `heap` and `prompt`, shape (2, 1), are workspace.
    """
    for i in range(out.size):
        prompt[0, 0], prompt[1, 0], decodes, keys = points[i]
        keys, count = keys + 1.0, int(decodes)
        if prompt[0, 0] > 0.0:
            out[i] = joint_seconds(parameters, heap, count, keys, prompt, 1, heap)
        else:
            tiles = np.ceil(keys / parameters.tile)
            out[i] = blocks_seconds(parameters, heap, count, keys, decodes, tiles, heap)
