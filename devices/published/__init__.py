"""Mechanisms of published FPGA systems, as kinds of processors that others reuse.

``fpga-stream``: decoding of language models with HBM, weights and KV cache as streams, ops as instructions. Activations
of a step stay on chip, all weights and the cache pass once. An op takes the longer of its streams and its
multiplications, after its first tile has come, and what its instructions take besides, which the slices (dies of the
board) share (FlightLLM, FPGA 2024, arXiv 2401.03868).

``fpga-pipeline``: a whole vision transformer as one pipeline of operators, weights on chip. Every operator is a separate circuit and starts a new group of tokens as soon as it can; the slowest one limits the rate
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

STREAM_PARAMETERS = ("slices", "macs", "dsp_per_mac", "buffer_bytes", "tile_bytes", "op_cycles")


@dataclass(frozen=True, slots=True)
class StreamEngine:
    """Cost model of an FPGA engine that streams weights and KV cache.

    Attributes
    ----------
    base : Roofline
        Memory and its attainable share; rates of arithmetic follow from `macs`.
    slices, macs : float
        Slices that work side by side, and multiply-accumulates a cycle of all of them.
    tile_bytes : float
        What an op waits for before its first product [B].
    op_cycles : float
        Cycles of an op's instructions if one slice ran it.
    """

    base: Roofline
    clock_Hz: float
    slices: float
    macs: float
    tile_bytes: float
    op_cycles: float

    def __post_init__(self) -> None:
        for name in ("clock_Hz", "slices", "macs"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")

    @property
    def instructions_s(self) -> float:
        """Time of an op's instructions, besides its streams and products [s]."""
        return self.op_cycles / self.slices / self.clock_Hz

    def roofline(self, op: Op) -> Roofline:
        """Return a roofline of an op's streams and products."""
        first = self.tile_bytes if op.stream_bytes else 0.0
        rate = self.base.bandwidth * self.base.memory_efficiency
        peak = 2.0 * self.macs * self.clock_Hz
        return replace(self.base, peak=dict.fromkeys(self.base.peak, peak), fixed_s=self.instructions_s + first / rate)

    def cost(self, op: Op) -> Cost:
        """Return seconds, joules and bound of one op."""
        return self.roofline(op).cost(op)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        """Return the same cost for every batch."""
        return self.roofline(op).row(op, probe)

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        """Return the evidence of the times: the description."""
        return [Evidence("streams and instructions", "", DESCRIPTION)] if ops else []

    def roof(self, dtype: str) -> Roof:
        """Return the nominal and attainable rates."""
        peak = 2.0 * self.macs * self.clock_Hz
        return replace(self.base.roof(dtype), peak=peak, launch_s=self.instructions_s)


@processor_kind("fpga-stream", parameters=STREAM_PARAMETERS)
def fpga_stream(described: Described) -> StreamEngine:
    """FPGA design that streams weights and KV cache from HBM, driven by instructions (FlightLLM)."""
    if described.clock_Hz is None:
        raise ValueError("needs clock_MHz")
    given = described.parameters
    options = {name: given[name] for name in ("slices", "macs", "tile_bytes", "op_cycles")}
    return StreamEngine(described.base, described.clock_Hz, **options)


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
