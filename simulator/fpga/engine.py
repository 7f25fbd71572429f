"""One image, or one step of a language model, on an FPGA engine: SimPy processes that count its cycles.

Two processes run the program. One loads weights as early as buffers, ports and the gate allow; the other computes in order.
Units run one after another, so only two things overlap: loading with computing, and the streams of a unit with its
arithmetic. Transfers use external memory through ports, at the width of the port until the memory bandwidth is reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from ...devices.fpga_engine import EngineSpec
from ...workloads.errors import CapacityError, InputError
from ...workloads.vit_requests import queue_lengths
from ..parts.expert_cache.cache import ExpertCache
from ..parts.expert_cache.policies import CACHE_POLICIES
from .schedules import (
    ATTENTION,
    EMBEDDING,
    PAIR,
    ROUTER,
    SCHEDULES,
    ExpertBlock,
    ExpertLoad,
    Program,
    Steps,
    Tile,
    UnitPass,
)

DONE = 1e-6
"""Tolerance of a transfer's end [cycles]: the rounding error of long clocks."""


@dataclass(slots=True)
class _Transfer:
    """A transfer in progress: remaining bytes, the port's rate, and its present rate [B/cycle]."""

    done: simpy.Event
    left: float
    limit: float
    rate: float = 0.0


class ExternalMemory:
    """External memory that transfers share fairly; no transfer is faster than its port.

    Parameters
    ----------
    env : simpy.Environment
        Clock, in cycles.
    rate : float
        Memory bandwidth for all ports together [B/cycle].
    """

    def __init__(self, env: simpy.Environment, rate: float) -> None:
        self.env, self.rate = env, rate
        self.moved = 0.0
        self._under_way: list[_Transfer] = []
        self._since = 0.0
        self._version = 0

    def move(self, size: float, limit: float) -> simpy.Event:
        """Start to move `size` bytes at no more than `limit` [B/cycle]; return an event that fires at the end."""
        done = self.env.event()
        self.moved += size
        if size <= 0:
            return done.succeed()
        self._settle()
        self._under_way.append(_Transfer(done, size, limit))
        self._share()
        return done

    def _settle(self) -> None:
        """Advance every transfer to the present time."""
        elapsed, self._since = self.env.now - self._since, self.env.now
        for transfer in self._under_way:
            transfer.left -= transfer.rate * elapsed

    def _share(self) -> None:
        """Set the max-min fair rate of each transfer, and wake up when the first one ends."""
        room, waiting = self.rate, sorted(self._under_way, key=lambda t: t.limit)
        for i, transfer in enumerate(waiting):
            transfer.rate = min(transfer.limit, room / (len(waiting) - i))
            room -= transfer.rate
        self._version += 1
        if waiting:
            delay = max(0.0, min(t.left / t.rate for t in waiting))
            wake = self.env.timeout(delay, self._version)
            wake.callbacks.append(self._wake)

    def _wake(self, event: simpy.Event) -> None:
        if event.value != self._version:
            return  # another transfer has started or ended since
        self._settle()
        over = [t for t in self._under_way if t.left <= DONE * t.rate]
        self._under_way = [t for t in self._under_way if t.left > DONE * t.rate]
        self._share()
        for transfer in over:
            transfer.done.succeed()


Sequence_ = npt.NDArray[np.int64]
Routes = Callable[[ExpertBlock], "Sequence_ | None"]


@dataclass(slots=True)
class CycleShare:
    """Cycles of one unit in one part of the model, by what it did.

    Attributes
    ----------
    busy, stalled : float
        Cycles in which the unit worked, and in which it waited for weights.
    arithmetic : float
        Cycles of its arithmetic.
    memory_bound : float
        Cycles of passes that waited for their streams, included in `busy`; `stalled` is in addition to `busy`.
    macs : float
        Number of multiply-accumulates.
    """

    busy: float = 0.0
    stalled: float = 0.0
    arithmetic: float = 0.0
    memory_bound: float = 0.0
    macs: float = 0.0

    @property
    def cycles(self) -> float:
        return self.busy + self.stalled


@dataclass(frozen=True, slots=True)
class FrameResult:
    """Results of one run of a program.

    Attributes
    ----------
    cycles : int
        Cycles from start to end, rounded up.
    memory_bytes : float
        Bytes moved through external memory [B].
    hits, misses : int
        Hits and misses of the expert cache.
    longest_queue, shortest_queue : float
        Tokens of the active experts with the longest and the shortest queue (0 without experts).
    """

    cycles: int
    parts: dict[tuple[str, str], CycleShare]
    memory_bytes: float
    hits: int
    misses: int
    longest_queue: float
    shortest_queue: float

    def unit(self, *units: str) -> float:
        """Return the cycles of the given units, including stalls."""
        return sum(share.cycles for (_, unit), share in self.parts.items() if unit in units)


