"""Where requests come from: in time, or from the clients of a closed loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import numpy as np
import simpy

from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock
from .dealing import Dealer
from .sessions import Sessions
from .table import Table

Process = Generator[simpy.Event, Any, None]


@dataclass(slots=True)
class Arrivals:
    """Reads a stream and lets its requests arrive."""

    table: Table
    dealer: Dealer
    sessions: Sessions  # lets requests come after others
    blocks: Iterator[RequestBlock]  # the stream
    clients: int | None  # those of a closed loop
    # deal blocks before their requests arrive: nobody has to look at the nodes then, and the
    # engines release them in time. A closed loop is dealt so to a single engine, which plays the
    # clients itself.
    whole: bool
    # whether failures may let prompts be computed again, with what has been generated
    again: bool = False
    # take in what blocks say of requests besides
    readers: Sequence[Callable[[RequestBlock], None]] = ()
    exhausted: bool = False  # whether all requests have been read
    drain: Callable[[], None] | None = None  # lets go of what has completed, before each block
    _in_flight: int = 0  # of a closed loop, thinking ones too
    _backlog: Iterator[int] = field(default_factory=lambda: iter(()))

    def start(self, env: simpy.Environment) -> None:
        """Begin at time 0."""
        closed = self.clients is not None
        if closed and self.whole:
            for block in self.blocks:
                self.dealer.deal_block(block, self.read(block))
            self.exhausted = True
        elif closed:
            self._backlog = (row for block in self.blocks for row in self.read(block))
            self._next_clients(env.now)
        elif self.whole:
            env.process(self._in_blocks(env))
        else:
            env.process(self._one_by_one(env))

    def completed(self, followed: bool, now: float) -> None:
        """A request has completed, and its client goes on with another of its session or not."""
        if self.clients is not None:
            self._in_flight -= not followed
            self._next_clients(now)

    def read(self, block: RequestBlock) -> range:
        """Take in a block; refuses requests that a node could never hold."""
        nodes = self.dealer.nodes
        first = nodes.entry[0].engine
        if nodes.decode and not self.again:  # of two pools the first holds prompts alone
            first.check(replace(block, output_tokens=np.ones_like(block.output_tokens)))
        else:
            first.check(block)
        for node in nodes.decode[:1]:
            node.engine.check(block)
        longest = int((block.input_tokens + block.output_tokens).max(initial=0))
        for node in nodes.all:
            node.engine.widen(longest)
            node.stale.add(node.index)
        if self.clients is not None and block.turns is not None and block.turns.after is not None:
            reason = "cannot go with calls that wait for several others (after)"
            raise InputError("--closed-loop", reason)
        for read in self.readers:
            read(block)
        return self.table.append(block)

    def _in_blocks(self, env: simpy.Environment) -> Process:
        """Deal blocks, each before its first request arrives."""
        for block, horizon in _with_horizon(self.blocks):
            if self.drain is not None:
                self.drain()
            self.dealer.deal_block(block, self.read(block))
            if np.isfinite(horizon):
                yield env.timeout(max(horizon - env.now, 0.0))
        self.exhausted = True

    def _one_by_one(self, env: simpy.Environment) -> Process:
        """Deal requests when they arrive."""
        for block in self.blocks:
            rows = self.read(block)
            waits = repeat((), len(block)) if block.turns is None else block.turns.waits()
            for row, at, before in zip(rows, block.arrival_s.tolist(), waits, strict=True):
                if at > env.now:
                    yield env.timeout(at - env.now)
                if before:
                    self.sessions.follow(row, before)
                else:
                    self.dealer.arrive(row, at)
        self.exhausted = True

    def _next_clients(self, now: float) -> None:
        """Clients of a closed loop that have nothing to do send their next requests.

        A client stays with its session: what follows a request that is not done waits for that.
        """
        clients, table = self.clients or 0, self.table
        while self._in_flight < clients and not self.exhausted:
            row = next(self._backlog, None)
            if row is None:
                self.exhausted = True
            elif not len(table.follows) or table.follows[row] < 0:
                self._in_flight += 1
                table.arrival_s[row] = now
                self.dealer.arrive(row, now)
            else:
                self._in_flight += self.sessions.follow(row, table.waits(row))


def _with_horizon(blocks: Iterator[RequestBlock]) -> Iterator[tuple[RequestBlock, float]]:
    """Each block with the time up to which all arrivals are then known (infinity at the end)."""
    held: RequestBlock | None = None
    for block in blocks:
        if held is not None:
            yield held, float(block.arrival_s[0])
        held = block
    if held is not None:
        yield held, np.inf
