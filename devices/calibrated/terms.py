"""Physical terms that several families share; scalar functions for compiled callers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part

COLD = 1e9
"""Copies of the operands between two uses of one: nothing stays in the cache."""
GRAPH_COPIES = 6.0
"""Weight copies that the graph-replayed GEMM rows rotate (README of the tables: 5 or 6)."""
WALL_S = 3e-5
"""Launch and framework time inside wall-clock rows (README of the tables: 20 to 50 us)."""


def host_seconds(timing: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Host time inside each measured row [s]."""
    return np.where(timing == "wall", WALL_S, 0.0)


def value_bytes(format_: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Bytes of one number of a KV cache."""
    return np.select([format_ == "fp8", format_ == "fp32"], [1.0, 4.0], 2.0)


@compiled_part
def soft_max(a: float, b: float, power: float) -> float:
    """Smooth maximum ``(a^p + b^p)^(1/p)``: two resources that overlap imperfectly."""
    big, small = max(a, b), min(a, b)
    if small <= 0.0:
        return big
    return float(big * (1.0 + (small / big) ** power) ** (1.0 / power))


@compiled_part
def resident(footprint: float, cache: float) -> float:
    """Fraction of re-read data still in a cache: near 1 below its size, falling steeply above."""
    if cache <= 0.0:
        return 0.0
    ratio = footprint / cache
    return 1.0 / (1.0 + ratio**4)


@compiled_part
def ceil_div(a: float, b: float) -> float:
    """Number of pieces of size `b` that cover `a`."""
    return float(math.ceil(a / b))


@compiled_part
def ramp(amount: float, half: float) -> float:
    """Share of the full rate at a size: 1/2 at `half`, towards 1 above."""
    return amount / (amount + half) if amount > 0.0 else 1.0


@compiled_part
def by_ranks(at_2: float, at_4: float, at_8: float, ranks: float) -> float:
    """A quantity known at 2, 4 and 8 ranks: linear in the logarithm, constant outside."""
    if ranks <= 2.0:
        return at_2
    if ranks >= 8.0:
        return at_8
    if ranks <= 4.0:
        return at_2 + (at_4 - at_2) * (math.log2(ranks) - 1.0)
    return at_4 + (at_8 - at_4) * (math.log2(ranks) - 2.0)
