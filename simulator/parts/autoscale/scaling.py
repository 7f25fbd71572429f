"""Replicas that start and stop: an autoscaler on the clock of the simulation.

All possible replicas have engines from the start; which of them have devices and accept requests changes. A requested
replica starts, then serves. A released one accepts no new requests, finishes its own, and is empty if it is requested
again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np

from ....devices.spec import SystemSpec
from ....workloads.errors import InputError
from ...engine.state import F8
from ...fleet.assigner import Assigner
from ...fleet.clock import Clock
from ...fleet.combined import RunPart
from ...fleet.driver import Driver
from ...fleet.nodes import Node
from ...fleet.pools import Fleet
from ...results.table import RequestTable
from ...scenario.scenario import Scenario
from ..experts_apart.holders import devices_apart, devices_of
from .asked import OPTION, Autoscale, parse_autoscale
from .replicas import Phase, ReplicaSpan, Scaling, start_up_s
from .scalers import SCALERS, Seen, asks_ttft

TOLERANCE = 0.1
"""A number that is wrong by less than this share stays (Kubernetes' HorizontalPodAutoscaler,
``--horizontal-pod-autoscaler-tolerance``)."""


@dataclass(slots=True)
class Replica:
    """One replica of the system, with its current phase."""

    index: int
    nodes: list[Node]  # its independent engines
    phase: Phase | None = None  # none while it holds no devices
    since: float = 0.0  # when the phase began [s]
    starts: int = 0  # how often it has been asked for, which tells a start that was called off


@dataclass(slots=True)
class Firsts:
    """First tokens of the fleet's requests, for rules that use measured TTFTs."""

    window: float  # how long they are kept [s]
    pool: range  # numbers of the nodes that make them
    _open: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    _come: deque[tuple[float, float]] = field(default_factory=deque)
    _looked: float = -np.inf

    def note(self, node: Node, row: int) -> None:
        """Record that a request was assigned to a node."""
        if node.index not in self.pool:
            return
        place = node.engine.submitted - 1
        self._open.setdefault(node.index, []).append((place, row, node.life))

    def look(self, nodes: Clock, table: RequestTable, gate: Sequence[int], now: float, late: float) -> F8:
        """Return the TTFTs within the window, and the waiting times that exceed `late` already [s]."""
        waits = [now - table.arrival_s[row] for row in gate if np.isnan(table.first_s[row])]
        for node in nodes.entry:
            waits += [now - table.arrival_s[row] for row in node.asked]
            open_requests = [x for x in self._open.get(node.index, ()) if x[2] == node.life]
            if not open_requests:
                self._open.pop(node.index, None)
                continue
            places, rows, _ = np.array(open_requests).T
            first, arrival = node.engine.state.requests.first[places], table.arrival_s[rows]
            came = first <= now  # one that is yet to come is not a number, or ahead of now
            new = came & (first > self._looked)  # others had theirs before a failure put them back
            self._come.extend(zip(first[new].tolist(), (first - arrival)[new].tolist(), strict=True))
            waits += (now - arrival[~came]).tolist()
            self._open[node.index] = [x for x, done in zip(open_requests, came, strict=True) if not done]
        self._looked = now
        if len(self._come) > 1:
            self._come = deque(sorted(self._come))
        while self._come and self._come[0][0] <= now - self.window:
            self._come.popleft()
        ttfts = [ttft for _, ttft in self._come] + [wait for wait in waits if wait > late]
        return np.array(ttfts, dtype=np.float64)


def _used(node: Node) -> float:
    """Return the used share of a node's KV capacity; with two pools this includes caches reserved for transfer."""
    engine = node.engine
    used = 1.0 - float(np.mean(engine.state.free)) / engine.kv.capacity
    return max(used, float(node.promised / node.capacity))


def _ended(node: Node, now: float) -> float:
    """Return the time of an idle node's last step or last KV transfer, at most `now` [s]."""
    return max(node.engine.now, min(float(node.sent_s), now))


