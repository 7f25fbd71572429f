"""Choice of the designs to simulate.

Designs beyond a limit, or whose bound is beaten in every goal by a simulated design, are pruned: this is proved. The
rest is forecast: the time of a step, corrected by simulations of the nearest designs. Metrics without a cost model
(open-loop arrivals, TTFT tails, pools) are interpolated, after distant designs are simulated first. The next design is
the one whose forecast adds most to the front, until no design adds `APART` even with the error of earlier forecasts, or
the simulations are used up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ....workloads.pareto import unbeaten
from .goals import Goals, direction
from .space import Space
from .why import Design

if TYPE_CHECKING:
    from collections.abc import Mapping

F8 = npt.NDArray[np.float64]
APART = 0.004
"""Designs whose forecasts differ by less, in every goal, count as equal."""
AT_ONCE = 16
"""Most designs simulated before forecasts are corrected; fewer where few are allowed."""
NEAR = 3
"""Simulated designs that correct a forecast."""
DOUBT = 0.9
"""Of forecasts that others made of simulated designs the share that decides how wrong they are."""
METHODS = ("bounds", "exhaustive", "random")

Simulate = Callable[[Sequence[Design]], None]
"""Fills in metrics or error of designs."""


@dataclass(slots=True)
class SearchOutcome:
    """Outcome of a search: designs of a space, grouped by why they were kept or left out."""

    every: list[Design]
    simulated: list[int] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def values_of(names: Sequence[str], figures: Sequence[Mapping[str, float | None]]) -> F8:
    """Return metrics as an array, shape (n, names); NaN for missing values."""
    rows = [[row.get(n) for n in names] for row in figures]
    return np.array(rows, dtype=float).reshape(-1, len(names))


def costs_of(goals: Goals, figures: Sequence[Mapping[str, float | None]], missing: float) -> F8:
    """Return the goals as costs (less is better), shape (n, goals), with `missing` for absent values."""
    out = values_of(tuple(goals.wanted), figures) * goals.signs
    return np.where(np.isnan(out), missing, out)


def may_hold(goals: Goals, bound: Mapping[str, float | None]) -> bool:
    """Whether a design may meet every limit: as far as bounds tell, all of one metric and a number.

    Return whether a limit can hold: unknown for several metrics, or without bounds.
    """
    for limit in goals.limits:
        (name, *others) = sorted(limit.names)
        if others or bound.get(name) is None:
            continue
        if not limit.holds(bound):
            # At best less than wanted, or more: either breaks the limit whatever a simulation says,
            # unless the limit forbids the better side, which a simulation may yet come to.
            better = np.inf if direction(name, goals.wanted) == "max" else 0.0
            exact = name in ("area_mm2", "watts", "usd")
            if exact or limit.holds({name: better}):
                return False
    return True


def feasible(goals: Goals, design: Design) -> bool:
    """Whether a simulated design meets all limits and has every goal."""
    if design.metrics is None:
        return False
    known = all(design.metrics.get(name) is not None for name in goals.wanted)
    return known and all(limit.holds(design.metrics) for limit in goals.limits)


def front_of(goals: Goals, designs: Sequence[Design], at: Sequence[int]) -> list[int]:
    """Return the simulated designs that no other beats, best in the first goal first."""
    feasible_held = [i for i in at if feasible(goals, designs[i])]
    if not feasible_held:
        return []
    costs = costs_of(goals, [designs[i].metrics or {} for i in feasible_held], np.inf)
    return [feasible_held[i] for i in unbeaten(costs, once=True)]


class Search:
    """One search of a space; `simulate` runs designs, `most` of them."""

    def __init__(self, space: Space, designs: list[Design], simulate: Simulate, most: int) -> None:
        self.space, self.goals, self.designs = space, space.goals, designs
        self.simulate, self.most = simulate, most
        self.done: list[int] = []
        self.at_once = min(max(most // 10, NEAR + 1), AT_ONCE)
        self.bounds = costs_of(self.goals, [d.bound for d in designs], -np.inf)
        self.names = self.goals.names
        self.base = values_of(self.names, [d.forecast for d in designs])
        self.signs = self.goals.signs
        self.places = _places(space, designs)
        self.open = np.array([d.error is None and may_hold(self.goals, d.bound) for d in designs])

    def run(self, wanted: Sequence[int]) -> None:
        """Simulate designs, and leave out those that they beat for certain."""
        todo = [i for i in wanted if self.open[i] and i not in self.done]
        todo = todo[: self.most - len(self.done)]
        self.simulate([self.designs[i] for i in todo])
        self.done += todo
        feasible_held = [i for i in self.done if feasible(self.goals, self.designs[i])]
        if feasible_held:
            known = costs_of(self.goals, [self.designs[i].metrics or {} for i in feasible_held], np.inf)
            for cost in known[unbeaten(known, once=True)]:
                beaten = np.all(cost <= self.bounds, axis=1) & np.any(cost < self.bounds, axis=1)
                self.open &= ~beaten

    def forecasts(self, rows: Sequence[int] | npt.NDArray[np.int_]) -> F8:
        """Return metrics of designs, corrected by simulations of similar designs.

        Without a forecast they are interpolated from similar designs.
        """
        known = [i for i in self.done if self.designs[i].metrics is not None]
        start = np.where(np.isfinite(self.base), self.base, 1.0)
        if not known:
            return np.asarray(start[rows])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self._simulated(known) / start[known]
        ratio[~np.isfinite(ratio)] = 1.0
        far = np.abs(self.places[rows][:, None, :] - self.places[None, known, :]).sum(axis=2)
        far[np.asarray(rows)[:, None] == np.array(known)] = np.inf
        nearest = np.argsort(far, axis=1, kind="stable")[:, :NEAR]
        weight = 1.0 / (np.take_along_axis(far, nearest, axis=1) + 1e-6)
        mean = (ratio[nearest] * weight[:, :, None]).sum(axis=1) / weight.sum(axis=1)[:, None]
        return np.asarray(start[rows] * mean)

    def _simulated(self, rows: Sequence[int]) -> F8:
        return values_of(self.names, [self.designs[i].metrics or {} for i in rows])

    def _costs(self, values: F8) -> F8:
        """Return the goals among the metrics as costs (less is better), shape (n, goals)."""
        return np.asarray(values[:, : len(self.signs)] * self.signs)

    def doubt(self, tried: Sequence[int], costs: F8) -> float:
        """Return the 90th percentile of the share by which simulated designs are better than forecast, in any goal."""
        if len(tried) <= NEAR:
            return np.inf
        forecast = self._costs(self.forecasts(tried))
        return max(0.0, float(np.quantile(_beyond(forecast, costs), DOUBT)))

    def promising(self) -> list[int]:
        """Return the open designs whose forecasts improve the simulated front most, in this order.

        A design that adds less than `APART`, even with the error of forecasts, is skipped.
        """
        feasible_held = [i for i in self.done if feasible(self.goals, self.designs[i])]
        costs_own = self._costs(self._simulated(feasible_held)) if feasible_held else np.empty((0, len(self.signs)))
        left = np.flatnonzero(self.open)
        left = left[~np.isin(left, self.done)]
        values = self.forecasts(left)
        hopeful = self._hopeful(values)
        left, costs = left[hopeful], self._costs(values[hopeful])
        least = APART - self.doubt(feasible_held, costs_own)
        adds = np.full(len(left), np.inf)
        for cost in costs_own[unbeaten(costs_own, once=True)] if feasible_held else ():
            adds = np.minimum(adds, _beyond(cost, costs))
        out: list[int] = []
        while len(out) < min(self.at_once, len(left)) and adds.max() > least:
            first = bool(np.isposinf(adds).all())
            at = int(np.argmin(costs[:, 0]) if first else np.argmax(adds))
            out.append(int(left[at]))
            adds = np.minimum(adds, _beyond(costs[at], costs))
            adds[at] = -np.inf
        return out

    @property
    def blind(self) -> set[str]:
        """Return the metrics that have no forecast for any open design."""
        none = np.isnan(self.base[self.open]).all(axis=0)
        return {name for name, absent in zip(self.names, none, strict=True) if absent}

    def scattered(self) -> list[int]:
        """Return open designs in order of their distance from all simulated ones, the farthest first."""
        left = [int(i) for i in np.flatnonzero(self.open) if i not in self.done]
        far = np.full(len(left), np.inf)
        out: list[int] = []
        for i in self.done:
            far = np.minimum(far, np.abs(self.places[left] - self.places[i]).sum(axis=1))
        while len(out) < min(self.at_once, len(left)):
            chosen = left[int(np.argmax(far))]
            out.append(chosen)
            far = np.minimum(far, np.abs(self.places[left] - self.places[chosen]).sum(axis=1))
        return out

    def _hopeful(self, values: F8) -> npt.NDArray[np.bool_]:
        """Return which forecasts meet all limits on known metrics, shape (n,)."""
        rows = [dict(zip(self.names, row, strict=True)) for row in values]
        known = set(self.names) if self.done else {n for n in self.names if n not in self.blind}
        limits = [limit for limit in self.goals.limits if limit.names <= known]
        return np.array([all(limit.holds(row) for limit in limits) for row in rows], dtype=bool)


def _beyond(cost: F8, others: F8) -> F8:
    """Return by what share each design is better than one with cost `cost`, in its best goal, shape (n,)."""
    return np.asarray(((cost - others) / np.maximum(np.abs(others), 1e-300)).max(axis=1))


def _places(space: Space, designs: Sequence[Design]) -> F8:
    """Return coordinates of designs: the rank of each value from 0 to 1; names are far from each other."""
    ranks = [
        {v: (k / max(len(axis) - 1, 1) if not isinstance(v, str) else 3.0 * k) for k, v in enumerate(axis)}
        for axis in space.values
    ]
    return np.array([[rank[v] for rank, v in zip(ranks, d.values, strict=True)] for d in designs], dtype=float)


def search(space: Space, designs: list[Design], simulate: Simulate, method: str, most: int, seed: int) -> SearchOutcome:
    """Simulate what a method chooses, `most` designs at most; see the module."""
    run = Search(space, designs, simulate, most)
    if method == "exhaustive":
        run.most = len(designs)
        run.run([i for i in range(len(designs)) if run.open[i]])
    elif method == "random":
        order = np.random.default_rng(seed).permutation(np.flatnonzero(run.open))
        run.run([int(i) for i in order[:most]])
    else:
        _by_bounds(run)
    left = len(designs) - len(run.done)
    out = sum(d.error is not None for d in designs)
    beyond = sum(d.error is None and not may_hold(space.goals, d.bound) for d in designs)
    never = int((~run.open).sum()) - out - beyond - sum(not run.open[i] for i in run.done)
    entry = {"cannot be run": out, "beyond a limit": beyond, "beaten by bounds": never,
            "by forecast": left - out - beyond - never}  # fmt: skip
    return SearchOutcome(designs, run.done, entry)


def _by_bounds(run: Search) -> None:
    reference = run.space.reference
    if reference is not None:
        run.run([i for i, d in enumerate(run.designs) if d.values == reference])
    while len(run.done) < run.most:
        unsure = run.blind and len(run.done) < run.at_once
        wanted = run.scattered() if unsure else run.promising()
        if not wanted:
            break
        before = len(run.done)
        run.run(wanted)
        if len(run.done) == before:
            break
