"""Interface of cost models, and the roofline.

A cost model has two forms of one cost: :meth:`CostModel.cost` for one op, the readable definition, and
:meth:`CostModel.row`, the same for compiled code and any batch. It also states its evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..workloads.ops import Op
from .prices import ROOFLINE, PriceRow, Probe
from .ratios import Ratios

BOUNDS = ("compute", "memory", "latency")
"""Bounds of an op, in order of their codes. For an op on a link, "memory" means the link's bandwidth."""
COMPUTE, MEMORY, LATENCY = range(len(BOUNDS))

PATHS = {"dram": "memory", "compute": "compute", "link": "links"}
"""Paths of dynamic energy and their names in results. An op's energy per path is in its `Cost` and, in compiled code,
in `simulator.step.step_totals.totals`; missing paths are 0."""


def bound_code(seconds: Any, compute_s: Any, memory_s: Any, fixed_s: Any) -> Any:
    """Return the code of an op's bound: fixed costs if they exceed half of its time, else arithmetic or memory traffic.

    Takes numbers or arrays [s]; compiled code calls the same function.
    """
    late = fixed_s > 0.5 * seconds
    return LATENCY * late + (1 - late) * (1 - (compute_s > memory_s))


@dataclass(frozen=True, slots=True)
class Cost:
    """Time and energy of one op on one processor.

    Attributes
    ----------
    seconds : float
        Duration [s], never below `compute_s`, `memory_s` or their sum per expert.
    compute_s, memory_s, fixed_s : float
        Seconds of arithmetic and of memory traffic at the attained rates; launch or link latency [s].
    joules : mapping of str to float
        Dynamic energy by path, see `PATHS` [J].
    bound : str
        What limits it: "compute", "memory", "link" or "latency".
    """

    seconds: float
    compute_s: float
    memory_s: float
    fixed_s: float
    joules: Mapping[str, float]
    bound: str

    @classmethod
    def of(cls, seconds: float, compute_s: float, memory_s: float, fixed_s: float, joules: Mapping[str, float]) -> Cost:
        """Return a cost; its bound is derived from its parts."""
        bound = BOUNDS[bound_code(seconds, compute_s, memory_s, fixed_s)]
        return cls(seconds, compute_s, memory_s, fixed_s, joules, bound)

    @property
    def total_joules(self) -> float:
        return sum(self.joules.values())


@dataclass(frozen=True, slots=True)
class Roof:
    """Nominal and attainable rates of a processor in one number format.

    Attributes
    ----------
    peak, bandwidth : float
        Nominal FLOP/s and B/s.
    compute_efficiency, memory_efficiency : float
        Fractions of them that large ops attain.
    launch_s : float
        Seconds of an op that has nothing to do.
    """

    peak: float
    bandwidth: float
    compute_efficiency: float
    memory_efficiency: float
    launch_s: float


DESCRIPTION = "description"
"""Basis of a cost that uses only numbers of the device's description."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence of the costs of some ops.

    Attributes
    ----------
    cost_model, applies_to : str
        The model, and the ops, for people.
    basis : str
        "fitted" on measurements of the device, "transferred" from other devices' fits, "measured",
        or `DESCRIPTION`, whose sources say whether it is assumed.
    error : float, optional
        Median error on calls like these, cross-validated over unseen shapes.
    rows : int
        Measurements behind it, in the number format of these ops.
    format : str
        Number format of the counted rows; empty if formats are not distinguished.
    others : tuple of (str, int)
        Other formats and the rows in them.
    near : int, optional
        Number of `rows` with all sizes within about a factor of 8, for the op with the fewest.
    distance : float, optional
        Factor between an op and the nearest row, of the op that is furthest; infinite without one.
    why : str
        Why a basis is "transferred".
    ratios : Ratios, optional
        Errors of such predictions.
    beyond : str
        What of an op lies outside the measured rows; empty where all lie inside.
    """

    cost_model: str
    applies_to: str
    basis: str
    error: float | None = None
    rows: int = 0
    format: str = ""
    others: tuple[tuple[str, int], ...] = ()
    near: int | None = None
    distance: float | None = None
    why: str = ""
    ratios: Ratios | None = None
    beyond: str = ""


class CostModel(Protocol):
    """A model of the time and energy of ops on one processor; `Roofline` is the reference implementation."""

    def cost(self, op: Op) -> Cost:
        """Return seconds, joules and bound of one op."""

    def row(self, op: Op, probe: Probe) -> PriceRow:
        """Return the same cost as a function of the batch, from the op at unit sums."""

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        """Return the evidence of the costs of these ops."""

    def roof(self, dtype: str) -> Roof:
        """Return nominal and attainable rates in a number format."""