@dataclass(slots=True)
class Scaler:
    """Decides at intervals on the number of replicas, of all nodes or of one of two pools."""

    spec: Autoscale
    start_s: float  # seconds that a replica takes to start
    clock: Clock
    table: RequestTable
    assigner: Assigner
    each: int  # independent engines of a replica
    pool: list[Node]  # engines of all replicas that there may be
    gate: Callable[[], Sequence[int]]  # requests that wait for a replica, of a decode pool their caches
    replicas: list[Replica] = field(init=False)
    _spans: list[ReplicaSpan] = field(default_factory=list)
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _firsts: Firsts | None = None

    def __post_init__(self) -> None:
        pool, per_replica = self.pool, self.each
        count = len(pool) // per_replica
        self.replicas = [Replica(i, pool[i * per_replica : (i + 1) * per_replica]) for i in range(count)]
        for replica in self.replicas:
            self._turn(replica, "ready" if replica.index < self.spec.first else None, 0.0)
        if self.spec.by is not None and self.spec.decides and asks_ttft(SCALERS[self.spec.by]):
            self._firsts = Firsts(self.spec.window, range(len(self.clock.entry)))
            self.assigner.told = self._firsts.note

    def start(self) -> None:
        """Begin at time 0; do nothing if the number of replicas cannot change."""
        if self.spec.decides:
            self._wanted.append((0.0, self.spec.first))
            self.clock.call_after(self.spec.every, self._decide)

    def _decide(self) -> None:
        now = self.clock.now
        self._release(now)
        self._aim(self._number(now))
        self.clock.call_after(self.spec.every, self._decide)

    def _turn(self, replica: Replica, phase: Phase | None, now: float) -> None:
        """Change the phase of a replica and record the previous one."""
        if replica.phase is not None:
            self._spans.append(ReplicaSpan(replica.index, replica.phase, replica.since, now))
        replica.phase, replica.since = phase, now
        for node in replica.nodes:
            node.ready = phase == "ready"

    def _in(self, *phases: Phase | None) -> list[Replica]:
        return [replica for replica in self.replicas if replica.phase in phases]

    def _release(self, now: float) -> None:
        """Release the devices of draining replicas whose requests have ended; their caches are lost."""
        for replica in self._in("draining"):
            if all(self._empty(node, now) for node in replica.nodes):
                ended = max(_ended(node, now) for node in replica.nodes)
                self._turn(replica, None, max(ended, replica.since))
                self.clock.take_logs()  # before what engines have logged since
                for node in replica.nodes:
                    places, rows = node.untaken()
                    self.table.take_over_all(node.engine, places, rows)
                    node.fail(now)

    def _empty(self, node: Node, now: float) -> bool:
        """Return whether a node has no requests left and all its completions were processed."""
        told = not self.clock.rules.stops or not node.live
        moved = node.promised < 1.0 and not node.inbound  # caches that were kept have left, or come
        return node.engine.done and not node.halted and told and moved and node.engine.now <= now

    def _seen(self, now: float) -> Seen:
        """Return the input of the rule."""
        ready, gate = self._in("ready"), self.gate()
        # Those that drain still have requests, which the fleet will be rid of by itself.
        loads = [node.load(now) for replica in ready for node in replica.nodes]
        used = [_used(node) for replica in ready for node in replica.nodes]
        coming = sum(node.inbound for replica in ready for node in replica.nodes)
        late = np.zeros(0)
        if self._firsts is not None:
            late = self._firsts.look(self.clock, self.table, gate, now, self.spec.target)
        return Seen(
            len(self._in("ready", "starting")), len(ready),
            len(gate) + sum(load.waiting for load in loads),
            coming + sum(load.running for load in loads),
            sum(used) / self.each, late, self.spec.share,
        )  # fmt: skip

    def _number(self, now: float) -> int:
        """Return the target number of replicas; reductions are applied only after they were wanted for a while."""
        assert self.spec.by is not None
        seen, least = self._seen(now), self.spec.least
        wanted = SCALERS[self.spec.by](seen, self.spec.target)
        have = seen.replicas
        number = have if have and abs(wanted / have - 1.0) <= TOLERANCE else ceil(wanted)
        if self.gate():  # somebody waits for the first one
            least = max(least, 1)
        number = min(max(number, least), self.spec.most)
        history = self._wanted
        history.append((now, number))
        while history[0][0] < now - self.spec.hold:
            history.popleft()
        return number if number >= have else min(have, max(n for _, n in history))

    def _aim(self, number: int) -> None:
        """Start replicas, or release some: first those that are starting, then the latest ones."""
        now = self.clock.now
        have = self._in("ready", "starting")
        for replica in self._in(None)[: max(number - len(have), 0)]:
            self._ask(replica)
        surplus = sorted(have, key=lambda r: (r.phase == "ready", -r.since, -r.index))[: max(len(have) - number, 0)]
        for replica in surplus:
            self._turn(replica, "draining" if replica.phase == "ready" else None, now)
        if surplus:
            self._release(now)

    def _ask(self, replica: Replica) -> None:
        """Start a replica, which serves after its start-up time."""
        replica.starts += 1
        self._turn(replica, "starting", self.clock.now)
        asked = replica.starts

        def serve() -> None:
            if replica.phase == "starting" and replica.starts == asked:
                self._turn(replica, "ready", self.clock.now)

        if self.start_s:
            self.clock.call_at(self.clock.now + self.start_s, serve)
        else:
            serve()

    def scaling(self) -> Scaling:
        """Return the history so far; current replicas are kept forever."""
        spans = list(self._spans)
        for replica in self.replicas:
            if replica.phase is not None:
                until = max(_ended(node, np.inf) for node in replica.nodes)
                until = max(until, replica.since) if replica.phase == "draining" else np.inf
                spans.append(ReplicaSpan(replica.index, replica.phase, replica.since, until))
        deployment = self.pool[0].engine.deployment
        devices = devices_of(deployment) + devices_apart(deployment)
        return Scaling(self.spec, self.start_s, devices, deployment.system.device, tuple(spans))


