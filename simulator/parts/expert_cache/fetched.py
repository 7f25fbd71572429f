"""The explicit path of an expert cache: the caches of one engine, step by step, in readable form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ....workloads.batch import Batch
from ....workloads.ops import Loads
from ....workloads.records import records
from ...deploy.deployment import Deployment
from ...deploy.expert_parts import ExpertPart
from ...step.costing import Stage
from ..expert_map.placed import slot_loads as placed_loads
from .cache import ExpertCache, StepFetch
from .cache_state import CLOCK, Fetch, chances_of, fetch_of, layer_wait, named_by

WARM_STEPS = 64
"""Warm-up steps of expert caches before a single step, and the number of steps in an expected mean."""


@dataclass(slots=True)
class StepCaches:
    """The expert caches of one engine.

    Attributes
    ----------
    deployment : Deployment
        With a `store`.
    replica : int
        Counter of its samples.
    """

    deployment: Deployment
    replica: int = 0
    fetch: Fetch = field(init=False)
    caches: list[list[ExpertCache]] = field(init=False)
    clock: Any = field(init=False)  # record of `CLOCK`

    def __post_init__(self) -> None:
        d = self.deployment
        fetch, store = fetch_of(d), d.parts.get("resident-experts")
        if fetch is None or store is None:
            raise ValueError("needs a deployment with an expert cache")
        self.fetch, self.clock = fetch, records(1, CLOCK)[0]
        self.caches = []
        for x, part in enumerate(d.experts):
            if part.kept:
                self.caches.append([])
                continue
            slots, group_size = int(fetch.slots[x]), part.held
            chances = chances_of(part.router.seed, self.replica, x, group_size * part.ep)
            first = [slice(g * group_size, g * group_size + slots if fetch.keeps else 0) for g in range(part.ep)]
            experts = range(group_size * part.ep)
            self.caches.append(
                [ExpertCache(slots, store.policy, chances, experts[span], staging=True) for span in first]
            )

    def touch(self, x: int, loads: Loads, step: int, batch: Batch, seconds: float, dense_s: float) -> StepFetch:
        """Look up the experts of a step in one part's caches, and load those that are missing.

        Parameters
        ----------
        x : int
            Number of the part; parts come in order.
        loads : Loads
            Sampled loads: one count for each expert of a group.
        batch : Batch
            Batch of all ranks, for samples of later steps.
        seconds : float
            Of the experts of one layer.
        dense_s : float
            Of all that the pipeline stage computes besides experts.
        """
        d, fetch = self.deployment, self.fetch
        part = d.experts[x]
        if self.clock.stage != part.stage or x == 0:
            self.clock = records(1, CLOCK)[0]
            self.clock.stage, self.clock.dense = part.stage, dense_s / fetch.layers[part.stage]
        if part.kept:
            self.clock.now += seconds * part.layers
            return StepFetch()
        needed = loads.tokens > 0
        named = named_by(part.router.seed, self.replica, step, x, needed, fetch.accuracy, fetch.false_rate)
        ahead = self._next_use(part, x, needed | named, step, batch)
        group_size, touches = part.held, []
        for g, cache in enumerate(self.caches[x]):
            group = range(g * group_size, (g + 1) * group_size)
            touches.append(cache.touch([e for e in group if needed[e]], ahead, [e for e in group if named[e]]))
        ahead_s = max(self._seconds(x, touched.fetched) for touched in touches)
        now_s = max(self._seconds(x, touched.misses) for touched in touches)
        waited = sum(layer_wait(self.clock, ahead_s, now_s, seconds, fetch.step_ahead) for _ in range(part.layers))
        hits, misses, early = (
            float(part.layers * sum(map(len, lists)))
            for lists in zip(*((t.hits, t.misses, t.fetched) for t in touches), strict=True)
        )
        size = (misses + early) * float(fetch.sizes[x])
        link_s = (ahead_s + now_s) * part.layers
        return StepFetch(hits + misses, hits, misses, early, size, link_s, waited)

    def _seconds(self, part: int, experts: Sequence[int]) -> float:
        return float(sum(self.fetch.seconds[part, e] for e in experts))

    def _next_use(self, part: ExpertPart, x: int, wanted: np.ndarray, step: int, batch: Batch) -> dict[int, float]:
        """When experts are used again if the batch stays as it is, in steps; asked where any lacks."""
        group_size = part.held
        lacks = any(e not in self.caches[x][e // group_size] for e in np.flatnonzero(wanted))
        out: dict[int, float] = {}
        if lacks:
            for ahead in range(1, self.fetch.look_ahead + 1):
                loads = slot_loads(part, step + ahead, batch, self.replica)
                for e in np.flatnonzero(loads.tokens):
                    out.setdefault(int(e), float(ahead))
        return out


def slot_loads(part: ExpertPart, step: int, batch: Batch, replica: int) -> Loads:
    """Return the sampled loads of the groups' slots, including copies of placed experts."""
    loads = part.router.loads(step, part.row, batch, replica)
    if part.placed is None:
        return loads
    return placed_loads(part, loads, step, replica)


class Waited(NamedTuple):
    """What one step asked of the caches, and seconds that each pipeline stage waited."""

    fetch: StepFetch
    waits: Sequence[float]


def step_fetch(
    deployment: Deployment, step: int, replica: int, expected: bool, batch: Batch,
    experts_s: Sequence[float], dense_s: Sequence[float], caches: StepCaches | None,
) -> Waited:  # fmt: skip
    """Ask the caches for a step; without any, those that have seen `WARM_STEPS` steps of the batch.

    Parameters
    ----------
    expected : bool
        Whether it is the mean of `WARM_STEPS` steps.
    batch : Batch
        Of all ranks.
    experts_s, dense_s : sequence of float
        Seconds of each expert part, all its layers, and of the rest of each pipeline stage.
    """

    def touched(step_caches: StepCaches, place: int) -> list[StepFetch]:
        return [
            step_caches.touch(
                x,
                slot_loads(part, place, batch, replica),
                place,
                batch,
                experts_s[x] / part.layers,
                dense_s[part.stage],
            )
            for x, part in enumerate(deployment.experts)
        ]

    if caches is None:
        caches = StepCaches(deployment, replica)
        for at in range(step - WARM_STEPS, step):
            touched(caches, at % 2**31)
    fetched, waits = StepFetch(), [0.0] * len(dense_s)
    steps = range(step, step + (WARM_STEPS if expected else 1))
    for at in steps:
        for part, fetch in zip(deployment.experts, touched(caches, at), strict=True):
            waits[part.stage] += fetch.waited_s / len(steps)
            fetched += fetch
    return Waited(fetched.over(len(steps)), waits)


def fetch_in_step(_: object, stage: Stage, caches: StepCaches | None) -> StepFetch | None:
    """Ask the expert caches; layers wait for what is not there when they need it."""
    d, dense = stage.d, list(stage.seconds)
    if not d.experts:
        return None
    for part, seconds in zip(d.experts, stage.experts_s, strict=True):
        dense[part.stage] -= seconds
    fetched = step_fetch(d, stage.step, stage.replica, stage.expected, stage.union, stage.experts_s, dense, caches)
    for s, waited in enumerate(fetched.waits):
        stage.seconds[s] += waited
    return fetched.fetch
