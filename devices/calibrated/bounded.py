"""One set of parameters for each silicon, fitted so that the better device is never slower.

All sets are fitted together: each to its own measured rows, as in `fit`, and to a centre, under inequalities. If every
peak of a device is at least another's, its time for a family's part of a step may not exceed the other's. Each excess
is a residual, as a share of the other device's whole step. The weight of the inequalities rises until the largest
excess is small; sets with many rows move less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...workloads.records import Records
from .family import F8, Family
from .fit import LOSS_SCALE, PRIOR

SLACK = 0.005
"""Excess over an inequality that costs nothing, as a share of a step."""
WEIGHTS = (0.0, 3.0, 10.0)
"""Successive weights of the inequalities; with the last, an excess of 0.01 counts as a row's error."""
STEPS = 40
"""Maximum number of steps at each weight."""
DIFFERENCE = 1e-4
"""Step of the logarithm for numerical derivatives."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Measured rows of one device: constants, quantities, log seconds, and a weight of each row."""

    h: Records
    x: F8
    log: F8
    weight: float


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """Parameters that several devices share, with their prior and rows.

    Attributes
    ----------
    center : float64 array
        Logarithms of the prior, used for parameters without rows.
    pull : float
        Weight of that, in units of `fit.PRIOR`.
    start : float64 array, optional
        Logarithms to start from; the centre without it.
    """

    center: F8
    pull: float
    samples: Sequence[Sample] = ()
    start: F8 | None = None


@dataclass(frozen=True, slots=True)
class Probes:
    """Calls of a family in the steps of many models.

    Attributes
    ----------
    x : float64 array
        Quantities of distinct calls.
    calls : sparse matrix
        How often each step makes each call, shape (steps, len(x)).
    """

    x: F8
    calls: Any

    def times(self, family: Family, values: F8, hardware: Records) -> F8:
        """Return the family's seconds in every step, never below the roofline."""
        return np.asarray(self.calls @ family.prices(values, hardware, self.x)["seconds"])


@dataclass(frozen=True, slots=True)
class Order:
    """One inequality per step: seconds of (`device`, `steps`) at most the seconds of (`than`, `others`).

    Attributes
    ----------
    whole : float64 array
        Seconds of the whole step on the device `than`.
    limit : float64 array, optional
        Seconds that replace (`than`, `others`).
    slack : float
        Excess, as a share of `whole`, that costs nothing.
    """

    device: str
    steps: npt.NDArray[np.int64]
    than: str
    others: npt.NDArray[np.int64]
    whole: F8
    limit: F8 | None = None
    slack: float = SLACK