class Scalers(RunPart):
    """Autoscalers of a run: one for all nodes, or one for each of two pools."""

    def __init__(self, driver: Driver, scales: Sequence[Autoscale | None]) -> None:
        self.driver = driver
        self.scalers = [None if scale is None else self._scaler(scale, i > 0) for i, scale in enumerate(scales)]

    def _scaler(self, autoscale: Autoscale, decodes: bool) -> Scaler:
        """Build the autoscaler of the entry nodes, or of the other nodes."""
        pools, clock = self.driver.pools, self.driver.clock
        deployment = (pools.decode if decodes else pools.entry)[0]
        start_s = autoscale.start
        if start_s is None:
            start_s = start_up_s(deployment) if autoscale.decides else 0.0
        pool = clock.decode if decodes else clock.entry
        return Scaler(
            autoscale, start_s, clock, self.driver.table, self.driver.assigner, deployment.replicas, pool,
            lambda: clock.parked if decodes else clock.waiting,
        )  # fmt: skip

    def start(self, seed: int) -> None:
        for scaler in self.scalers:
            if scaler is not None:
                scaler.start()

    def left(self) -> dict[str, Any]:
        return {"presence": tuple(None if s is None else s.scaling() for s in self.scalers)}


def of_run(driver: Driver) -> Scalers | None:
    """Return the autoscalers of a run; None if it has none.

    Raises
    ------
    InputError
        One for a system that is split in two pools.
    """
    pools, autoscale = driver.pools, driver.asked.fleet.autoscale
    if autoscale is not None and pools.decode:
        reason = "cannot be combined with separate pools; with --decode use --prefill-autoscale and --decode-autoscale"
        raise InputError(OPTION, reason)
    scales = pools.scales if pools.decode else (autoscale, None)
    return Scalers(driver, scales) if any(scale is not None for scale in scales) else None


def with_autoscale(scenario: Scenario, _: SystemSpec, fleet: Fleet | None) -> Fleet | None:
    """Return a fleet with the autoscaler of the options."""
    text = scenario.parts["autoscale"].autoscale
    return fleet if text is None else scaled_fleet(fleet, text, scenario.fleet.replicas)


def scaled_fleet(fleet: Fleet | None, text: str, replicas: int | None) -> Fleet:
    """Return a fleet with the autoscaler given as text, which also sets the number of replicas.

    Raises
    ------
    InputError
        A number of replicas beside it, or what `parse_autoscale` refuses.
    """
    scaled = parse_autoscale(text)
    if replicas is not None:
        raise InputError(
            "--replicas", f"cannot be combined with {OPTION}, which sets the number of replicas; remove one"
        )
    return replace(fleet or Fleet(), replicas=scaled.most, autoscale=scaled)
