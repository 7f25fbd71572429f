"""Decoding of language models on an FPGA with HBM: weights and KV cache as streams, ops as instructions.

Activations of a step stay on chip, all weights and the cache pass once. An op takes the longer of its
streams and its multiplications, after its first tile has come, and what its instructions take
besides, which the slices (dies of the board) share (FlightLLM, FPGA 2024, arXiv 2401.03868).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...workloads.ops import Op
from ..cost import DESCRIPTION, Cost, Evidence, Roof, Roofline
from ..kinds import Described, processor_kind
from ..prices import PriceRow, Probe

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
