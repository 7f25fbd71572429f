"""Lanes of an engine's queue: requests of one class, priority or tenant, in order of arrival.

With lanes an engine chooses a lane every time that it admits a request, so that priorities, shares of
tenants and bounds of classes cost no sorting. Engines without them have one queue (`allocation.enqueue`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ....workloads.errors import InputError
from ....workloads.jit_address import by_address
from ....workloads.records import Records, named, records
from ....workloads.requests import RequestBlock
from ....workloads.requests.block import Labels
from ...engine.state import F8, I8, State

MOST_LANES = 4096
"""Largest number of queues of one engine; each admission compares all of them."""

INPUT_WEIGHT, OUTPUT_WEIGHT = 1, 2
"""Weights of a prompt token and an output token in a tenant's service (section 5.1 of Sheng et al., Fairness in
serving large language models, OSDI 2024)."""

LANE = named("head tail waiting served", "")
"""First and last request, -1 if empty; how many wait; service of the lane's tenant, its virtual token counter."""

QUEUED = named("lane place kind refused", "")
"""A request's queue, its place among arrivals, its class, and whether it was rejected."""

KIND = named("waiting most", "")
"""Requests of a class that wait on all ranks, and the limit of this number."""

MARKS = named("came refused spread undone", "")
"""Requests queued so far and rejected; largest difference between the counters of two queues with waiting requests;
whether the current plan took tokens back."""

FREE = np.iinfo(np.int64).max


@by_address
class ClassLanes(NamedTuple):
    """Arrays of L queues for R ranks, N requests and K classes."""

    rows: Records  # [R, L] of `LANE`
    keys: I8  # [L] the smallest is served first
    of: Records  # [N] of `QUEUED`
    kinds: Records  # [K] of `KIND`
    waits: F8  # [K] longest wait of the first in the class's queue that lets another in [s]
    last: I8  # [R] lane whose request was admitted last, -1 before
    marks: Records  # [1] of `MARKS`
    worst: bool  # whether the sequence of the largest key is preempted, not the last one admitted
    fair: bool  # whether the lane served least is served first, not the one of the smallest key


@dataclass(frozen=True, slots=True)
class LaneRules:
    """Rules of an engine's queues: their order and the limits of classes.

    Attributes
    ----------
    order : str
        One of `orders.LANED`, or empty: first come, first served.
    most : tuple of int or None
        Of each class, waiting requests of it that let another in; None: any.
    waits : tuple of float or None
        How long the first of them may have waited [s].
    """

    order: str = ""
    most: tuple[int | None, ...] = ()
    waits: tuple[float | None, ...] = ()

    @property
    def bounded(self) -> bool:
        """Return whether any request may be rejected."""
        return any(x is not None for x in (*self.most, *self.waits))

    def start(self, ranks: int) -> ClassLanes:
        """Return the empty queues before the first request."""
        kinds = records(len(self.most), KIND)
        kinds.most = [FREE if x is None else x for x in self.most]
        waits = np.array([np.inf if x is None else x for x in self.waits], dtype=np.float64)
        return ClassLanes(
            _empty(ranks, 1), np.zeros(1, dtype=np.int64), records(0, QUEUED), kinds, waits,
            np.full(ranks, -1), records(1, MARKS),
            self.order == "priority", self.order == "vtc",
        )  # fmt: skip


def _empty(ranks: int, count: int) -> Records:
    rows = records((ranks, count), LANE)
    rows.head = rows.tail = -1
    return rows


@dataclass(slots=True)
class LaneBook:
    """Numbers of queues for the labels of requests, in order of their first use."""

    rules: LaneRules
    numbers: dict[int, int] = field(default_factory=dict)

    def place(self, block: RequestBlock, lanes: ClassLanes, state: State) -> ClassLanes:
        """Assign the requests that were just added to their queues.

        Raises
        ------
        InputError
            More lanes than one engine has.
        """
        labels = block.labels
        if labels is None:
            return lanes
        end = int(state.counters[0].submitted)
        if len(lanes.of) < len(state.requests):
            lanes = lanes._replace(of=records(len(state.requests), QUEUED, lanes.of))
        new = lanes.of[end - len(block) : end]
        new.place = new.refused = 0
        new.kind = labels.kind
        names, which = np.unique(self._names(labels), return_inverse=True)
        before = len(self.numbers)
        numbers = [self.numbers.setdefault(name, len(self.numbers)) for name in names.tolist()]
        new.lane = np.array(numbers)[which]
        lanes = self._widened(lanes, labels)
        if len(self.numbers) > before and self.rules.order == "priority":
            lanes.keys[new.lane] = labels.priority
        return lanes

    def _names(self, labels: Labels) -> I8:
        """Return a queue number for each request: by its tenant, or by its class and priority."""
        if self.rules.order == "vtc":
            return labels.tenant
        return (labels.kind << 32) + labels.priority * (self.rules.order == "priority")

    def _widened(self, lanes: ClassLanes, labels: Labels) -> ClassLanes:
        """Return the arrays enlarged to the present number of queues and classes."""
        count = len(self.numbers)
        if count > MOST_LANES:
            what = "tenants" if self.rules.order == "vtc" else "priorities and classes"
            reason = f"has more than {MOST_LANES:,} {what}, the maximum per engine"
            raise InputError("the workload", reason)
        if count > len(lanes.keys):
            ranks, have = lanes.rows.shape[:2]
            rows, keys = _empty(ranks, 2 * count), np.zeros(2 * count, dtype=np.int64)
            rows[:, :have], keys[:have] = lanes.rows, lanes.keys
            lanes = lanes._replace(rows=rows, keys=keys)
        kinds = int(labels.kind.max(initial=-1)) + 1
        if kinds > len(lanes.kinds):  # classes that only a trace names have no bounds
            more = records(kinds, KIND)
            more.most = FREE
            more[: len(lanes.kinds)] = lanes.kinds
            waits = np.full(kinds, np.inf)
            waits[: len(lanes.waits)] = lanes.waits
            lanes = lanes._replace(kinds=more, waits=waits)
        return lanes
