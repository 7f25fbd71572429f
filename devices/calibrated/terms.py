"""Physical terms that several families share; scalar functions for compiled callers."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled, compiled_part
from ...workloads.records import Records
from ..cost import bound_code
from .hardware import C_INT8, HELD

F8 = npt.NDArray[np.float64]
Parts = tuple[float, float, float, float]
"""Seconds of a call, and its arithmetic, traffic and fixed seconds at the attained rates. These overlap, or do not
cover the whole time."""
Work = tuple[float, float, float, int]
"""FLOP, least bytes of main memory, least bytes over the link, and code of the number format."""

PROTOCOLS = 3.0
"""Exponent of the soft minimum over NCCL's protocols; LL128 gains a fifth between the other two."""
COLD = 1e9
"""Number of copies of the operands for which no data stay in the cache."""
GRAPH_COPIES = 6.0
"""Number of weight copies between which graph-replayed GEMM rows alternate (README of the tables: 5 or 6)."""
WALL_S = 3e-5
"""Launch and framework time inside wall-clock rows (README of the tables: 20 to 50 us)."""


def host_seconds(timing: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the host time inside each measured row [s]."""
    return np.where(timing == "wall", WALL_S, 0.0)


def value_bytes(format_: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the bytes of one number of a KV cache."""
    return np.select([format_ == "fp8", format_ == "fp32"], [1.0, 4.0], 2.0)


WIDTHS = (64.0, 128.0, 192.0)
"""Head dimensions up to which attention kernels are compiled separately; wider heads share one kernel."""
ATTENTION_KERNELS = tuple(f"{value}+{width}" for value in ("16", "fp8") for width in ("64", "128", "192", "256"))
"""Names of the branches of `of_heads`."""


def of_heads(narrow: npt.NDArray[Any], dim: F8) -> npt.NDArray[np.int64]:
    """Return the branch of attention calls: 8 bits or not, and the class of the head dimension."""
    width = np.searchsorted(WIDTHS, dim)
    out: npt.NDArray[np.int64] = np.where(narrow, len(WIDTHS) + 1, 0) + width
    return out


bound = compiled_part(bound_code)


@compiled_part
def floors(work: Work, hardware: Records) -> tuple[float, float, float]:
    """Return the seconds of arithmetic, main memory and link at the device's nominal rates."""
    flops, moved, sent, code = work
    return flops / hardware.peak[code], moved / hardware.bandwidth, sent / hardware.link_bandwidth


@compiled_part
def floored(parts: Parts, work: Work, hardware: Records) -> Parts:
    """Return the parts of a call, none below its work at the device's nominal rates."""
    total, compute, memory, fixed = parts
    math_s, memory_s, link_s = floors(work, hardware)
    compute, memory = max(compute, math_s), max(memory, memory_s, link_s)
    return max(total, math_s, memory_s, link_s), compute, memory, fixed


@compiled_part
def price(parts: Parts, work: Work, hardware: Records) -> tuple[float, int]:
    """Return the seconds of a call, never below its roofline, and the code of its bound."""
    total, compute, memory, fixed = floored(parts, work, hardware)
    return total, bound(total, compute, memory, fixed)


@compiled_part
def put_price(out: Records, parts: Parts, work: Work, hardware: Records) -> None:
    """Write one row of `Family.rows`."""
    total, compute, memory, fixed = floored(parts, work, hardware)
    out.formula, out.seconds, out.compute = parts[0], total, compute
    out.memory, out.fixed = memory, fixed
    out.bound = bound(total, compute, memory, fixed)
    out.floor_compute, out.floor_memory, out.floor_link = floors(work, hardware)


def _rows(parameters: Records, hardware: Records, inputs: Records, out: Records) -> None:
    for i in range(inputs.shape[0]):
        put_price(out[i], parts(parameters, hardware, inputs[i]), work(inputs[i]), hardware)  # type: ignore[name-defined]  # noqa: F821


def rows_of(
    family: str, parts: Callable[..., Parts], work: Callable[..., Work]
) -> Callable[[Records, Records, Records, Records], None]:
    """Compile ``rows(p, h, x, out)`` of a family (see `Family.rows`) from its compiled parts and work of one call.

    Each family's function has another name: Numba stores compiled code by name.
    """
    terms = {**globals(), "parts": parts, "work": work}
    made = FunctionType(_rows.__code__, terms, f"{family}_rows")
    made.__qualname__ = made.__name__
    return compiled(made)


@compiled_part
def tile_width(dim: float) -> float:
    """Return the width of a tile for heads of `dim`: the next power of two."""
    width = 1.0
    while width < dim:
        width *= 2.0
    return width


@compiled_part
def soft_max(a: float, b: float, power: float) -> float:
    """Return the smooth maximum ``(a^p + b^p)^(1/p)`` for two resources that overlap imperfectly."""
    big, small = max(a, b), min(a, b)
    if small <= 0.0:
        return big
    return float(big * (1.0 + (small / big) ** power) ** (1.0 / power))


@compiled_part
def attained(fraction: float, hardware: Records, code: int) -> float:
    """Return the share of a format's stated peak reached by kernels that reach `fraction` of the built rate.

    Other work of a kernel takes as long on a throttled product (`built`), and overlaps better.
    """
    built = hardware.built / hardware.peak[0]
    if code == C_INT8:
        built *= 2.0 * hardware.peak[0] / hardware.peak[C_INT8]
    if built <= HELD:
        return fraction
    return float(1.0 / np.sqrt(1.0 / (fraction * built) ** 2 + 1.0 - 1.0 / built**2))


@compiled_part
def resident(footprint: float, cache: float) -> float:
    """Return the fraction of re-read data still in a cache: near 1 below its size, falling steeply above."""
    if cache <= 0.0:
        return 0.0
    ratio = footprint / cache
    return 1.0 / (1.0 + ratio**4)


@compiled_part
def ceil_div(a: float, b: float) -> float:
    """Return the number of pieces of size `b` that cover `a`."""
    return float(math.ceil(a / b))


@compiled_part
def ramp(amount: float, half: float) -> float:
    """Return the share of the full rate at a size: 1/2 at `half`, towards 1 above."""
    return amount / (amount + half) if amount > 0.0 else 1.0


@compiled_part
def link_among(hardware: Records, ranks: float) -> float:
    """Return the bandwidth of a device to all others among some ranks of its node."""
    return float(hardware.link_bandwidth * min(1.0, (ranks - 1.0) / hardware.peers))


@compiled_part
def by_ranks(at_2: float, times_4: float, times_8: float, ranks: float) -> float:
    """Return the rate for a number of ranks from the rate of two and the multiples for four and eight; constant outside."""
    doublings = min(max(math.log2(ranks) - 1.0, 0.0), 2.0)
    return float(at_2 * times_4 ** min(doublings, 1.0) * times_8 ** max(doublings - 1.0, 0.0))


@compiled_part
def by_protocol(hops: float, wire: float, flag_bytes: float, simple_hops: float) -> float:
    """Return the seconds of a library's ring with the better of its protocols.

    NCCL's LL protocol sends a flag with every word, so `flag_bytes` times as much, and its hops are the shortest. Its
    Simple protocol sends only data and synchronises by fences: its hops take `simple_hops` times as long
    (``ncclTopoTuneModel`` in ``src/graph/tuning.cc`` of NVIDIA/nccl). LL128 is between the two: a soft minimum.
    """
    low, simple = hops + flag_bytes * wire, simple_hops * hops + wire
    least, ratio = min(low, simple), min(low, simple) / max(low, simple)
    return float(least / (1.0 + ratio**PROTOCOLS) ** (1.0 / PROTOCOLS))
