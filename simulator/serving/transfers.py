"""From prefill to decode: caches that wait, and their way over the link.

A prompt runs in the prefill pool, which emits the first token; its KV cache waits there until the
decode pool has room for the whole request, crosses the link, and the request goes on decoding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from ...devices.spec import LinkSpec
from ..batching.policies import Policy
from .dealing import Dealer
from .nodes import Node, Nodes
from .table import Table

Process = Generator[simpy.Event, Any, None]


@dataclass(slots=True)
class Transfers:
    """Requests between the two pools.

    Attributes
    ----------
    nodes : Nodes
    table : Table
    dealer : Dealer
    policy : Policy
    link : LinkSpec or None
        What caches cross, device by device.
    ready : deque of (int, Node, int)
        Requests prefilled on a node in that life, in order.
    moved_bytes : float
        KV caches that have crossed the link.
    """

    nodes: Nodes
    table: Table
    dealer: Dealer
    policy: Policy
    link: LinkSpec | None
    ready: deque[tuple[int, Node, int]] = field(default_factory=deque)
    moved_bytes: float = 0.0
    _sent: int = 0

    def send(self) -> None:
        """Start transfers, in order, while a decode node has room for the whole request."""
        table = self.table
        while self.ready:
            row, source, _ = self.ready[0]
            tokens = int(table.input_tokens[row] + table.output_tokens[row] - 1)
            size = source.need(tokens if self.policy.reserve else table.cached(row) + 1)
            able = [n for n in self.nodes.decode if n.up and n.fits(size) and self._has_slot(n)]
            if not able:
                return
            target = self.dealer.choose(able, self._sent, self.nodes.env.now, None)
            _, _, life = self.ready.popleft()
            self._sent += 1
            held = self.dealer.kept[row]
            target.inbound += 1
            self.dealer.keep(target, row, size)  # now, not when the process starts
            self.nodes.env.process(self._transfer(row, source, life, held, target))

    def _has_slot(self, node: Node) -> bool:
        """Whether a node has a sequence to spare."""
        most = self.policy.max_sequences * node.engine.deployment.ranks
        return node.live + node.inbound < most

    def _transfer(self, row: int, source: Node, life: int, held: float, target: Node) -> Process:
        """Move a KV cache: every device of one side sends to one of the other, at once."""
        env, dealer = self.nodes.env, self.dealer
        size, target_life = dealer.kept[row], target.life
        with source.port.request() as out, target.port.request() as into:
            yield out & into
            sides = [n.engine.deployment.layout.tp for n in (source, target)]
            total = source.need(self.table.cached(row)) * sides[0]
            assert self.link is not None
            rate = self.link.bandwidth_bytes_per_s * min(sides)
            yield env.timeout(self.link.latency_s + total / rate)
        self.moved_bytes += total
        alive = target.life == target_life
        if alive:
            target.inbound -= 1
        if source.life != life:  # the cache went down with its node
            if alive:
                target.forget(size)
            dealer.put_back([row], env.now)
        elif not alive:
            dealer.kept[row] = held
            self.ready.appendleft((row, source, life))
        else:
            source.forget(held)
            dealer.submit(target, row, env.now, cached=self.table.cached(row))
        self.send()
        dealer.deal(env.now)

    def lost(self, node: Node) -> list[int]:
        """Requests whose caches wait on a node that fails."""
        rows = [row for row, source, _ in self.ready if source is node]
        self.ready = deque(entry for entry in self.ready if entry[1] is not node)
        return rows
