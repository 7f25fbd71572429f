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
