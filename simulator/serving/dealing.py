"""Dealing requests to nodes: in order of arrival, to the node that the router chooses."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import overload

import numpy as np

from ...workloads.requests import RequestBlock
from .adapters import AdapterCounts, Choices, Shelf, load_seconds
from .faults import check_restarts
from .host_link import HostLink
from .nodes import Node, Nodes
from .prefixes import Prompt, prompt_of
from .routers import Load, Route, asks_prefix, round_robin
from .table import Table

UNSEEN = Load(0, 0)


@dataclass(slots=True)
class Dealer:
    """Puts requests on nodes."""

    table: Table
    nodes: Nodes
    route: Route  # chooses a node
    # what requests pass before they are admitted: takes a row and the time
    entrance: Callable[[int, float], None] | None = None
    # is told of each request that has been given to a node
    told: Callable[[Node, int], None] | None = None
    # whether a request that arrives is let in at all: takes a row and the time
    door: Callable[[int, float], bool] | None = None
    # requests that wait because no entry node is up, or has room
    gate: deque[int] = field(default_factory=deque)
    dealt: int = 0  # requests dealt so far
    # how often each request has been put back because of a failure
    restarts: Counter[int] = field(default_factory=Counter)
    # of two pools: KV bytes of one device that its present node keeps for a request
    kept: dict[int, float] = field(default_factory=dict)
    _homes: dict[int, Node] = field(default_factory=dict)  # where a session's last request ran

    @property
    def looks(self) -> bool:
        """Whether the choice depends on the nodes' loads."""
        pools = self.nodes.entry, self.nodes.decode
        return self.route is not round_robin and max(map(len, pools)) > 1

    def arrive(self, row: int, now: float) -> None:
        """Deal a request that arrives now, behind those that wait, once it is past the entrance."""
        if self.door is not None and not self.door(row, now):
            self.table.refused.append(row)
            return
        (self.entrance or self.admit)(row, now)

    def admit(self, row: int, now: float) -> None:
        """Deal a request behind those that wait."""
        self.gate.append(row)
        self.deal(now)

    def put_back(self, rows: Sequence[int], now: float) -> None:
        """Put requests that a failure met at the front of the gate, in order of arrival.

        Raises
        ------
        InputError
            A request that has met too many.
        """
        arrival, ids = self.table.arrival_s, self.table.id
        for row in rows:
            self.restarts[row] += 1
            check_restarts(int(ids[row]), self.restarts[row])
        self.gate.extendleft(sorted(rows, key=lambda i: (arrival[i], i), reverse=True))
        self.deal(now)

    def deal(self, now: float) -> None:
        """Give waiting requests to entry nodes, in order, while one is up and has room.

        Only prompts whose caches must wait here for the decode pool need room kept: other
        queues are the engine's own.
        """
        table, pooled = self.table, bool(self.nodes.decode)
        while self.gate:
            up = [node for node in self.nodes.entry if node.up and node.ready]
            if not up:
                return
            row = self.gate[0]
            prompt = prompt_of(table, row) if self.prefixes else None
            node = self.choose(up, self.dealt, now, self._home(row, up), prompt)
            if pooled:
                size = node.need(int(table.input_tokens[row] + table.generated[row]))
                if not node.fits(size):
                    return
                self.keep(node, row, size)
            self.gate.popleft()
            self.dealt += 1
            if prompt is not None:
                node.remember(prompt)
            if len(table.session):
                self._homes[int(table.session[row])] = node
            self.submit(node, row, now, cached=0)

    @property
    def prefixes(self) -> bool:
        """Whether the choice depends on what nodes were sent of a prompt before."""
        return self.looks and asks_prefix(self.route)

    def choose(
        self, nodes: list[Node], count: int, now: float, home: int | None,
        prompt: Prompt | None = None,
    ) -> Node:  # fmt: skip
        """Return the node that the router takes after `count` others."""
        loads = _Loads(nodes, now, prompt) if self.looks else [UNSEEN] * len(nodes)
        return nodes[self.route(count, loads, home)]

    def _home(self, row: int, up: list[Node]) -> int | None:
        """Which of some nodes the session of a request ran on last."""
        if not self._homes:
            return None
        node = self._homes.get(int(self.table.session[row]))
        return next((i for i, n in enumerate(up) if n is node), None)

    def shelve(self, seed: int) -> tuple[Choices, AdapterCounts]:
        """Give every node slots for adapters; which of these requests use, and what they ask of all slots."""
        tenants, counts = self.nodes.entry[0].engine.deployment.tenants, AdapterCounts()
        assert tenants is not None
        choices = Choices(tenants, seed)
        for node in self.nodes.all:
            engine, queue = node.engine, partial(self.queue, node)
            how = HostLink(engine), load_seconds(engine.deployment), counts, queue, node.asked
            node.shelf = Shelf(self.nodes.env, choices, *how)
        return choices, counts

    def submit(self, node: Node, row: int, now: float, cached: int) -> None:
        """Give a request to a node, which queues it once its adapter is there."""
        node.held_tokens += int(self.table.input_tokens[row])
        if node.shelf is None:
            self.queue(node, row, now, cached)
        else:
            node.shelf.ask(row, now, cached)

    def queue(self, node: Node, row: int, now: float, cached: int) -> None:
        """Queue a request on a node; of two pools the first brings forth the next token only."""
        table = self.table
        generated = int(table.generated[row])
        last = generated + 1
        if not self.nodes.decode or cached:
            last = int(table.output_tokens[row])
        stamps = float(table.first_s[row]), float(table.last_s[row])
        node.engine.resume(table.single(row, now, last), generated, cached, *stamps)
        node.rows.append(row)
        if self.told is not None:
            self.told(node, row)
        self.nodes.wake(node)

    def deal_block(self, block: RequestBlock, rows: range) -> None:
        """Deal requests that have yet to arrive, in turn to all entry nodes."""
        entry = self.nodes.entry
        number = np.arange(rows.start, rows.stop)
        for i, node in enumerate(entry):
            mine = slice((i - self.dealt) % len(entry), None, len(entry))
            node.engine.add(_part(block, mine) if len(entry) > 1 else block)
            node.rows.frombytes(np.ascontiguousarray(number[mine]).tobytes())
            if not node.engine.done:
                self.nodes.wake(node)
        self.dealt += len(rows)

    def keep(self, node: Node, row: int, size: float) -> None:
        """Keep bytes of a node for a request."""
        self.kept[row] = size
        node.promised += size