class KernelModel(CostModel, Protocol):
    """A cost model based on measured kernels, which covers only some ops."""

    def knows(self, op: Op) -> bool:
        """Return whether the model's measurements cover the op."""


def roofline_seconds(op: Op, peak: float, bandwidth: float) -> float:
    """Return the larger of an op's arithmetic and traffic times, summed over experts if it has loads [s].

    Parameters
    ----------
    peak, bandwidth : float
        FLOP/s and bytes/s that are attained.
    """
    loads = op.loads
    if loads is None or loads.routed <= 0:
        return max(op.flops / peak, op.bytes / bandwidth)
    flop, act = op.flops / loads.routed, op.act_bytes / loads.routed
    weights = op.weight_bytes / loads.active
    per_expert = np.maximum(loads.tokens * flop / peak, (weights + loads.tokens * act) / bandwidth)
    return float((per_expert * loads.experts * (loads.tokens > 0)).sum())


@dataclass(frozen=True, slots=True)
class Roofline:
    """``fixed + max(FLOP / peak, bytes / bandwidth)``, experts one after another.

    The model of Williams, Waterman and Patterson (CACM 2009) with a constant efficiency on each
    roof. A layer of experts is a sequence of matmuls with different token counts, so the larger
    of the two times is taken expert by expert.

    Attributes
    ----------
    peak : mapping of str to float
        FLOP/s by arithmetic format.
    bandwidth : float
        Bytes per second of the processor's own memory path.
    compute_efficiency, memory_efficiency : float
        Attainable fraction of each.
    fixed_s : float
        Launch time of one op [s].
    stream_J_per_byte, act_J_per_byte : float
        Energy of weights and KV, and of activations.
    J_per_flop : mapping of str to float
        Arithmetic energy by format.
    kv_J_per_byte : float or None
        Energy of streamed bytes that are not weights: keys, values and state, including the cores' work on them;
        default: as weights.
    tile_J_per_flop : mapping of str to float
        By format: energy of the rows without tokens in an expert's tile, for each FLOP of one such row.
    """

    peak: Mapping[str, float]
    bandwidth: float
    compute_efficiency: float
    memory_efficiency: float
    fixed_s: float
    stream_J_per_byte: float
    act_J_per_byte: float
    J_per_flop: Mapping[str, float]
    kv_J_per_byte: float | None = None
    tile_J_per_flop: Mapping[str, float] = field(default_factory=dict)

    def streamed_J_per_byte(self, op: Op) -> float:
        """Return the energy per byte that an op streams, including an expert's rows without tokens [J/B]."""
        if self.kv_J_per_byte is not None and op.weight_bytes == 0.0:
            return self.kv_J_per_byte
        rows = op.loads.active / op.loads.routed if op.loads and op.loads.routed else 0.0
        row_flops = rows * op.flops / op.weight_bytes if op.weight_bytes else 0.0
        return self.stream_J_per_byte + row_flops * self.tile_J_per_flop.get(op.dtype, 0.0)

    def cost(self, op: Op) -> Cost:
        peak = self.peak[op.dtype] * self.compute_efficiency
        bandwidth = self.bandwidth * self.memory_efficiency
        compute_s, memory_s = op.flops / peak, op.bytes / bandwidth
        busy = roofline_seconds(op, peak, bandwidth)
        return Cost.of(busy + self.fixed_s, compute_s, memory_s, self.fixed_s, self.joules(op))

    def joules(self, op: Op) -> Mapping[str, float]:
        """Return the dynamic energy of an op by path [J]."""
        return {
            "dram": op.stream_bytes * self.streamed_J_per_byte(op) + op.act_bytes * op.moved * self.act_J_per_byte,
            "compute": op.flops * self.J_per_flop[op.dtype],
        }

    def row(self, op: Op, probe: Probe) -> PriceRow:
        terms = (
            self.peak[op.dtype] * self.compute_efficiency, self.bandwidth * self.memory_efficiency, self.fixed_s,
            self.streamed_J_per_byte(op), op.moved * self.act_J_per_byte, self.J_per_flop[op.dtype], self.peak[op.dtype],
            self.bandwidth, 0.0,
        )  # fmt: skip
        return PriceRow(np.array([terms], dtype=ROOFLINE)[0])

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        return [Evidence("roofline", "", DESCRIPTION)] if ops else []

    def roof(self, dtype: str) -> Roof:
        return Roof(self.peak[dtype], self.bandwidth, self.compute_efficiency, self.memory_efficiency, self.fixed_s)