@dataclass(slots=True)
class Caches:
    """Expert caches, one for each MoE layer, kept from image to image.

    All layers share the slots. A layer's cache is restored while its attention runs, so the next image of the same task
    finds it unchanged. An image of another task finds it empty, because other tasks' gates choose other experts
    (assumed: up to min(cache, experts) cold misses per layer after a switch).
    """

    size: int
    policy: str
    layers: dict[int, ExpertCache] = field(default_factory=dict)

    def __post_init__(self) -> None:
        policy = CACHE_POLICIES[self.policy]
        if policy.looks_ahead or policy.predicts:
            reason = f"{self.policy} needs a prediction of the experts, which an FPGA does not have before its gate"
            raise InputError("cache.policy", reason)

    def of(self, layer: int) -> ExpertCache:
        return self.layers.setdefault(layer, ExpertCache(self.size, self.policy))

    def switch_task(self) -> None:
        """Empty all caches."""
        for cache in self.layers.values():
            cache.clear()


def run_frame(
    program: Program,
    engine: EngineSpec,
    memory_bytes_per_s: float,
    *,
    schedule: str = "reordered",
    routes: Routes | None = None,
    caches: Caches | None = None,
) -> FrameResult:
    """Run one program from an idle engine to its end.

    Parameters
    ----------
    memory_bytes_per_s : float
        Bandwidth of external memory for all ports together [B/s].
    schedule : str
        A name of `SCHEDULES`.
    routes : callable, optional
        Returns the experts of every token of a block, shape (tokens, top_k), or None to use the block's loads.
    caches : Caches, optional
        State of the ``cache`` schedule from earlier frames; empty by default.

    Raises
    ------
    CapacityError
        A load is larger than its buffer.
    InputError
        Unknown schedule, or a schedule in token order without a sequence of experts.
    """
    spec = engine.cache
    caches_own = Caches(int(spec.experts) if spec else 0, spec.policy if spec else "lru")
    frame = Frame(engine, memory_bytes_per_s, schedule, routes, caches or caches_own)
    return frame.run(program)


