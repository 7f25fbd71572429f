"""Rows of a roofline: ops of one step, and roofs of processors, one for each format that ops compute in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...devices.device import Processor
from ...simulator.deploy.deployment import Deployment
from ...simulator.step.explicit import PlacedOp, StageCost, explicit_stage
from ...workloads.batch import Batch
from ...workloads.numerics import BITS
from ..show.text import Records, Rows
from .summary import roof_of


@dataclass(frozen=True, slots=True)
class OpRow:
    """One op of the critical path on one device, averaged over the layers that run it.

    Attributes
    ----------
    count : int
        Number of layers that run the op.
    flops, bytes : float
        Matmul FLOPs and main-memory traffic [B] of one device in one layer.
    op_per_byte : float or None
        Arithmetic intensity [FLOP/B]; None for collectives, which have no main-memory traffic.
    seconds, joules : float
        Time and energy of one layer on one device [s, J].
    bound : str
        "compute", "memory", "link" or "latency".
    dtype : str
        Arithmetic format of the op.
    """

    name: str
    layer: str
    kind: str
    count: int
    flops: float
    bytes: float
    op_per_byte: float | None
    processor: str
    seconds: float
    bound: str
    joules: float
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "dtype"}


def merged(stage: StageCost, clock: float) -> tuple[OpRow, ...]:
    """Return one row for each op and processor, averaged over layers with different loads.

    `clock` is the energy of an op at the clock that the power limit allows, over its energy at the nominal clock.
    """
    groups: dict[tuple[str, str, str, str], list[PlacedOp]] = {}
    for placed in stage.ops:
        if placed.critical:
            key = (placed.op.layer, placed.op.name, placed.op.kind, placed.processor)
            groups.setdefault(key, []).append(placed)
    return tuple(_row(key, placed, clock) for key, placed in groups.items())


def _row(key: tuple[str, str, str, str], placed: list[PlacedOp], clock: float) -> OpRow:
    """Combine equal ops of a step into one row: their number, and the means over them."""
    layer, name, kind, processor = key
    count = sum(p.count for p in placed)

    def mean(values: list[float]) -> float:
        return sum(v * p.count for v, p in zip(values, placed, strict=True)) / count

    flops = mean([p.op.flops for p in placed])
    size = 0.0 if layer == "communication" else mean([p.op.bytes for p in placed])
    slowest = max(placed, key=lambda p: p.cost.seconds * p.count)
    return OpRow(
        name, layer, kind, count, flops, size, flops / size if size else None, processor,
        mean([p.cost.seconds for p in placed]), slowest.cost.bound,
        clock * mean([p.cost.total_joules for p in placed]), slowest.op.dtype,
    )  # fmt: skip


def formats(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the formats in which each processor's ops compute, the fastest format last.

    Examples
    --------
    >>> formats([("xpu", "fp8"), ("xpu", "bf16"), ("pim", "bf16"), ("xpu", "fp8")])
    {'xpu': ['bf16', 'fp8'], 'pim': ['bf16']}
    """
    dtypes: dict[str, set[str]] = {}
    for processor, dtype in pairs:
        dtypes.setdefault(processor, set()).add(dtype)
    return {name: sorted(widths, key=lambda d: (-BITS.get(d, 4.0), d)) for name, widths in dtypes.items()}


def formats_of_ops(deployment: Deployment) -> dict[tuple[str, str], str]:
    """Return the format in which each op of a step computes, by the op's layer and name."""
    batch = Batch.of([100], [(100, 0)])
    stage = explicit_stage(deployment, [batch] * deployment.ranks, expected=True)
    return {(p.op.layer, p.op.name): p.op.dtype for p in stage.ops}


def roof_name(processor: str, dtype: str, used: Mapping[str, Sequence[str]]) -> str:
    """Return the name of a roof: the processor and, if it has several roofs, the format."""
    return processor if len(used.get(processor, ())) < 2 else f"{processor}, {dtype}"


def roofs(processors: Sequence[Processor], used: Mapping[str, Sequence[str]], default: str) -> Records:
    """Return the roofs of every processor for the formats used on it, as `plots.roofline` needs them.

    Parameters
    ----------
    used : mapping of str to sequence of str
        See `formats`; a processor that runs nothing has the roof of `default`.
    """
    rows = []
    for p in processors:
        names = list(used.get(p.name, ())) or [default]
        shown = [roof_of(p, name) for name in names]
        memory = max(roof["memory_efficiency"] for roof in shown)  # all formats share one memory
        rows += [
            roof | {"name": roof_name(p.name, n, used), "dtype": n, "memory_efficiency": memory}
            for n, roof in zip(names, shown, strict=True)
        ]
    return rows


def roof_rows(table: Rows) -> Records:
    """Return the roofs as a printed table: nominal peak and bandwidth, attainable shares, and ridge point."""
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
