"""From prefill to decode: caches that wait, and their way over the link.

A prompt runs in the prefill pool, which emits the first token; its KV cache waits there until a
decode node has room for the request, crosses the link, and the request goes on decoding. Its blocks
are kept on the one side until the cache has crossed, and on the other from before it leaves.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from ..batching.policies import Policy
from ..batching.state import F8
from .calls import call_at
from .dealing import Dealer
from .nodes import Node, Nodes
from .pools import KvLink, cross
from .table import Table


@dataclass(frozen=True, slots=True)
class Moves:
    """Caches on their way, a row a request; NaN where none was sent."""

    # when a cache left and when it was there [s]; of one that was sent again, the last time
    start_s: F8
    end_s: F8
    total_bytes: float  # all that has crossed the link
    count: int  # caches that have


@dataclass(slots=True)
class Transfers:
    """Requests between the two pools."""

    nodes: Nodes
    table: Table
    dealer: Dealer
    policy: Policy  # of the decode nodes
    link: KvLink | None  # what caches cross, device by device
    # requests prefilled on a node in that life, in order
    ready: deque[tuple[int, Node, int]] = field(default_factory=deque)
    moved_bytes: float = 0.0  # KV caches that have crossed the link
    count: int = 0  # how many have
    _sent: int = 0
    _stamps: dict[int, tuple[float, float]] = field(default_factory=dict)

    def send(self, now: float) -> None:
        """Let caches leave, in order, while a decode node has room for the request."""
        table, decode = self.table, self.nodes.decode
        while self.ready:
            row, source, _ = self.ready[0]
            tokens = int(table.input_tokens[row] + table.output_tokens[row] - 1)
            tokens = tokens if self.policy.reserve else table.cached(row) + 1
            able = [
                n
                for n in decode
                if n.up and n.ready and self._has_slot(n) and n.fits(n.need(tokens))
            ]
            if not able:
                return
            target = self.dealer.choose(able, self._sent, now, None)
            _, _, life = self.ready.popleft()
            self._sent += 1
            held = self.dealer.kept[row]
            target.inbound += 1
            self.dealer.keep(target, row, target.need(tokens))
            self._leave(row, source, life, held, target, now)

    def _has_slot(self, node: Node) -> bool:
        """Whether a node has a sequence to spare."""
        most = self.policy.max_sequences * node.engine.deployment.ranks
        return node.live + node.inbound < most

    def _leave(
        self, row: int, source: Node, life: int, held: float, target: Node, now: float
    ) -> None:
        """Send a cache on its way; what its arrival does comes at the time of that."""
        env, table = self.nodes.env, self.table
        assert self.link is not None
        total = float(target.received(np.array([table.cached(row)]))[0])
        wire_s = total / (self.link.bandwidth_bytes_per_s * min(source.lanes, target.lanes))
        begun = now
        if self.link.by_layer and now == table.last_s[row] and not self.dealer.restarts[row]:
            begun = float(table.scheduled_s[row])  # it had room at once
        layers = len(source.engine.deployment.model.layers)
        start, end = cross(self.link, source.ports, target.ports, now, begun, wire_s, layers)
        target_life = target.life

        def arrive() -> None:
            self.moved_bytes += total
            self.count += 1
            self._stamps[row] = start, end
            self._arrive((row, source, life), held, target, target_life, end)

        call_at(env, end, arrive)

    def _arrive(
        self, entry: tuple[int, Node, int], held: float, target: Node, target_life: int, now: float
    ) -> None:
        """Let a cache be there, unless one of its ends has failed meanwhile."""
        dealer, (row, source, life) = self.dealer, entry
        alive = target.life == target_life
        if alive:
            target.inbound -= 1
        if source.life != life:  # the cache went down with its node
            if alive:
                target.forget(dealer.kept[row])
            dealer.put_back([row], now)
        elif not alive:
            dealer.kept[row] = held
            self.ready.appendleft(entry)
        else:
            source.forget(held)
            dealer.submit(target, row, now, cached=self.table.cached(row))
        self.send(now)
        dealer.deal(now)

    def lost(self, node: Node) -> list[int]:
        """Requests whose caches wait on a node that fails."""
        rows = [row for row, source, _ in self.ready if source is node]
        kept = [entry for entry in self.ready if entry[1] is not node]
        self.ready.clear()
        self.ready.extend(kept)
        return rows

    def moves(self) -> Moves:
        """All that has crossed the link."""
        rows = np.fromiter(self._stamps, np.int64, len(self._stamps))
        stamps = np.full((2, self.table.count), np.nan)
        flat = array("d", (x for both in self._stamps.values() for x in both))
        stamps[:, rows] = np.frombuffer(flat).reshape(-1, 2).T
        return Moves(stamps[0], stamps[1], self.moved_bytes, self.count)
