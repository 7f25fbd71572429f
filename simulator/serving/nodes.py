"""Engines on a shared clock: what is known of each, and how far it may run.

An engine runs, compiled, up to the next moment at which another could change what it does. That
is the next event on the clock of SimPy (an arrival, a failure, the end of a transfer) and, where
completions have effects elsewhere, the next completion on any engine. Then the engine that is
furthest behind runs, until it is level with the next one, and stops at its completions. Several
engines of one kind do so in one compiled call (`together`).
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import simpy

from ..batching.kv import KvRules, rank_rules, sequence_bytes
from ..batching.lanes import M_SPREAD
from ..batching.level import ASKED, NUM_MARKS, X_FAILING, X_HELD, X_QUEUED
from ..batching.state import (
    C_LOW,
    C_RELEASED,
    C_SUBMITTED,
    F8,
    F_LAST,
    I8,
    I_DONE,
    I_INPUT,
    R_LATE,
    R_WAITING,
)
from .adapters import Shelf
from .calls import call_at
from .engine import Engine
from .pages import give_back
from .pools import Ports
from .prefixes import Prompt, Sent
from .progress import advance_reporting
from .routers import Load
from .table import Table
from .together import Together


def no_rows() -> array[int]:
    """Return an empty map from an engine's rows to requests."""
    return array("q")


