"""Ops of one step as rows: processor, time and bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...simulator.step.explicit import PlacedOp, StageCost


@dataclass(frozen=True, slots=True)
class OpRow:
    """One op of the critical path on one device, averaged over the layers that run it.

    Attributes
    ----------
    count : int
        Layers.
    flops, bytes : float
        Of one device's share in one layer; matmul FLOP and main-memory traffic [B].
    op_per_byte : float or None
        None for collectives, which move nothing through main memory.
    seconds, joules : float
        Of one layer on one device [s, J].
    bound : str
        "compute", "memory", "link" or "latency".
    dtype : str
        Format it computes in.
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

    `clock` is what of the energy is left at the clock that the power limit allows.
    """
    groups: dict[tuple[str, str, str, str], list[PlacedOp]] = {}
    for placed in stage.ops:
        if placed.critical:
            key = (placed.op.layer, placed.op.name, placed.op.kind, placed.processor)
            groups.setdefault(key, []).append(placed)
    return tuple(_row(key, placed, clock) for key, placed in groups.items())


def _row(key: tuple[str, str, str, str], placed: list[PlacedOp], clock: float) -> OpRow:
    """Sum up equal ops of a step: their count, and means of one."""
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
