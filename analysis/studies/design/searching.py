"""Which designs to simulate: those that may still be on the front, in the order of what they promise.

1. A design beyond a limit on area, power or cost, or whose bound breaks a limit, is out.
2. One whose bound is beaten, in every goal, by a design that was simulated, is out: nothing it
   can reach is on the front. That is proved; the rest is forecast.
3. Goals that no forecast knows (arrivals by rate, tails of first tokens) have none: designs far from each other
   are simulated until the simulations are used up.
4. A forecast is a step's price times what simulations of the nearest designs made of theirs. Its front,
   thinned to designs that differ by `APART`, is simulated, the forecast corrected, and so on until the
   front holds no design that was not simulated, or the simulations are used up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ....workloads.pareto import unbeaten
from .designs import Design
from .goals import Goals, direction
from .space import Space

if TYPE_CHECKING:
    from collections.abc import Mapping

F8 = npt.NDArray[np.float64]
APART = 0.004
"""Designs whose forecasts differ by less, in every goal, stand for each other."""
AT_ONCE = 16
"""Designs simulated before forecasts are corrected."""
NEAR = 3
"""Simulated designs that correct a forecast."""
METHODS = ("bounds", "exhaustive", "random")

Simulate = Callable[[Sequence[Design]], None]
"""Fills in metrics or error of designs."""


@dataclass(slots=True)
class Found:
    """What a search did: designs of a space by what became of them."""

    every: list[Design]
    simulated: list[int] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def costs_of(goals: Goals, figures: Sequence[Mapping[str, float | None]], missing: float) -> F8:
    """Goals as costs, shape (n, goals): less is better; `missing` where one has no value."""
    out = np.full((len(figures), len(goals.wanted)), missing)
    for j, (name, goal) in enumerate(goals.wanted.items()):
        sign = -1.0 if goal == "max" else 1.0
        for i, row in enumerate(figures):
            value = row.get(name)
            if value is not None:
                out[i, j] = sign * value
    return out


def may_hold(goals: Goals, bound: Mapping[str, float | None]) -> bool:
    """Whether a design may meet every limit: as far as bounds tell, all of one metric and a number.

    A limit of several metrics, or one that bounds know nothing of, may hold.
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
    """Of simulated designs those that none beats, best in the first goal first."""
    held = [i for i in at if feasible(goals, designs[i])]
    if not held:
        return []
    costs = costs_of(goals, [designs[i].metrics or {} for i in held], np.inf)
    return [held[i] for i in unbeaten(costs, once=True)]


