"""What happens when a node fails: its caches are gone, its requests begin again elsewhere.

Nothing is lost: requests go back to the router with the tokens that they have, and their caches are
computed again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import simpy

from ...workloads.errors import InputError
from .dealing import Dealer
from .faults import Faults
from .nodes import Node, Nodes
from .table import Table
from .transfers import Transfers

Process = Generator[simpy.Event, Any, None]

MOST_FAILURES = 1_000_000
"""Failures after which a run is refused, about half a minute of them."""


@dataclass(slots=True)
class Failures:
    """Lets nodes fail and come back."""

    nodes: Nodes
    table: Table
    dealer: Dealer
    transfers: Transfers
    faults: Faults
    failures: int = 0  # nodes that failed

    def start(self, env: simpy.Environment, seed: int) -> None:
        """Begin at time 0; `seed` is that of random failures."""
        known, random = {index for index, _ in self.faults.at}, self.faults.mtbf_s is not None
        for node in self.nodes.all:
            if random or node.index in known:
                env.process(self._fail(env, node, self.faults.times(node.index, seed)))

    def _fail(self, env: simpy.Environment, node: Node, times: Iterator[float]) -> Process:
        """Let a node fail at given times, unless it is down or off; at the end of the step under way."""
        for time in times:
            if time > env.now:
                yield env.timeout(time - env.now)
            if (
                not node.up
                or node.failing
                or (not node.ready and node.engine.done and not node.promised)
            ):
                continue
            node.failing = True
            env.process(self._lose(env, node))

    def _lose(self, env: simpy.Environment, node: Node) -> Process:
        """A node fails: its requests go back, and it comes back empty."""
        if not node.engine.done and node.clock > env.now:
            yield env.timeout(node.clock - env.now)
        if node.held:
            self.nodes.deliver(node)
        now = max(env.now, node.clock)
        self.failures += 1
        if self.failures > MOST_FAILURES:
            raise InputError("--mtbf", f"gives more than {MOST_FAILURES:,} failures")
        lost = self._unfinished(node) + self.transfers.lost(node)
        node.fail(now)
        node.up, node.failing = False, False
        self.dealer.put_back(lost, now)
        yield env.timeout(self.faults.repair_s)
        node.up = True
        self.transfers.send(env.now)
        self.dealer.deal(env.now)

    def _unfinished(self, node: Node) -> list[int]:
        """Requests that have not completed on a node, their progress kept."""
        places, rows = node.untaken()
        self.table.take_over_all(node.engine, places, rows, arrivals=False)
        unfinished = self.table.generated[rows] < self.table.output_tokens[rows]
        lost: list[int] = rows[unfinished].tolist()
        return [*lost, *node.asked]