class Frame:
    """State of one run; schedules are written in terms of its methods."""

    def __init__(
        self, engine: EngineSpec, memory_bytes_per_s: float, schedule: str, routes: Routes | None, caches: Caches
    ) -> None:
        self.engine, self.caches = engine, caches
        self.env = simpy.Environment()
        self.schedule = SCHEDULES[schedule]
        self.memory = ExternalMemory(self.env, memory_bytes_per_s / engine.clock_Hz)
        self.parts: dict[tuple[str, str], CycleShare] = {}
        self._routes = routes
        self._drawn: dict[int, Sequence_ | None] = {}
        self._events: dict[Any, simpy.Event] = {}
        buffers = engine.buffers
        room = {PAIR: 2.0, ROUTER: 2.0, ATTENTION: buffers.attention_bytes, EMBEDDING: buffers.embedding_bytes}
        self._rooms = {name: simpy.Container(self.env, size, size) for name, size in room.items() if size}
        self._port = simpy.Resource(self.env)
        per_cycle = engine.port_bytes_per_s(1) / engine.clock_Hz
        self._weight_rate, self._data_rate = per_cycle * engine.ports.weights, per_cycle
        self._word = engine.ports.kernel_bits / 8 * engine.ports.weights
        self._queue_range = (math.inf, 0.0)

    def run(self, program: Program) -> FrameResult:
        """Run both processes to the end of the program."""
        caches = self.caches.layers.values()
        before = sum(c.hits for c in caches), sum(c.misses for c in caches)
        self.env.process(self._load(program))
        self.env.run(self.env.process(self._compute(program)))
        caches = self.caches.layers.values()
        shortest, longest = self._queue_range
        return FrameResult(
            cycles=math.ceil(self.env.now - 1e-3),
            parts=self.parts,
            memory_bytes=self.memory.moved,
            hits=sum(c.hits for c in caches) - before[0],
            misses=sum(c.misses for c in caches) - before[1],
            longest_queue=longest,
            shortest_queue=0.0 if math.isinf(shortest) else shortest,
        )

    def _load(self, program: Program) -> Steps:
        for i, item in enumerate(program):
            if isinstance(item, Tile):
                yield from self.load(item.weight_bytes, item.region, i)
            elif isinstance(item, ExpertBlock):
                yield from self.schedule.load(self, item)

    def _compute(self, program: Program) -> Steps:
        for i, item in enumerate(program):
            if isinstance(item, UnitPass):
                yield from self._pass(item)
            elif isinstance(item, Tile):
                yield from self.wait_loaded(i, item.work.layer, item.work.unit)
                yield from self._pass(item.work)
                self.free(item.region, item.weight_bytes)
            else:
                yield from self._experts(item)

    def _experts(self, block: ExpertBlock) -> Steps:
        queues = self.queues(block)
        active = queues[queues > 0]
        if len(active):
            low, high = self._queue_range
            self._queue_range = min(low, float(active.min())), max(high, float(active.max()))
        self.gated(block).succeed()
        yield from self.schedule.compute(self, block)
        self.finished(block).succeed()

    # Methods that schedules call.

    def _event(self, key: Any) -> simpy.Event:
        return self._events.setdefault(key, self.env.event())

    def gated(self, block: ExpertBlock) -> simpy.Event:
        """Return the event that fires when the block's queues are known."""
        return self._event(("gated", block.index))

    def finished(self, block: ExpertBlock) -> simpy.Event:
        """Return the event that fires when the block has finished."""
        return self._event(("finished", block.index))

    def sequence(self, block: ExpertBlock) -> Sequence_ | None:
        """Return the experts of every token, sampled once."""
        if block.index not in self._drawn:
            self._drawn[block.index] = self._routes(block) if self._routes else None
        return self._drawn[block.index]

    def queues(self, block: ExpertBlock) -> npt.NDArray[np.float64]:
        """Return the number of tokens of every expert."""
        sequence = self.sequence(block)
        if sequence is not None:
            return queue_lengths(sequence, block.experts).astype(np.float64)
        if block.loads is None:
            raise ValueError("a block needs loads or a sequence")
        return np.repeat(block.loads.tokens, np.rint(block.loads.experts).astype(np.int64))

    def load(self, size: float, region: str | None, key: Any) -> Steps:
        """Load weights as soon as a buffer of the region is free; the event of `key` fires at the end."""
        if region is not None:
            self._check(size, region)
            yield self._rooms[region].get(self._amount(region, size))
        yield from self._move(size)
        self._event(key).succeed()

    def fetch(self, size: float, layer: str) -> Steps:
        """Load weights on demand; all computation waits."""
        began = self.env.now
        yield from self._move(size)
        self._share(layer, "linear").stalled += self.env.now - began

    def _move(self, size: float) -> Steps:
        with self._port.request() as turn:
            yield turn
            if self.engine.ports.latency_cycles:
                yield self.env.timeout(self.engine.ports.latency_cycles)
            moved = math.ceil(size / self._word) * self._word
            yield self.memory.move(moved, self._weight_rate)

    def free(self, region: str, size: float) -> None:
        """Return a buffer to the pool."""
        self._rooms[region].put(self._amount(region, size))

    def wait_loaded(self, key: Any, layer: str, unit: str = "linear", keep: bool = False) -> Steps:
        """Wait for weights; the time is a stall of the unit."""
        event = self._event(key)
        if not event.processed:
            began = self.env.now
            yield event
            self._share(layer, unit).stalled += self.env.now - began
        if not keep:
            del self._events[key]

    def serve(self, block: ExpertBlock, part: ExpertLoad, tokens: float) -> Steps:
        """Compute one part of an expert for `tokens` tokens of its queue."""
        streams = tuple(size * tokens for size in part.streams)
        yield from self._pass(
            UnitPass(block.name, block.layer, "linear", part.cycles * tokens, streams, part.macs * tokens)
        )

    def _pass(self, work: UnitPass) -> Steps:
        began = self.env.now
        if work.streams:
            streams = [self.memory.move(size, self._data_rate) for size in work.streams]
            yield simpy.AllOf(self.env, [self.env.timeout(work.cycles), *streams])
        else:
            yield self.env.timeout(work.cycles)
        took, share = self.env.now - began, self._share(work.layer, work.unit)
        share.busy += took
        share.arithmetic += work.cycles
        share.macs += work.macs
        if took > work.cycles * (1 + 1e-9):
            share.memory_bound += took

    def _share(self, layer: str, unit: str) -> CycleShare:
        return self.parts.setdefault((layer, unit), CycleShare())

    @staticmethod
    def _amount(region: str, size: float) -> float:
        """Return the amount of its region that a load takes: one buffer of a pair, otherwise its bytes."""
        return 1.0 if region in (PAIR, ROUTER) else size

    def _check(self, size: float, region: str) -> None:
        room = self.engine.buffers.weights_bytes if region == PAIR else None
        room = self._rooms[region].capacity if region in (ATTENTION, EMBEDDING) else room
        if room is not None and size > room * (1 + 1e-9):
            raise CapacityError(f"buffer {region}", f"needs {size:,.0f} bytes, {room:,.0f} available")