@dataclass(slots=True)
class Node:
    """One engine with what the driver knows of it."""

    index: int  # its number among the nodes; entry nodes come first
    engine: Engine
    ports: Ports = field(init=False)  # its ends of the link between two pools
    # request of each row of the engine's state; -1 once it has been taken over
    rows: array[int] = field(default_factory=no_rows)
    up: bool = True  # whether it takes requests
    # whether the router may send it requests: not before it has started, nor while it drains
    ready: bool = True
    # failures so far, which tells whether what was sent to or from it is still there; requests that
    # completed before the last of them
    life: int = 0
    earlier: int = 0
    inbound: int = 0  # requests whose cache is on its way
    # KV bytes of one device kept for requests that are here, come, or have a cache parked here
    promised: float = 0.0
    delivered: int = 0  # completions that have had their effects, and those that a router has seen
    gone: int = 0
    held_tokens: int = 0  # prompt tokens of requests that a router has not seen come back
    sent: Sent | None = None  # what the router remembers of it, where its rule asks
    shelf: Shelf | None = None  # slots for adapters, where not all fit
    asked: dict[int, int] = field(default_factory=dict)  # see `Shelf`
    apart: int = 0  # most that the counters of two tenants differed by before its latest failure
    # what engines on one clock know of each other, its row of `Fleet.marks` and of `Fleet.clock`
    mark: I8 = field(default_factory=lambda: np.zeros(NUM_MARKS, dtype=np.int64))
    at: F8 = field(default_factory=lambda: np.zeros(1))
    # nodes whose engine's state may have been replaced, see `together`
    stale: set[int] = field(default_factory=set)
    low: int = 0  # rows of the engine's state below which all have been let go, see `draining`
    _whole: KvRules | None = None

    def __post_init__(self) -> None:
        self.ports = Ports(self.engine.deployment.ranks)

    @property
    def clock(self) -> float:
        """Time before which it has nothing left to do [s]."""
        return float(self.at[0])

    @clock.setter
    def clock(self, now: float) -> None:
        self.at[0] = now

    @property
    def held(self) -> bool:
        """Whether a completion on it has yet to be delivered; it stands still until then."""
        return bool(self.mark[X_HELD])

    @property
    def failing(self) -> bool:
        """Whether it fails at the end of the step."""
        return bool(self.mark[X_FAILING])

    @failing.setter
    def failing(self, whether: bool) -> None:
        self.mark[X_FAILING] = whether

    @property
    def lanes(self) -> int:
        """Devices of a rank, each with a port of its own."""
        layout = self.engine.deployment.layout
        return layout.tp * layout.pp

    def load(self, now: float, prompt: Prompt | None = None) -> Load:
        """Requests that wait, as of the step in progress, and others that have not come back.

        Of a prompt also what the router takes for cached here.
        """
        state, counters = self.engine.state, self.engine.state.counters
        ended = self.engine.completed
        while self.gone < ended:
            place = state.ints[self.gone, I_DONE]
            if state.floats[place, F_LAST] > now:
                break
            self.held_tokens -= int(state.ints[place, I_INPUT])
            self.gone += 1
        submitted = int(counters[C_SUBMITTED]) + len(self.asked)
        waiting = submitted - int(counters[C_RELEASED]) + sum(state.ranks[:, R_WAITING].tolist())
        running = submitted - self.gone - waiting
        if prompt is None:
            return Load(waiting, running, self.held_tokens)
        sent = self.sent or Sent(0)
        found = sent.found(prompt)
        return Load(waiting, running, self.held_tokens, found, prompt.tokens - found, sent.kept)

    def remember(self, prompt: Prompt) -> None:
        """Note what has been sent here."""
        if self.sent is None:
            self.sent = Sent(self.remembers)
        self.sent.note(prompt)

    @property
    def remembers(self) -> int:
        """Tokens that its cache, and what is below it, can hold; 0 where it finds nothing again."""
        kv = self.engine.kv
        tokens = kv.blocks * kv.block * self.engine.deployment.ranks if kv.cached else 0
        if self.engine.below is not None:
            tokens += self.engine.below.room * kv.block
        return int(tokens)

    def fail(self, now: float) -> None:
        """Lose all that is here."""
        self.earlier += self.engine.completed
        self.apart = self.apart_now()
        if self.engine.submitted:
            self.engine.fail(now)
            self.stale.add(self.index)
        self.rows, self.life, self.clock = no_rows(), self.life + 1, now
        self.promised, self.inbound, self.delivered, self.gone = 0.0, 0, 0, 0
        self.held_tokens, self.sent = 0, None
        if self.shelf is not None:
            self.shelf.lose()

    def apart_now(self) -> int:
        """Most that the virtual counters of two tenants in its queue have differed by."""
        lanes = self.engine.state.lanes
        return self.apart if lanes is None else max(self.apart, int(lanes.marks[M_SPREAD]))

    @property
    def live(self) -> int:
        """Requests here whose completion has not been delivered."""
        return self.engine.submitted - self.delivered + len(self.asked)

    @property
    def capacity(self) -> float:
        """KV bytes of one device, times the ranks that share the requests."""
        return self.engine.kv.capacity * self.engine.deployment.ranks

    def need(self, tokens: int) -> float:
        """KV bytes of `tokens` tokens on one device."""
        return float(sequence_bytes(self.engine.kv, np.array([tokens]))[0])

    def received(self, tokens: I8) -> F8:
        """KV bytes that all devices of a rank get for so many tokens, shape as `tokens`."""
        deployment = self.engine.deployment
        if self._whole is None:
            self._whole = rank_rules(deployment, self.engine.cache)
        return sequence_bytes(self._whole, tokens) * deployment.layout.tp

    def fits(self, size: float) -> bool:
        """Whether it can keep `size` bytes more; alone, anything that was let in fits."""
        return self.promised == 0.0 or self.promised + size <= self.capacity

    def forget(self, size: float) -> None:
        """Give kept bytes back; no remainder of rounding is left on an empty node."""
        self.promised = max(self.promised - size, 0.0)

    def untaken(self) -> tuple[I8, I8]:
        """Rows of the engine's state that have not been taken over, and their requests."""
        rows = np.frombuffer(self.rows, dtype=np.int64)[self.low :].copy()
        places = np.flatnonzero(rows >= 0)
        return places + self.low, rows[places]

    def newly_done(self) -> list[int]:
        """Rows of the engine's state that have completed since the last call, in order."""
        ended, ints = self.engine.completed, self.engine.state.ints
        places: list[int] = ints[self.delivered : ended, I_DONE].tolist()
        self.delivered = ended
        return places

    def let_go(self, places: I8) -> None:
        """Let go of rows of the engine's state, as far as none before them is under way."""
        rows, state = np.frombuffer(self.rows, dtype=np.int64), self.engine.state
        rows[places] = -1
        going = rows[self.low :] >= 0
        low = self.low + int(going.argmax()) if going.any() else len(rows)
        most = state.running.shape[1] // 3
        for rank, late in zip(state.running, state.ranks[:, R_LATE], strict=True):
            # What they hold is to be dropped.
            low = min(low, int(rank[most : most + late].min(initial=low)))
        for kept in (state.ints, state.floats, rows):
            give_back(kept, self.low, low)
        self.low = state.counters[C_LOW] = max(low, self.low)


