"""Block-scaled products of 8 or 4 bits: tiles that are never split along k.

A scale for every 128 values of an input and every 128 x 128 of the weights is applied between the steps along k, so a
block keeps its tile for all steps. DeepGEMM (in TensorRT-LLM, SGLang and vLLM) uses 64 rows if there are no more, else
128, and the width with the fewest idle cores (``get_best_configs`` in deepseek-ai/DeepGEMM,
``deep_gemm/jit_kernels/gemm.py``). CUTLASS's kernel for Hopper has one tile of 128 x 128 for any shape. One tile
occupies a core, so a wave takes as long as a tile: whole steps of 128 along k, then a store without overlap.
Blackwell's 4-bit products compute whole tiles of 128 rows. For one to 128 rows and 65,536 values along k a tile takes
as long as its walk along k: 0.65 ns a value in vLLM's and SGLang's kernels on B200, B300 and GB200, 1.4 (B300, with a
higher 4-bit rate) to 1.9 in TensorRT-LLM's, 3.5 to 3.8 on RTX PRO 6000, its rate for a tile of 128 x 128.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...workloads.jit import compiled_part
from .terms import ceil_div, soft_max

DEPTH = 128.0
"""Number of values in one step along k, which share one scale."""
WIDE, FLAT = 128.0, 64.0
"""Rows of a tile, and of a tile for few rows."""
WIDTHS = tuple(float(width) for width in range(16, 129, 8))
"""Numbers of columns of a tile that DeepGEMM tries."""
STEP_CLOCKS = 240.0
"""Minimum clocks of a step for any tile: products of few rows and 65,536 values along k on H100 and H200 take 0.14
us for each 128 of them, with TensorRT-LLM's and SGLang's kernels."""
STORE_CLOCKS = 2300.0
"""Clocks to store a tile of 128 x 128 without overlap, from the products of one tile on H20 (1.2 us; 10,459 rows)."""
COLUMNS = (64.0, 128.0, 256.0)
"""Numbers of columns of a tile of 4-bit products; on workstation Blackwell the tile is at least square (CUTLASS)."""
WALK = 2048.0
"""Number of values along k for which the minimum time of a tile of 4-bit products is given."""
LEAST, BEYOND = 9.0, 12.0
"""Range of compute capabilities with these kernels: Hopper and data-centre Blackwell."""


class Shape(NamedTuple):
    """A batch of products of m x k inputs and k x n weights, and bytes per weight and input value."""

    m: float
    n: float
    k: float
    batch: float
    weight: float
    value: float


class Cores(NamedTuple):
    """Cores of a device: FLOP and operand bytes per second of one, and the pipeline fill of a wave."""

    number: float
    rate: float
    draw: float
    fill_s: float


@compiled_part
def keeps_tiles(capability: float) -> bool:
    """Return whether a device's block-scaled kernels are modelled by this module."""
    return LEAST <= capability < BEYOND


@compiled_part
def block_tiled(shape: Shape, cores: Cores, clock: float, overlap: float, tile: float) -> float:
    """Return the seconds of the best tile, without main memory.

    Parameters
    ----------
    clock : float
        Hertz.
    overlap : float
        Power of the soft maximum of arithmetic and operand loads.
    tile : float
        Side of the only tile that the kernel has; 0 where it chooses.
    """
    rows = tile if tile > 0.0 else FLAT if shape.m <= FLAT else WIDE
    m, n, steps, best = shape.m, shape.n, ceil_div(shape.k, DEPTH), np.inf
    for i in range(len(WIDTHS) - 1, -1, -1):  # wide tiles first: they are the best ones of large products
        columns = tile if tile > 0.0 else WIDTHS[i]
        math_s = max(2.0 * rows * columns * DEPTH / cores.rate, STEP_CLOCKS / clock)
        load_s = (min(m, rows) + min(n, columns)) * DEPTH / cores.draw
        store_s = STORE_CLOCKS / clock * rows * columns / (WIDE * WIDE)
        waves = ceil_div(shape.batch * ceil_div(m, rows) * ceil_div(n, columns), cores.number)
        if waves * (steps * max(math_s, load_s) + store_s + cores.fill_s) < best:  # else no need for the powers
            best = min(best, waves * (steps * soft_max(math_s, load_s, overlap) + store_s + cores.fill_s))
        if tile > 0.0:
            break
    return float(best)


@compiled_part
def four_bit_tiled(shape: Shape, cores: Cores, walk_s: float, overlap: float, first: int) -> float:
    """Return the seconds of the best tile of 128 rows, without main memory; arguments as in `block_tiled`.

    Parameters
    ----------
    walk_s : float
        Least seconds of a tile for `WALK` values along k.
    first : int
        Place in `COLUMNS` of the narrowest tile.
    """
    m, n, k, best = shape.m, shape.n, shape.k, np.inf
    for i in range(first, len(COLUMNS)):
        columns = COLUMNS[i]
        math_s = 2.0 * WIDE * columns * k / cores.rate
        load_s = (min(m, WIDE) * shape.value + min(n, columns) * shape.weight) * k / cores.draw
        store_s = 4.0 * min(m, WIDE) * min(n, columns) / cores.draw
        tile_s = max(soft_max(math_s, load_s, overlap), walk_s * k / WALK) + store_s + cores.fill_s
        tiles = shape.batch * ceil_div(m, WIDE) * ceil_div(n, columns) / cores.number
        best = min(best, 0.5 * (max(tiles, 1.0) + ceil_div(tiles, 1.0)) * tile_s)
    return float(best)