class _Problem:
    """Residuals and their normal equations at given parameters."""

    def __init__(
        self, family: Family, devices: Mapping[str, tuple[F8, str]],
        sets: Mapping[str, ParameterSet], probes: Probes, orders: Sequence[Order],
        fixed: Mapping[str, F8],
    ) -> None:  # fmt: skip
        self.family, self.probes, self.orders = family, probes, orders
        self.devices, self.sets = devices, sets
        self.size = len(family.parameters)
        self.at = {name: slice(i * self.size, (i + 1) * self.size) for i, name in enumerate(sets)}
        self.spread = np.array([p.spread for p in family.parameters])
        self.low = np.tile(np.log([p.low for p in family.parameters]), len(sets))
        self.high = np.tile(np.log([p.high for p in family.parameters]), len(sets))
        self.moves = np.concatenate([np.full(self.size, name not in fixed) for name in sets])
        asked = {o.device for o in orders} | {o.than for o in orders}
        self.asked = [d for d in devices if d in asked]
        self.fixed = fixed
        self.still = {
            device: probes.times(family, fixed[devices[device][1]], devices[device][0])
            for device in self.asked
            if devices[device][1] in fixed
        }

    def start(self) -> F8:
        """Return the starting point: fixed parameters, and the start of each other set."""
        first = [
            np.log(self.fixed[name])
            if name in self.fixed
            else parameter_set.center
            if parameter_set.start is None
            else parameter_set.start
            for name, parameter_set in self.sets.items()
        ]
        out: F8 = np.clip(np.concatenate(first), self.low, self.high)
        return out

    def times(self, theta: F8) -> dict[str, F8]:
        out = {}
        for device in self.asked:
            if device in self.still:
                out[device] = self.still[device]
                continue
            h, name = self.devices[device]
            out[device] = self.probes.times(self.family, np.exp(theta[self.at[name]]), h)
        return out

    def excess(self, order: Order, times: Mapping[str, F8]) -> F8:
        limits = times[order.than][order.others] if order.limit is None else order.limit
        more = times[order.device][order.steps] - limits
        over: F8 = np.maximum(more / order.whole - order.slack, 0.0)
        return over

    def cost(self, theta: F8, weight: float, times: Mapping[str, F8] | None = None) -> float:
        times = self.times(theta) if times is None else times
        total = sum(float((self.excess(o, times) ** 2).sum()) for o in self.orders) * weight**2
        for name, parameter_set in self.sets.items():
            if name in self.fixed:
                continue
            parameters = theta[self.at[name]]
            total += parameter_set.pull * float(
                (PRIOR**2 * ((parameters - parameter_set.center) / self.spread) ** 2).sum()
            )
            for sample in parameter_set.samples:
                r = np.log(self.family.seconds(np.exp(parameters), sample.h, sample.x)) - sample.log
                rho = 2.0 * LOSS_SCALE**2 * (np.sqrt(1.0 + (r / LOSS_SCALE) ** 2) - 1.0)
                total += sample.weight * float(rho.sum())
        return total

    def normal(self, theta: F8, weight: float) -> tuple[F8, F8]:
        """Return the approximate Hessian and the gradient of half of the cost."""
        hessian, gradient = np.zeros((theta.size, theta.size)), np.zeros(theta.size)
        for name, members in self.sets.items():
            if name not in self.fixed:
                self._own(theta, name, members, hessian, gradient)
        times, slopes = self.times(theta), {}
        for device in self.asked:
            h, name = self.devices[device]
            if name in self.fixed:
                slopes[device] = np.zeros((len(times[device]), self.size))
                continue
            parameters = theta[self.at[name]]
            slope = np.empty((len(times[device]), self.size))
            for j in range(self.size):
                moved = parameters.copy()
                moved[j] += DIFFERENCE
                changed = self.probes.times(self.family, np.exp(moved), h)
                slope[:, j] = (changed - times[device]) / DIFFERENCE
            slopes[device] = slope
        for order in self.orders:
            excess = self.excess(order, times)
            on = np.flatnonzero(excess > 0.0)
            if not len(on):
                continue
            scale = weight / order.whole[on, None]
            one = slopes[order.device][order.steps[on]] * scale
            r = weight * excess[on]
            a = self.at[self.devices[order.device][1]]
            hessian[a, a] += one.T @ one
            if order.limit is not None:
                gradient[a] += one.T @ r
                continue
            two = slopes[order.than][order.others[on]] * scale
            b = self.at[self.devices[order.than][1]]
            hessian[b, b] += two.T @ two
            hessian[a, b] -= one.T @ two
            hessian[b, a] -= two.T @ one
            gradient[a] += one.T @ r
            gradient[b] -= two.T @ r
        return hessian, gradient

    def _own(self, theta: F8, name: str, parameter_set: ParameterSet, hessian: F8, gradient: F8) -> None:
        """Add the terms of a set's prior and rows to the Hessian and gradient."""
        at = self.at[name]
        parameters = theta[at]
        prior = parameter_set.pull * (PRIOR / self.spread) ** 2
        hessian[at, at] += np.diag(prior)
        gradient[at] += prior * (parameters - parameter_set.center)
        for sample in parameter_set.samples:
            base = np.log(self.family.seconds(np.exp(parameters), sample.h, sample.x))
            r = base - sample.log
            w = sample.weight / np.sqrt(1.0 + (r / LOSS_SCALE) ** 2)
            slope = np.empty((len(r), self.size))
            for j in range(self.size):
                moved = parameters.copy()
                moved[j] += DIFFERENCE
                changed = np.log(self.family.seconds(np.exp(moved), sample.h, sample.x))
                slope[:, j] = (changed - base) / DIFFERENCE
            hessian[at, at] += (slope * w[:, None]).T @ slope
            gradient[at] += slope.T @ (w * r)


def solve(
    family: Family, devices: Mapping[str, tuple[F8, str]], sets: Mapping[str, ParameterSet],
    probes: Probes, orders: Sequence[Order], fixed: Mapping[str, F8],
    weights: Sequence[float] = WEIGHTS, steps: int = STEPS,
) -> dict[str, F8]:  # fmt: skip
    """Fit the parameters of every set.

    Parameters
    ----------
    devices : mapping of str to (float64 array, str)
        Device -> its constants and the set it uses.
    fixed : mapping of str to float64 array
        Parameters of sets that are not to move.
    weights, steps : sequence of float, int
        Weights of the inequalities in turn, and most steps at each.
    """
    problem = _Problem(family, devices, sets, probes, orders, fixed)
    theta = problem.start()
    for weight in weights:
        theta = _descend(problem, theta, weight, steps)
    return {name: np.exp(theta[at]) for name, at in problem.at.items()}


def _descend(problem: _Problem, theta: F8, weight: float, most: int) -> F8:
    """Run damped Gauss-Newton steps within the bounds."""
    cost, damping = problem.cost(theta, weight), 1e-3
    for _ in range(most):
        hessian, gradient = problem.normal(theta, weight)
        stuck = ((theta <= problem.low + 1e-9) & (gradient > 0)) | ((theta >= problem.high - 1e-9) & (gradient < 0))
        free = np.flatnonzero(~stuck & problem.moves)
        inner = hessian[np.ix_(free, free)]
        scale = np.diag(np.maximum(np.diag(inner), 1e-8))
        before = cost
        for _ in range(6):
            step = np.zeros_like(theta)
            step[free] = -np.linalg.solve(inner + damping * scale, gradient[free])
            step = np.clip(step, -0.5, 0.5)
            moved = np.clip(theta + step, problem.low, problem.high)
            new = problem.cost(moved, weight)
            if new < cost:
                theta, cost, damping = moved, new, max(damping / 5.0, 1e-7)
                break
            damping *= 6.0
        if before - cost <= 1e-4 * before:
            break
    return theta
