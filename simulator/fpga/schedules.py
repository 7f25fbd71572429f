"""Programs of an FPGA engine, and the schedules of a MoE layer's tokens, each a SimPy process.

``reordered``  expert by expert, for all experts with tokens (the metaqueue): the weights of one expert load while the
               queue of another is computed.
``cache``      token by token with a cache of experts; a miss stalls the engine (no reordering).
``on-chip``    token by token with all experts of the layer on chip: no stalls, more memory.

A program consists of passes of units, tiles of weights, and blocks of experts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import simpy

from ...workloads.errors import InputError
from ...workloads.ops import Loads
from ...workloads.registry import Registry

if TYPE_CHECKING:
    from .engine import Frame


PAIR, ATTENTION, EMBEDDING, ROUTER = "pair", "attention", "embedding", "router"
"""Regions of on-chip weight memory: the ping-pong pair, and separate buffers."""


@dataclass(frozen=True, slots=True)
class UnitPass:
    """One pass of one unit.

    Attributes
    ----------
    name, layer, unit : str
        Name of the work, its part of the model, and the unit that runs it ("linear", "qk", "pv", "norm", "gate",
        "embedding").
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
    """Work that needs its weights on chip first: `weight_bytes` in a buffer of `region`."""

    work: UnitPass
    weight_bytes: float
    region: str = PAIR


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """One buffer load of an expert: a matrix, a piece of one, or the whole expert.

    Attributes
    ----------
    cycles, macs : float
        Cycles and multiply-accumulates per token of the expert's queue.
    streams : tuple of float
        Bytes per token on each data port [B].
    """

    weight_bytes: float
    cycles: float
    macs: float
    streams: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpertBlock:
    """The experts of one MoE layer; their queues are sampled when the layer runs.

    Attributes
    ----------
    index : int
        Number of the MoE layer.
    parts : tuple of ExpertLoad
        Loads of one expert, in order.
    loads : Loads or None
        Queue lengths if they are given (language models); otherwise the sequence of experts determines them.
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
        """Weights of one expert [B]."""
        return sum(part.weight_bytes for part in self.parts)


Item = UnitPass | Tile | ExpertBlock
Program = tuple[Item, ...]


Steps = Generator[simpy.Event, Any, None]
Schedule = Callable[["Frame", ExpertBlock], Steps]


@dataclass(frozen=True, slots=True)
class Halves:
    """The two processes of a schedule: one loads weights, the other computes."""

    load: Schedule
    compute: Schedule


SCHEDULES: Registry[Halves] = Registry("schedule")


def metaqueue(queues: Any) -> list[tuple[int, float]]:
    """Return the experts whose queue is not empty, with its length."""
    return [(int(e), float(queues[e])) for e in np.flatnonzero(queues)]


def _load_reordered(frame: Frame, block: ExpertBlock) -> Steps:
    """Load the experts in the metaqueue; with speculation, the first expert's load starts before the gate ends."""
    guess = 0 if frame.engine.first_expert == "speculative" else None
    if guess is not None:
        yield from frame.load(block.parts[0].weight_bytes, PAIR, (block.index, guess, 0))
    yield frame.gated(block)
    queue = metaqueue(frame.queues(block))
    if guess is not None and (not queue or queue[0][0] != guess):
        frame.free(PAIR, block.parts[0].weight_bytes)  # no token chose it: the load was wasted
        guess = None
    for expert, _ in queue:
        for i, part in enumerate(block.parts):
            if (expert, i) != (guess, 0):
                yield from frame.load(part.weight_bytes, PAIR, (block.index, expert, i))


def _compute_reordered(frame: Frame, block: ExpertBlock) -> Steps:
    for expert, tokens in metaqueue(frame.queues(block)):
        for i, part in enumerate(block.parts):
            yield from frame.wait_loaded((block.index, expert, i), block.layer)
            yield from frame.serve(block, part, tokens)
            frame.free(PAIR, part.weight_bytes)


def _load_kept(frame: Frame, block: ExpertBlock) -> Steps:
    """Load the experts that the layer's cache held after the last image; `_compute_cached` loads others on demand."""
    for i in range(len(frame.caches.of(block.index))):
        yield from frame.load(block.weight_bytes, None, (block.index, "kept", i))
    yield frame.finished(block)


def _compute_cached(frame: Frame, block: ExpertBlock) -> Steps:
    """Compute in token order: a cached expert starts at once, any other expert is loaded first, one after another."""
    sequence = _sequence(frame, block)
    cache = frame.caches.of(block.index)
    for i in range(len(cache)):
        yield from frame.wait_loaded((block.index, "kept", i), block.layer)
    for experts in sequence:
        for expert in experts:
            if not cache.ask(int(expert)):
                yield from frame.fetch(block.weight_bytes, block.layer)
            for part in block.parts:
                yield from frame.serve(block, part, 1.0)


def _load_all(frame: Frame, block: ExpertBlock) -> Steps:
    """Load all experts of the layer into separate memory as early as the port is free."""
    for expert in range(block.experts):
        yield from frame.load(block.weight_bytes, None, (block.index, expert, 0))


def _compute_on_chip(frame: Frame, block: ExpertBlock) -> Steps:
    for experts in _sequence(frame, block):
        for expert in experts:
            yield from frame.wait_loaded((block.index, int(expert), 0), block.layer, keep=True)
            for part in block.parts:
                yield from frame.serve(block, part, 1.0)


def _sequence(frame: Frame, block: ExpertBlock) -> Any:
    sequence = frame.sequence(block)
    if sequence is None:
        raise InputError("--schedule", "token order needs a sequence of experts; use reordered")
    return sequence


SCHEDULES.register("reordered")(Halves(_load_reordered, _compute_reordered))
SCHEDULES.register("cache")(Halves(_load_kept, _compute_cached))
SCHEDULES.register("on-chip")(Halves(_load_all, _compute_on_chip))
