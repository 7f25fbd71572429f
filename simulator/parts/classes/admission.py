"""Queues of engines by class or tenant, and rejection of requests by the limits of their class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....workloads.errors import InputError
from ....workloads.requests import RequestBlock, RequestStream
from ....workloads.requests.classes import RequestClass
from ...deploy.deployment import Deployment
from ...engine.engine import Engine
from ...engine.engine_part import EnginePart
from ...engine.orders import LANED
from ...engine.policies import Policy
from ...fleet.clock import Clock
from ...fleet.nodes import Node
from ...results.table import RequestTable
from ..sglang.state import SglangRules
from . import preempt, queue
from .class_queues import ClassLanes, LaneBook, LaneRules


def bounded(stream: RequestStream) -> bool:
    """Return whether a request of a stream may be rejected."""
    return any(c.bounded for c in stream.classes)


def check_bounds(stream: RequestStream, first: RequestBlock | None) -> None:
    """Refuse class limits if a rejected request would be sent again at once.

    Raises
    ------
    InputError
        A closed loop, or sessions.
    """
    chained = first is not None and first.turns is not None
    if bounded(stream) and (stream.closed_loop is not None or chained):
        raise InputError(
            "--classes", "max_waiting and max_wait need open-loop arrivals: remove --closed-loop and sessions"
        )


def laned(
    policy: Policy, deployment: Deployment, first: RequestBlock | None, stream: RequestStream, alone: bool
) -> tuple[Policy, LaneRules | None]:
    """Return a policy and the queues of its engines; none, and first come first served, if requests have no classes.

    Parameters
    ----------
    first : RequestBlock or None
        Of the stream.
    alone : bool
        Whether the engine itself turns requests away.

    Raises
    ------
    InputError
        Batching that knows one queue only.
    """
    if first is None or first.labels is None:
        return replace(policy, order="" if policy.order in LANED else policy.order), None
    order = policy.order if policy.order in LANED else ""
    if not order and not bounded(stream):
        return policy, None
    if order == "priority" and isinstance(policy.rules, SglangRules):
        if bounded(stream):
            raise InputError(
                f"--policy {policy.name}", "has one queue for all classes: remove max_waiting and max_wait"
            )
        return policy, None  # which keeps its queue in order by itself
    if policy.rules is not None or policy.prompts_alone or policy.holds_back:
        reason = "has one queue: remove +priority or +vtc, and max_waiting and max_wait of --classes"
        raise InputError(f"--policy {policy.name}", reason)
    if policy.order and not order:
        raise InputError(f"--policy {policy.name}", "has one queue for all classes: remove max_waiting and max_wait")
    most = tuple(c.max_waiting if alone else None for c in stream.classes)
    waits = tuple(c.max_wait if alone else None for c in stream.classes)
    return policy, LaneRules(order, most, waits)


class ClassQueues(EnginePart):
    """Queues of one engine by class, priority or tenant."""

    hooks = (queue.HOOKS, preempt.HOOKS)
    orders = True

    def __init__(self, engine: Engine) -> None:
        self.rules: LaneRules = engine.given["classes"]
        self.book, self._spread = LaneBook(self.rules), 0

    def start(self, engine: Engine) -> ClassLanes:
        self.book = LaneBook(self.rules)
        return self.rules.start(engine.deployment.ranks)

    def add(self, engine: Engine, block: RequestBlock, before: int) -> None:
        engine.put("classes", self.book.place(block, engine.parts["classes"], engine.state))

    def fail(self, engine: Engine, now: float) -> None:
        self._spread = self.spread(engine)

    def by_hand(self, engine: Engine) -> bool:
        return True

    def refused(self, engine: Engine) -> list[int]:
        places = engine.parts["classes"].of.refused[: engine.submitted].nonzero()[0]
        rows: list[int] = engine.state.requests.row[places].tolist()
        return rows

    def spread(self, engine: Engine) -> int:
        """Return the largest difference between the service counters of two waiting tenants, including before failures."""
        return max(self._spread, int(engine.parts["classes"].marks[0].spread))


def door(stream: RequestStream, clock: Clock, table: RequestTable) -> Callable[[int, float], bool]:
    """Return the function that decides whether an arriving request is admitted by the limits of its class."""
    return Door(stream.classes, clock, table).admits


@dataclass(slots=True)
class Door:
    """What a router knows of all replicas' queues, class by class.

    A class is full if its maximum number of requests waits on all replicas together, or if on every running replica its
    first request has waited too long. Requests that failures requeued are already admitted.
    """

    classes: Sequence[RequestClass]
    clock: Clock
    table: RequestTable

    def admits(self, row: int, now: float) -> bool:
        """Return whether a request that arrives now is admitted."""
        labels = self.table.labels
        assert labels is not None
        kind = int(labels.kind[row])
        known = self.classes[kind]
        if known.max_waiting is not None:
            waiting = sum(_waiting(node, kind) for node in self.clock.entry)
            waiting += sum(int(labels.kind[other]) == kind for other in self.clock.waiting)
            if waiting >= known.max_waiting:
                return False
        if known.max_wait is None:
            return True
        waits = [_longest(node, kind, now) for node in self.clock.entry if node.up]
        waits = waits or [now - float(self.table.arrival_s[other]) for other in self.clock.waiting[:1]]
        return min(waits, default=0.0) <= known.max_wait


def _waiting(node: Node, kind: int) -> int:
    """Return the number of requests of a class that wait on a node, as of the step in progress."""
    state = node.engine.state
    new = slice(int(state.counters[0].walk), int(state.counters[0].submitted))
    lanes = node.engine.parts["classes"]
    queued = int(lanes.kinds.waiting[kind]) if kind < len(lanes.kinds) else 0
    return queued + int((lanes.of.kind[new] == kind).sum())


def _longest(node: Node, kind: int, now: float) -> float:
    """Return how long the first request of a class has waited on a node [s]; 0 if none waits."""
    state, lanes = node.engine.state, node.engine.parts["classes"]
    came = []
    for head in lanes.rows.head.ravel().tolist():
        i = head
        while i >= 0 and not np.isnan(state.requests.scheduled[i]):
            i = int(state.requests.next[i])
        if i >= 0 and lanes.of.kind[i] == kind:
            came.append(float(state.requests.arrival[i]))
    for i in range(int(state.counters[0].walk), int(state.counters[0].submitted)):
        if lanes.of.kind[i] == kind:
            came.append(float(state.requests.arrival[i]))
    return now - min(came, default=now)
