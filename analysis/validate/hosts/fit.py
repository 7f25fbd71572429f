"""Fit of a few host numbers to a run's residuals, each with an 80 % interval.

A small change of a number changes single requests by a large amount, because one admitted a step later joins another
batch. So the run is simulated at several points around the current numbers, a linear model is fitted to the residuals
of every request, and the numbers are moved to its (Huber-weighted) minimum until they converge. Intervals come from
resampling the groups of residuals and the points, and from the common error of all steps (`answers.interval.BETWEEN`),
which a fit attributes to the host. A number without meaning after this is not identified by the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ....workloads.errors import InputError
from ...answers.interval import BETWEEN, LEVEL
from .measured import HostResult

F8 = npt.NDArray[np.float64]
ROUNDS = 5
DRAWS = 1000
HUBER = 1.345
"""Standard deviations beyond which a residual has less weight (Huber: 95 % of the efficiency of least squares)."""
POINTS = (10, 14, 18)
"""Number of simulations of a round that fits one, two or three numbers."""
REACH = 0.08
"""Relative change of the time per output token that the points of a round reach on each side."""
BLIND = 1e-6
"""Relative change of the times below which they count as independent of a number."""
DIGITS = 5
"""Significant digits of a fitted number in a host's file. The final simulation uses the rounded number too, because
single requests of a simulated run depend on further digits."""
STILL = 0.3
"""Largest change of a number, in steps, at which the fit has converged."""
ALIKE = 0.995
"""Cosine between the effects of two numbers above which a run cannot separate them."""
WIDEST = 4.0
"""Maximum ratio of the ends of a positive number's interval; a wider interval means that the run does not determine it."""


@dataclass(frozen=True, slots=True)
class Free:
    """A number of a host that can be fitted.

    Attributes
    ----------
    name : str
        Name in ``--free``.
    field : str
        Field of `HostFitSpec`.
    title, unit : str
        Description and unit in tables.
    start, step : float
        Initial value if the host has no fitted one, and the change for finite differences; [1] or [s].
    low, high : float
        Bounds of the number.
    """

    name: str
    field: str
    title: str
    unit: str
    start: float
    step: float
    low: float
    high: float


FREE = (
    Free("link", "link_multiple", "time of collectives over the class's", "", 1.0, 0.1, 0.05, 50.0),
    Free("latency", "link_latency_s", "latency added to every hop", "us", 0.0, 2e-6, 0.0, 1e-3),
    Free("host", "step_gap_s", "gap between two steps", "us", 0.0, 1e-4, 0.0, 0.1),
)


@dataclass(frozen=True, slots=True)
class Number:
    """A fitted number and its interval, in SI units."""

    free: Free
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """Fitted numbers, and the run simulated with the starting and with the fitted numbers."""

    numbers: tuple[Number, ...]
    before: HostResult
    after: HostResult


def fit_numbers(simulate: Callable[[F8], HostResult], frees: Sequence[Free], start: F8, seed: int) -> Fitted:
    """Fit k numbers of a host to the residuals of a measured run.

    Parameters
    ----------
    simulate : callable
        Simulates the run with given numbers, shape (k,).
    start : float64 array, shape (k,)
        Initial numbers.
    seed : int
        Seed of the points and of the samples.

    Raises
    ------
    InputError
        The run does not determine a number, or cannot separate two of them.
    """
    low, high = (np.array([getattr(f, n) for f in frees]) for n in ("low", "high"))
    rng = np.random.default_rng(seed)
    before, at = simulate(start), start.copy()
    step = _steps(simulate, before, frees, start)
    for done in range(ROUNDS):
        around = np.clip(at, low + step / 2, high)
        points = _points(simulate, around, step, (low, high), rng)
        off, slopes = _lines(points)
        weights = _weights(off[before.fitted], off) * before.fitted
        last, at = at, np.clip(around - step * _solved(off, slopes, weights), low, high)
        if done and np.abs((at - last) / step).max() < STILL:
            break
    _refuse_alike(slopes, weights, frees)
    at = np.array([float(f"{x:.{DIGITS}g}") for x in at])
    draws = around - step * _drawn(before, points, weights, rng)
    ends = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    numbers = tuple(
        Number(f, float(x), float(min(a, x)), float(max(b, x)))
        for f, x, a, b in zip(frees, at, *np.clip(ends, low, high), strict=True)
    )
    _refuse_vague(numbers)
    return Fitted(numbers, before, simulate(at))


