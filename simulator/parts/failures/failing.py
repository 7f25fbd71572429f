"""What happens when a node fails: its caches are gone, its requests begin again elsewhere.

Nothing is lost: requests go back to the router with the tokens that they have, and their caches are computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from ....devices.spec import SystemSpec
from ....workloads.errors import InputError
from ...scenario.scenario import Scenario
from ...serving.clock import Clock
from ...serving.dealing import Dealer
from ...serving.driver import Driver
from ...serving.nodes import Node
from ...serving.pools import Fleet
from ...serving.run_part import RunPart
from ...serving.table import RequestTable
from .faults import Faults, parse_faults

MOST_FAILURES = 1_000_000
"""Failures after which a run is refused, about half a minute of them."""


@dataclass(slots=True)
class Failures(RunPart):
    """Failures and recoveries of nodes."""

    clock: Clock
    table: RequestTable
    dealer: Dealer
    faults: Faults
    failures: int = 0  # nodes that failed

    def start(self, seed: int) -> None:
        """Begin at time 0; `seed` is for random failures."""
        known, random = {index for index, _ in self.faults.at}, self.faults.mtbf_s is not None
        for node in self.clock.all:
            if random or node.index in known:
                self._next(node, self.faults.times(node.index, seed))

    def _next(self, node: Node, times: Iterator[float]) -> None:
        """Let a node fail at the next of given times."""
        time = next(times, None)
        if time is not None:
            self.clock.call_at(time, partial(self._fail, node, times))

    def _fail(self, node: Node, times: Iterator[float]) -> None:
        """Let a node fail, unless it is down or off; at the end of the step under way."""
        self._next(node, times)
        gone = not node.ready and node.engine.done and not node.promised
        if not (not node.up or node.failing or gone):
            node.failing = True
            if not node.engine.done and node.clock > self.clock.now:
                self.clock.call_at(node.clock, partial(self._lose, node))
            else:
                self._lose(node)

    def _lose(self, node: Node) -> None:
        """Fail a node: its requests are requeued, and it restarts empty."""
        if node.halted:  # its completions have their effects first
            self.clock.at.node = node.index
            self.clock.call_after(0.0, partial(self._lose, node))
            return
        now = max(self.clock.now, node.clock)
        self.failures += 1
        if self.failures > MOST_FAILURES:
            raise InputError("--mtbf", f"gives more than {MOST_FAILURES:,} failures")
        lost = self._unfinished(node) + self.clock.lose_parked(node)
        node.fail(now)
        node.up, node.failing = False, False
        self.dealer.put_back(lost, now)
        self.clock.call_after(self.faults.repair_s, partial(setattr, node, "up", True))

    def _unfinished(self, node: Node) -> list[int]:
        """Requests that have not completed on a node, their progress kept."""
        places, rows = node.untaken()
        self.table.take_over_all(node.engine, places, rows)
        unfinished = self.table.generated[rows] < self.table.output_tokens[rows]
        lost: list[int] = rows[unfinished].tolist()
        return [*lost, *node.asked]


def of_run(driver: Driver) -> Failures | None:
    """Failures of a run that has some."""
    faults = driver.asked.fleet.faults
    return None if faults is None else Failures(driver.clock, driver.table, driver.dealer, faults)


def with_failures(scenario: Scenario, _: SystemSpec, fleet: Fleet | None) -> Fleet | None:
    """A fleet whose replicas fail as options say."""
    asked = scenario.parts["failures"]
    faults = parse_faults(asked.fail, asked.mtbf, asked.repair)
    return fleet if faults is None else replace(fleet or Fleet(), faults=faults)