class Search:
    """One search of a space; `simulate` runs designs, `most` of them."""

    def __init__(self, space: Space, designs: list[Design], simulate: Simulate, most: int) -> None:
        self.space, self.goals, self.designs = space, space.goals, designs
        self.simulate, self.most = simulate, most
        self.done: list[int] = []
        self.bounds = costs_of(self.goals, [d.bound for d in designs], -np.inf)
        self.base = costs_of(self.goals, [d.forecast for d in designs], np.nan)
        self.places = _places(space, designs)
        self.open = np.array([d.error is None and may_hold(self.goals, d.bound) for d in designs])

    def run(self, wanted: Sequence[int]) -> None:
        """Simulate designs, and leave out those that they beat for certain."""
        todo = [i for i in wanted if self.open[i] and i not in self.done]
        todo = todo[: self.most - len(self.done)]
        self.simulate([self.designs[i] for i in todo])
        self.done += todo
        held = [i for i in self.done if feasible(self.goals, self.designs[i])]
        if held:
            known = costs_of(self.goals, [self.designs[i].metrics or {} for i in held], np.inf)
            for cost in known[unbeaten(known, once=True)]:
                beaten = np.all(cost <= self.bounds, axis=1) & np.any(cost < self.bounds, axis=1)
                self.open &= ~beaten

    def forecasts(self) -> F8:
        """Goals of every design as costs, corrected by what simulations of near ones gave."""
        known = [i for i in self.done if feasible(self.goals, self.designs[i])]
        if not known:
            return self.base
        got = costs_of(self.goals, [self.designs[i].metrics or {} for i in known], np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = got / self.base[known]
        ratio[~np.isfinite(ratio)] = 1.0
        far = np.abs(self.places[:, None, :] - self.places[None, known, :]).sum(axis=2)
        nearest = np.argsort(far, axis=1, kind="stable")[:, :NEAR]
        weight = 1.0 / (np.take_along_axis(far, nearest, axis=1) + 1e-6)
        mean = (ratio[nearest] * weight[:, :, None]).sum(axis=1) / weight.sum(axis=1)[:, None]
        out = self.base * mean
        blind = ~np.isfinite(out)
        out[blind] = np.broadcast_to(np.nanmedian(got, axis=0), out.shape)[blind]
        out[known] = got
        return np.asarray(out)

    def promising(self) -> list[int]:
        """Open designs on the forecast's front, thinned, best first; simulated ones stand for near ones."""
        costs = self.forecasts()
        at = np.flatnonzero(self.open | np.isin(np.arange(len(self.designs)), self.done))
        at = at[np.isfinite(costs[at]).all(axis=1)]
        if not len(at):
            return []
        bad = {i for i in self.done if not feasible(self.goals, self.designs[i])}
        at = np.array([i for i in at if i not in bad], dtype=int)
        at = at[self._hopeful(costs, at)]
        front = at[unbeaten(costs[at], once=True)] if len(at) else at
        kept = [int(i) for i in front if i in self.done]
        left = [int(i) for i in front if i not in self.done]
        return _spread(costs, kept, left)

    @property
    def blind(self) -> bool:
        """Whether a goal has no forecast."""
        return bool(np.isnan(self.base[self.open]).all(axis=0).any())

    def scattered(self) -> list[int]:
        """Open designs, those farthest from all that were simulated first."""
        left = [int(i) for i in np.flatnonzero(self.open) if i not in self.done]
        far = np.full(len(left), np.inf)
        out: list[int] = []
        for i in self.done:
            far = np.minimum(far, np.abs(self.places[left] - self.places[i]).sum(axis=1))
        while len(out) < min(AT_ONCE, len(left)):
            chosen = left[int(np.argmax(far))]
            out.append(chosen)
            far = np.minimum(far, np.abs(self.places[left] - self.places[chosen]).sum(axis=1))
        return out

    def _hopeful(self, costs: F8, at: npt.NDArray[np.int_]) -> npt.NDArray[np.bool_]:
        """Designs whose forecast meets the limits on goals; limits on other metrics show in simulations."""
        out = np.ones(len(at), dtype=bool)
        signs = [(-1.0 if goal == "max" else 1.0) for goal in self.goals.wanted.values()]
        for limit in self.goals.limits:
            if not limit.names <= set(self.goals.wanted):
                continue
            for row, i in enumerate(at):
                values = {
                    n: s * c for n, s, c in zip(self.goals.wanted, signs, costs[i], strict=True)
                }
                out[row] &= i in self.done or limit.holds(values)
        return out


def _spread(costs: F8, kept: Sequence[int], left: Sequence[int]) -> list[int]:
    """Designs of a front, those farthest from all before them first; near ones stand for each other."""
    size = np.abs(costs[left]) if left else np.empty((0, costs.shape[1]))
    far = np.full(len(left), np.inf)
    for i in kept:
        far = np.minimum(far, _far(costs, i, left, size))
    out: list[int] = []
    while len(out) < len(left) and far.max() > APART:
        chosen = left[int(np.argmax(far))]
        out.append(chosen)
        far = np.minimum(far, _far(costs, chosen, left, size))
    return out


def _far(costs: F8, i: int, left: Sequence[int], size: F8) -> F8:
    """Largest relative difference, in any goal, of designs from one."""
    return np.asarray((np.abs(costs[left] - costs[i]) / np.maximum(size, 1e-300)).max(axis=1))


def _places(space: Space, designs: Sequence[Design]) -> F8:
    """Where designs lie: the rank of each value among its own, from 0 to 1; names are far apart."""
    ranks = [
        {
            v: (k / max(len(own) - 1, 1) if not isinstance(v, str) else 3.0 * k)
            for k, v in enumerate(own)
        }
        for own in space.values
    ]
    return np.array(
        [[rank[v] for rank, v in zip(ranks, d.values, strict=True)] for d in designs], dtype=float
    )


def search(
    space: Space, designs: list[Design], simulate: Simulate, method: str, most: int, seed: int
) -> Found:
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
    told = {"cannot be run": out, "beyond a limit": beyond, "beaten by bounds": never,
            "by forecast": left - out - beyond - never}  # fmt: skip
    return Found(designs, run.done, told)


def _by_bounds(run: Search) -> None:
    reference = run.space.reference
    if reference is not None:
        run.run([i for i, d in enumerate(run.designs) if d.values == reference])
    while len(run.done) < run.most:
        wanted = (run.scattered() if run.blind else run.promising())[:AT_ONCE]
        if not wanted:
            break
        before = len(run.done)
        run.run(wanted)
        if len(run.done) == before:
            break