@dataclass(slots=True)
class Nodes:
    """All nodes of a run, and the clock that they share."""

    env: simpy.Environment
    table: Table
    entry: list[Node]  # nodes that requests arrive at, and those that go on after the first token
    decode: list[Node]
    on_completion: Callable[[Node], None]
    on_goal: Callable[[float], None]
    # whether engines stop at completions; `on_completion` is then called at their time
    stops: bool = False
    goal: int = 0  # of a single engine: completions at which it stops and `on_goal` is called
    ended: bool = False  # whether nothing is to run any more
    report: Callable[[], None] | None = None  # called every now and then while engines run
    _busy: list[tuple[float, int]] = field(default_factory=list)
    # whether engines see each other's caches, and so run level with each other
    level: bool = field(init=False)
    _all: list[Node] = field(init=False)
    # several engines of one kind, which run in one compiled call
    together: Together | None = field(init=False)

    def __post_init__(self) -> None:
        self._all = [*self.entry, *self.decode]
        engines = [node.engine for node in self._all]
        self.level = any(engine.common is not None for engine in engines)
        self.together = Together.of(engines, self.level)
        if self.together is not None:
            fleet = self.together.fleet
            for n, node in enumerate(self._all):
                node.mark, node.at = fleet.marks[n], fleet.clock[n : n + 1]
                node.stale = self.together.stale

    @property
    def all(self) -> list[Node]:
        """Entry nodes and decode nodes, in order of their index."""
        return self._all

    @property
    def completed(self) -> int:
        """Requests that have completed on their engines, by the end of the latest steps."""
        return sum(node.earlier + node.engine.completed for node in self._all)

    def wake(self, node: Node) -> None:
        """Let a node run that has something to do."""
        mark = node.mark
        node.stale.add(node.index)
        if mark[X_QUEUED] or mark[X_HELD]:
            return
        mark[X_QUEUED], node.clock = ASKED, max(node.clock, node.engine.ready)
        if self.together is None:
            heapq.heappush(self._busy, (node.clock, node.index))

    def bring(self, until: float) -> None:
        """Run engines up to `until` or the first completion that matters before it."""
        if self.together is None:
            self._bring_each(until)
            return
        while not self.ended:
            n = self.together.bring(until, self.stops, self.report)
            if n is None:
                return
            until = min(until, self._all[n].clock)
            self._hold(self._all[n])

    def _bring_each(self, until: float) -> None:
        """Run engines one by one, each from here."""
        busy = self._busy
        while busy and busy[0][0] < until and not self.ended:
            clock, index = heapq.heappop(busy)
            node = self._all[index]
            node.mark[X_QUEUED] = 0
            if node.failing or node.engine.done:
                continue
            if clock < node.clock:  # it has failed since
                self.wake(node)
                continue
            limit = until
            if (self.stops or self.level) and busy:
                limit = min(until, max(busy[0][0], float(np.nextafter(node.clock, np.inf))))
            self._run(node, limit)
            if self.stops and node.engine.completed > node.delivered:
                until = min(until, node.clock)
                self._hold(node)
            elif not node.engine.done:
                self.wake(node)

    def _run(self, node: Node, limit: float) -> None:
        """Run one engine up to a time, a goal or, where that matters, a completion."""
        engine, before = node.engine, node.engine.completed
        goal = before + 1 if self.stops else self.goal
        if self.report is None:
            reached = engine.advance(limit, goal)
        else:
            reached = advance_reporting(engine, limit, goal, self.report)
        if before < goal <= engine.completed:
            node.clock = reached
            if not self.stops:
                self.on_goal(reached)
        elif engine.done:
            node.clock = reached
        else:  # a step may end later, and what is yet to arrive here does so later
            node.clock = max(reached, limit)

    def _hold(self, node: Node) -> None:
        """Let completions have their effects at their time; the node stands still until then."""
        node.mark[X_HELD], life = 1, node.life

        def deliver() -> None:
            if node.life == life and node.held:
                self.deliver(node)

        call_at(self.env, node.clock, deliver)

    def deliver(self, node: Node) -> None:
        """Let a node's completions have their effects now."""
        node.mark[X_HELD] = 0
        self.on_completion(node)
        if not node.engine.done:
            self.wake(node)
