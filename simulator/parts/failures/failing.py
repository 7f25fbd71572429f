"""Failures of nodes: a failed node loses its KV cache, and the router requeues its requests.

No output is lost: requests keep the tokens generated so far, and their KV caches are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ....devices.spec import SystemSpec
from ....workloads.errors import InputError, typed_number
from ...fleet.assigner import Assigner
from ...fleet.clock import Clock
from ...fleet.combined import RunPart
from ...fleet.driver import Driver
from ...fleet.nodes import Node
from ...fleet.pools import Fleet
from ...limits import MIN_MTBF_S
from ...results.table import RequestTable
from ...scenario.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Faults:
    """Failures of replicas; a fault takes effect at the end of the step that it falls into."""

    at: tuple[tuple[int, float], ...] = ()  # replica and time [s] of single failures
    # mean time between failures of one replica, `limits.MIN_MTBF_S` or more; gaps are exponential.
    # None = none at random.
    mtbf_s: float | None = None
    repair_s: float = 0.0  # time until a failed replica, empty, takes requests again

    def __post_init__(self) -> None:
        for what, value in (("--mtbf", self.mtbf_s), ("--repair", self.repair_s)):
            if value is not None and not (value > 0 or (what == "--repair" and value == 0)):
                raise InputError(what, f"must be a positive number of seconds, not {value}")
        if self.mtbf_s is not None and self.mtbf_s < MIN_MTBF_S:
            raise InputError("--mtbf", f"must be at least {MIN_MTBF_S:g} seconds, not {self.mtbf_s}")
        for replica, time in self.at:
            if replica < 0 or not time >= 0:
                raise InputError("--fail", f"must be REPLICA@SECONDS, both numbers at least 0, not {replica}@{time}")

    def times(self, replica: int, seed: int) -> Iterator[float]:
        """Yield the failure times of one replica in order [s]; endless with an `mtbf_s`."""
        given = sorted(time for failing, time in self.at if failing == replica)
        if self.mtbf_s is None:
            yield from given
            return
        rng = np.random.default_rng([seed, 0xFA, replica])
        now = 0.0
        while True:
            drawn = now + float(rng.exponential(self.mtbf_s))
            while given and given[0] <= drawn:
                yield given.pop(0)
            yield drawn
            now = drawn


def parse_faults(fail: Sequence[str] = (), mtbf: float | None = None, repair: float | None = None) -> Faults | None:
    """Parse the failure options; return None without any.

    Raises
    ------
    InputError
        A value out of its range, or a failure that is not written REPLICA@SECONDS.
    """
    if repair is not None and mtbf is None and not fail:
        raise InputError("--repair", "has no effect without failures; add --mtbf or --fail")
    return Faults(tuple(map(_failure, fail)), mtbf, repair or 0.0) if fail or mtbf is not None else None


def _failure(text: str) -> tuple[int, float]:
    replica, _, seconds = text.partition("@")
    time = typed_number(seconds)
    if not replica.lstrip("+-").isdecimal() or math.isnan(time):
        raise InputError("--fail", f"must be REPLICA@SECONDS, for example 0@12.5, not {text!r}")
    return int(replica), time


MOST_FAILURES = 1_000_000
"""Most failures in a run, which take about half a minute to simulate; a run with more is refused."""


@dataclass(slots=True)
class Failures(RunPart):
    """Schedules failures and recoveries of nodes."""

    clock: Clock
    table: RequestTable
    assigner: Assigner
    faults: Faults
    failures: int = 0  # nodes that failed

    def start(self, seed: int) -> None:
        """Schedule the first failure of each node; `seed` is the seed of random failures."""
        known, random = {index for index, _ in self.faults.at}, self.faults.mtbf_s is not None
        for node in self.clock.all:
            if random or node.index in known:
                self._next(node, self.faults.times(node.index, seed))

    def _next(self, node: Node, times: Iterator[float]) -> None:
        """Schedule a node's failure at the next of the given times [s]."""
        time = next(times, None)
        if time is not None:
            self.clock.call_at(time, partial(self._fail, node, times))

    def _fail(self, node: Node, times: Iterator[float]) -> None:
        """Let a node fail at the end of its running step, unless it is down or off; schedule its next failure."""
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
            raise InputError("--mtbf", f"gives more than {MOST_FAILURES:,} failures in this run; use a larger value")
        lost = self._unfinished(node) + self.clock.lose_parked(node)
        node.fail(now)
        node.up, node.failing = False, False
        self.assigner.put_back(lost, now)
        self.clock.call_after(self.faults.repair_s, partial(setattr, node, "up", True))

    def _unfinished(self, node: Node) -> list[int]:
        """Return the unfinished requests of a node, after copying their progress to the table."""
        places, rows = node.untaken()
        self.table.take_over_all(node.engine, places, rows)
        unfinished = self.table.generated[rows] < self.table.output_tokens[rows]
        lost: list[int] = rows[unfinished].tolist()
        return [*lost, *node.asked]


def of_run(driver: Driver) -> Failures | None:
    """Return the failures of a run; None if it has none."""
    faults = driver.asked.fleet.faults
    return None if faults is None else Failures(driver.clock, driver.table, driver.assigner, faults)


def with_failures(scenario: Scenario, _: SystemSpec, fleet: Fleet | None) -> Fleet | None:
    """Return the fleet with the failures that the options ask for; the unchanged fleet without any."""
    asked = scenario.parts["failures"]
    faults = parse_faults(asked.fail, asked.mtbf, asked.repair)
    return fleet if faults is None else replace(fleet or Fleet(), faults=faults)
