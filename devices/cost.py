"""What an op costs on a processor: the interchangeable cost models.

A cost model says the same thing twice: :meth:`CostModel.cost` for one op, and
:meth:`CostModel.lower`, the parameters of the same formula for the compiled path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..workloads.ops import Op

(P_FLOPS, P_BYTES, P_FIXED, P_J_STREAM, P_J_ACT, P_J_FLOP, P_PEAK, P_BANDWIDTH, P_SUM) = range(9)  # fmt: skip
NUM_PARAMS = 9
"""Lowered parameters: effective FLOP/s and B/s, fixed seconds, joules per streamed byte (weights,
KV), per activation byte and per FLOP, the nominal FLOP/s and B/s (for Op/B rules), and bytes of
partial sums per routed token (of expert ops; the placement knows them, not the cost model)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Time and energy of one op on one processor.

    Attributes
    ----------
    seconds : float
        Duration [s], never below `compute_s`, `memory_s` or their sum per expert.
    compute_s, memory_s, fixed_s : float
        Arithmetic alone, memory traffic alone, launch or link latency [s].
    joules : mapping of str to float
        Dynamic energy by path: "dram", "compute", "link" [J].
    bound : str
        What limits it: "compute", "memory", "link" or "latency".
    """

    seconds: float
    compute_s: float
    memory_s: float
    fixed_s: float
    joules: Mapping[str, float]
    bound: str

    @property
    def total_joules(self) -> float:
        return sum(self.joules.values())


class CostModel(Protocol):
    """Seconds and joules of an op; see `Roofline` for the reference implementation."""

    def cost(self, op: Op) -> Cost: ...

    def lower(self, kind: str, dtype: str) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True, slots=True)
class Formula:
    """A kernel model in the compiled path's form; see `devices.calibrated.scalar`.

    Attributes
    ----------
    code : int
        Which formula.
    p, x : float64 array
        Its parameters, and the quantities of one call; what depends on the batch is filled in.
    window : float
        Attention window; 0 = none.
    """

    code: int
    p: npt.NDArray[np.float64]
    x: npt.NDArray[np.float64]
    window: float = 0.0


@runtime_checkable
class KernelModel(CostModel, Protocol):
    """A cost model of measured kernels: seconds from a row of quantities of each op."""

    def quantities(self, op: Op) -> npt.NDArray[np.float64] | None:
        """What the op's seconds depend on, shape (q,); None where it has no kernel model."""

    def seconds(self, op: Op, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Seconds, shape (n,), of ops like `op` with quantities `x`, shape (n, q)."""

    def formula(self, op: Op) -> Formula | None:
        """The compiled form of an op that depends on more than a count; None for the others."""


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
    """

    peak: Mapping[str, float]
    bandwidth: float
    compute_efficiency: float
    memory_efficiency: float
    fixed_s: float
    stream_J_per_byte: float
    act_J_per_byte: float
    J_per_flop: Mapping[str, float]

    def cost(self, op: Op) -> Cost:
        peak = self.peak[op.dtype] * self.compute_efficiency
        bandwidth = self.bandwidth * self.memory_efficiency
        compute_s, memory_s = op.flops / peak, op.bytes / bandwidth
        busy = max(compute_s, memory_s)
        if op.loads is not None and op.loads.routed > 0:
            busy = self._experts(op, peak, bandwidth)
        joules = {
            "dram": op.stream_bytes * self.stream_J_per_byte + op.act_bytes * self.act_J_per_byte,
            "compute": op.flops * self.J_per_flop[op.dtype],
        }
        bound = "compute" if compute_s > memory_s else "memory"
        if self.fixed_s > busy:
            bound = "latency"
        return Cost(busy + self.fixed_s, compute_s, memory_s, self.fixed_s, joules, bound)

    @staticmethod
    def _experts(op: Op, peak: float, bandwidth: float) -> float:
        """Sum over experts of the slower of arithmetic and traffic [s]."""
        loads = op.loads
        assert loads is not None
        flop, act = op.flops / loads.routed, op.act_bytes / loads.routed
        weights = op.weight_bytes / loads.active
        per_expert = np.maximum(
            loads.tokens * flop / peak, (weights + loads.tokens * act) / bandwidth
        )
        return float((per_expert * loads.experts * (loads.tokens > 0)).sum())

    def lower(self, kind: str, dtype: str) -> npt.NDArray[np.float64]:
        """Parameters of the same formula, in the order of the ``P_`` constants."""
        return np.array(
            [
                self.peak[dtype] * self.compute_efficiency,
                self.bandwidth * self.memory_efficiency,
                self.fixed_s,
                self.stream_J_per_byte,
                self.act_J_per_byte,
                self.J_per_flop[dtype],
                self.peak[dtype],
                self.bandwidth,
                0.0,
            ]
        )
