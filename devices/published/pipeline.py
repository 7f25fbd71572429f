"""A whole vision transformer as one pipeline of operators, weights on chip.

Every operator is a separate circuit and starts a new group of tokens as soon as it can; the slowest one limits the rate
of images (HG-PIPE, ICCAD 2024, arXiv 2407.17879). An attention block needs all keys of an image before its first row,
so it delays the image by one interval; products stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...workloads.ops import Op
from ..cost import COMPUTE, DESCRIPTION, Cost, Evidence, Roof, Roofline
from ..kinds import Described, processor_kind
from ..prices import PriceRow, Probe, by_count

F8 = npt.NDArray[np.float64]
PIPELINE = "fpga-pipeline"
PIPELINE_PARAMETERS = ("tokens", "inputs", "outputs", "softmax_rows", "softmax_passes")


@dataclass(frozen=True, slots=True)
class PipelineEngine:
    """Cost model of the operators of a pipeline, one at a time; see `interval_s` and `stream_s` for the whole pipeline.

    Attributes
    ----------
    base : Roofline
        Energies.
    tokens : float
        Tokens that every operator takes at once.
    inputs, outputs : float
        Widths of a product, either way round; products of attention are as wide as it takes.
    softmax_rows, softmax_passes : float
        Rows of scores at once, one column a cycle, and passes over each; a circuit for each head.
    """

    base: Roofline
    clock_Hz: float
    tokens: float
    inputs: float
    outputs: float
    softmax_rows: float
    softmax_passes: float

    def __post_init__(self) -> None:
        for name in ("clock_Hz", *PIPELINE_PARAMETERS):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")

    def product_cycles(self, m: float, n: float, k: float) -> float:
        """Return the cycles of `m` tokens through an n x k matrix, in the better orientation of its widths."""
        passes = min(
            math.ceil(k / a) * math.ceil(n / b) for a, b in ((self.inputs, self.outputs), (self.outputs, self.inputs))
        )
        return math.ceil(m / self.tokens) * passes

    def softmax_cycles(self, rows: float, columns: float) -> float:
        """Return the cycles of softmax over `rows` x `columns` scores of each head, all heads at once."""
        return math.ceil(rows / self.softmax_rows) * columns * self.softmax_passes

    def cost(self, op: Op) -> Cost:
        """Return the seconds that the op's circuit is busy, and the op's energy."""
        took = self._cycles(op) / self.clock_Hz
        return Cost.of(took, took, 0.0, 0.0, self.base.joules(op))

    def _cycles(self, op: Op) -> float:
        s = op.shape
        if op.product:
            return self.product_cycles(s["m"], s["n"], s["k"])
        if op.kind == "attention_image":
            return s["pairs"] * self.softmax_passes / self.softmax_rows
        return op.flops / (self.tokens * self.outputs)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        """Return the same cost for every batch."""
        row = self.base.row(op, probe)
        took = self._cycles(op) / self.clock_Hz
        row.params.flops = op.flops / took if took else np.inf
        row.params.bytes = np.inf
        row.params.fixed = 0.0
        if not op.product:
            return row

        def prices(op: Op, inputs: F8) -> tuple[F8, F8]:
            groups = np.ceil(inputs[:, 0] / self.tokens)
            one = self.product_cycles(1, op.shape["n"], op.shape["k"]) / self.clock_Hz
            return groups * one, np.full(len(inputs), float(COMPUTE))

        return replace(row, curve=by_count(op, probe, lambda o: np.array([o.shape["m"]]), prices))

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        """Return the evidence of the times: the description."""
        return [Evidence("circuits of a pipeline", "", DESCRIPTION)] if ops else []

    def roof(self, dtype: str) -> Roof:
        """Return the rates of one product's circuit."""
        peak = 2.0 * self.tokens * self.inputs * self.outputs * self.clock_Hz
        return replace(self.base.roof(dtype), peak=peak)


def stream_s(interval_s: float, attention_blocks: int, images: int) -> float:
    """Return the time of `images` images that enter an empty pipeline one after another [s]."""
    return (attention_blocks + images) * interval_s


@processor_kind(PIPELINE, parameters=PIPELINE_PARAMETERS)
def fpga_pipeline(described: Described) -> PipelineEngine:
    """FPGA design with a circuit for every operator of a vision transformer (HG-PIPE)."""
    if described.clock_Hz is None:
        raise ValueError("needs clock_MHz")
    return PipelineEngine(described.base, described.clock_Hz, **described.parameters)