@dataclass(frozen=True, slots=True)
class _Points:
    """Runs simulated around the current numbers: distances in steps, shape (m, k), and residuals, shape (m, n)."""

    at: F8
    residuals: F8


def _steps(simulate: Callable[[F8], HostResult], before: HostResult, frees: Sequence[Free], start: F8) -> F8:
    """Return for each number the change that changes times by about `REACH`; refuse numbers without effect."""
    out = []
    for i, free in enumerate(frees):
        changed = start.copy()
        changed[i] += free.step
        changes = simulate(changed).residuals - before.residuals
        effect = abs(float(np.mean(changes[before.fitted])))
        if effect < BLIND:
            raise InputError(f"--free {free.name}", f"no time in this run depends on it ({free.title})")
        out.append(free.step * min(max(REACH / effect, 0.05), 100.0))
    return np.array(out)


def _points(
    simulate: Callable[[F8], HostResult], around: F8, step: F8, bounds: tuple[F8, F8], rng: np.random.Generator
) -> _Points:
    """Simulate the run at random points within one step of the numbers `around`, and at their mirror images."""
    half = rng.uniform(-1.0, 1.0, (POINTS[len(around) - 1] // 2, len(around)))
    at = np.clip(around + step * np.concatenate([half, -half]), *bounds)
    return _Points((at - around) / step, np.array([simulate(one).residuals for one in at]))


def _lines(points: _Points) -> tuple[F8, F8]:
    """Fit each residual by a linear function: return values in the middle, shape (n,), and slopes per step, shape (n, k)."""
    design = np.column_stack([np.ones(len(points.at)), points.at])
    solution: F8 = np.asarray(np.linalg.lstsq(design, points.residuals, rcond=None)[0], dtype=np.float64)
    return solution[0], solution[1:].T


def _weights(usable: F8, every: F8) -> F8:
    """Return the Huber weights of the residuals `every`, from the median and spread of `usable`."""
    middle = float(np.median(usable))
    spread = max(float(np.median(np.abs(usable - middle))) / 0.6745, 1e-6)
    out: F8 = 1.0 / np.maximum(np.abs(every - middle) / (HUBER * spread), 1.0)
    return out


def _solved(off: F8, slopes: F8, weights: F8) -> F8:
    """Return the change of the numbers, in steps, that explains the residuals `off` by weighted least squares."""
    normal, right = slopes.T @ (weights[:, None] * slopes), slopes.T @ (weights * off)
    out: F8 = np.asarray(np.linalg.lstsq(normal, right, rcond=1e-9)[0], dtype=np.float64)
    return out


def _drawn(one: HostResult, points: _Points, weights: F8, rng: np.random.Generator) -> F8:
    """Return bootstrap samples of the change of the numbers, in steps, shape (DRAWS, k).

    Each sample resamples groups of residuals and points, and adds a random error that all residuals share (`BETWEEN`).
    """
    groups = np.unique(one.group[one.fitted])
    counts = np.zeros(int(one.group.max()) + 1)
    out = np.empty((DRAWS, points.at.shape[1]))
    for i in range(DRAWS):
        picked = rng.integers(0, len(points.at), len(points.at))
        off, slopes = _lines(_Points(points.at[picked], points.residuals[picked]))
        counts[:] = 0.0
        np.add.at(counts, groups[rng.integers(0, len(groups), len(groups))], 1.0)
        off = off + BETWEEN * rng.standard_normal()
        out[i] = _solved(off, slopes, weights * counts[one.group])
    return out


def _refuse_alike(slopes: F8, weights: F8, frees: Sequence[Free]) -> None:
    """Refuse two numbers that have the same effect on every request."""
    cross = slopes.T @ (weights[:, None] * slopes)
    size: F8 = np.sqrt(cross.diagonal())
    for i, j in combinations(range(len(frees)), 2):
        if cross[i, j] > ALIKE * size[i] * size[j]:
            raise InputError(
                f"--free {frees[i].name},{frees[j].name}",
                "have the same effect on this run and cannot be separated; free one of them",
            )


def _refuse_vague(numbers: Sequence[Number]) -> None:
    """Refuse a number whose interval is wider than `WIDEST`."""
    for n in numbers:
        if n.free.low > 0.0 and n.high > WIDEST * n.low:
            raise InputError(
                f"--free {n.free.name}", f"this run does not determine it: values from {n.low:.2g} to "
                f"{n.high:.2g} fit equally, because little time depends on it",
            )  # fmt: skip
