"""Roofs of processors: one for each format that the ops compute in, nominal and attainable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...devices.cost import Roofline
from ...devices.device import WIDTH, Processor
from ...workloads.ops import Op
from .summary import roof_of

LARGE, LONG = 8192, 16384
"""Sides of the matrix products that show what kernels attain: one far beyond any ridge point, and
one row times a matrix of half a gigabyte, larger than any cache."""


def formats(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Processor -> the formats its ops compute in, the fastest last.

    Examples
    --------
    >>> formats([("xpu", "fp8"), ("xpu", "bf16"), ("pim", "bf16"), ("xpu", "fp8")])
    {'xpu': ['bf16', 'fp8'], 'pim': ['bf16']}
    """
    found: dict[str, set[str]] = {}
    for processor, dtype in pairs:
        found.setdefault(processor, set()).add(dtype)
    return {name: sorted(own, key=lambda d: (-WIDTH.get(d, 8.0), d)) for name, own in found.items()}


def roof_name(processor: str, dtype: str, used: Mapping[str, Sequence[str]]) -> str:
    """What a roof is called: the processor, and the format where there are several."""
    return processor if len(used.get(processor, ())) < 2 else f"{processor}, {dtype}"


def roofs(
    processors: Sequence[Processor], used: Mapping[str, Sequence[str]], default: str
) -> list[dict[str, Any]]:
    """Roofs of every processor in the formats used on it, as `plots.roofline` takes them.

    Attainable fractions of a roofline model are its efficiencies; of fitted kernels, what they
    reach on a large matrix product and on one that only streams its weights.

    Parameters
    ----------
    used : mapping of str to sequence of str
        See `formats`; a processor that runs nothing has the roof of `default`.
    """
    rows = []
    for p in processors:
        names = list(used.get(p.name, ())) or [default]
        memory = max(_reached(p, name, 1, LONG)[1] for name in names)
        for name in names:
            rows.append(
                roof_of(p, name)
                | {
                    "name": roof_name(p.name, name, used),
                    "dtype": name,
                    "compute_efficiency": _reached(p, name, LARGE, LARGE)[0],
                    "memory_efficiency": memory,
                }
            )
    return rows


def _reached(p: Processor, dtype: str, rows: int, side: int) -> tuple[float, float]:
    """Fractions of peak and bandwidth that a product of `rows` x `side` x `side` reaches."""
    if isinstance(p.model, Roofline):
        return p.model.compute_efficiency, p.model.memory_efficiency
    op = Op(
        name="probe", layer="ffn", kind="gemm", phase="both",
        shape={"m": rows, "n": side, "k": side, "batch": 1}, dtype=dtype,
        flops=2.0 * rows * side * side, weight_bytes=WIDTH.get(dtype, 8.0) / 8 * side * side,
        act_bytes=2.0 * rows * 2 * side,
    )  # fmt: skip
    seconds = p.model.cost(op).seconds
    return (
        min(op.flops / seconds / p.peak[dtype], 1.0),
        min(op.bytes / seconds / p.bandwidth, 1.0),
    )


def roof_rows(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Roofs for people: nominal peak and bandwidth, what is attained, and where they meet."""
    return [
        {
            "processor": roof["name"].partition(",")[0],
            "format": roof["dtype"],
            "TFLOP/s": roof["peak_flops"] / 1e12,
            "attainable": f"{roof['compute_efficiency']:.0%}",
            "GB/s": roof["bandwidth"] / 1e9,
            "attainable ": f"{roof['memory_efficiency']:.0%}",
            "ridge Op/B": roof["ridge_op_per_byte"],
        }
        for roof in table
    ]
