"""What an FPGA engine runs: work of its units, tiles of weights, blocks of experts."""

from __future__ import annotations

from dataclasses import dataclass

from ...workloads.ops import Loads

PAIR, ATTENTION, EMBEDDING, ROUTER = "pair", "attention", "embedding", "router"
"""Regions of on-chip weight memory: the ping-pong pair, and separate buffers."""


@dataclass(frozen=True, slots=True)
class UnitPass:
    """One pass of one unit.

    Attributes
    ----------
    name, layer, unit : str
        What it is, which part of the model it belongs to, which unit runs it ("linear", "qk",
        "pv", "norm", "gate", "embedding").
    cycles : float
        Cycles of arithmetic.
    streams : tuple of float
        Bytes through each data port at the same time, reads and writes separately [B].
    macs : float
        Useful multiply-accumulates.
    """

    name: str
    layer: str
    unit: str
    cycles: float
    streams: tuple[float, ...] = ()
    macs: float = 0.0


@dataclass(frozen=True, slots=True)
class Tile:
    """Work that needs weights on chip first: `weight_bytes` into a buffer of `region`."""

    work: UnitPass
    weight_bytes: float
    region: str = PAIR


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """One buffer load of an expert: a matrix, a piece of one, or all of it.

    Attributes
    ----------
    cycles, macs : float
        Per token of the expert's queue.
    streams : tuple of float
        Bytes per token on each data port.
    """

    weight_bytes: float
    cycles: float
    macs: float
    streams: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpertBlock:
    """The experts of one MoE layer; their visits are sampled when the layer runs.

    Attributes
    ----------
    index : int
        Number of the MoE layer.
    parts : tuple of ExpertLoad
        Loads of one expert, in order.
    loads : Loads or None
        Queue lengths where they are given (language models); else the sequence decides.
    """

    name: str
    layer: str
    index: int
    experts: int
    top_k: int
    tokens: int
    parts: tuple[ExpertLoad, ...]
    loads: Loads | None = None

    @property
    def weight_bytes(self) -> float:
        """Of one expert [B]."""
        return sum(part.weight_bytes for part in self.parts)


Item = UnitPass | Tile | ExpertBlock
Program = tuple[Item, ...]