@dataclass(frozen=True, slots=True)
class _Loads(Sequence[Load]):
    """Loads of nodes at one time, counted where a rule looks: many a request has a home."""

    nodes: list[Node]
    now: float
    prompt: Prompt | None

    def __len__(self) -> int:
        return len(self.nodes)

    @overload
    def __getitem__(self, i: int) -> Load: ...
    @overload
    def __getitem__(self, i: slice) -> list[Load]: ...
    def __getitem__(self, i: int | slice) -> Load | list[Load]:
        if isinstance(i, slice):
            return [node.load(self.now, self.prompt) for node in self.nodes[i]]
        return self.nodes[i].load(self.now, self.prompt)

    def __iter__(self) -> Iterator[Load]:
        return (node.load(self.now, self.prompt) for node in self.nodes)


def _part(block: RequestBlock, which: slice) -> RequestBlock:
    """Return some of the requests of a block."""
    return RequestBlock(
        block.request_id[which], block.arrival_s[which], block.input_tokens[which],
        block.output_tokens[which], None if block.hash_ids is None else block.hash_ids[which],
        None if block.turns is None else block.turns.take(which), block.hash_tokens,
        None if block.adapters is None else block.adapters[which],
        None if block.acceptance is None else block.acceptance[which],
        None if block.images is None else block.images[which],
        None if block.labels is None else block.labels.take(which),
    )  # fmt: skip
