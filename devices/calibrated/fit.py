"""Fit a family's parameters to the measured rows of one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .family import F8, Family

PRIOR = 0.05
"""Weight of a parameter one standard deviation from its default, in units of one row's
residual of 5 %."""
LOSS_SCALE = 0.05
"""Log error beyond which a row counts linearly: close to a median fit."""
FACTOR_SPREAD = 0.15
"""Usual spread of frameworks around each other, as a standard deviation of the logarithm."""
Labels = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted parameters of one family on one device.

    Attributes
    ----------
    values : float64 array
        In the order of `Family.parameters`.
    factors : mapping of str to float
        Framework -> multiple of the base time; geometric mean 1, so that a framework never
        seen gets the base.
    """

    values: F8
    factors: Mapping[str, float]

    def factor(self, labels: Labels) -> F8:
        """Factor of each row's framework; 1 where it is unknown."""
        return np.array([self.factors.get(label, 1.0) for label in labels])


def fit(
    family: Family,
    h: F8,
    x: F8,
    measured: F8,
    labels: Labels,
    *,
    prior: F8 | None = None,
    starts: int = 3,
    weights: F8 | None = None,
) -> Fit:
    """Least squares on ``log(predicted / measured)`` with a soft absolute loss.

    Parameters
    ----------
    family : Family
    h : float64 array
        Device constants (see `hardware`).
    x, measured, labels : arrays of n rows
        Quantities, seconds, framework of each row.
    prior : float64 array, optional
        Values the parameters are drawn to; the family's defaults without it.
    starts : int
        Starting points; the best end is kept.
    weights : float64 array, optional
        Weight of each row.
    """
    from scipy.optimize import least_squares

    center = family.defaults if prior is None else prior
    low = np.log([p.low for p in family.parameters])
    high = np.log([p.high for p in family.parameters])
    spread = np.array([p.spread for p in family.parameters])
    center = np.clip(np.log(center), low, high)
    names, which = np.unique(labels.astype(str), return_inverse=True)
    several = len(names) if len(names) > 1 else 0
    n = len(center)
    log_measured = np.log(measured)
    root = np.sqrt(weights) if weights is not None else np.ones(len(measured))

    def residuals(theta: F8) -> F8:
        predicted = family.seconds(np.exp(theta[:n]), h, x)
        error = np.log(predicted) - log_measured
        drawn = PRIOR * (theta[:n] - center) / spread
        if not several:
            return np.concatenate([root * error, drawn])
        factors = theta[n:] - theta[n:].mean()
        pulled = PRIOR * theta[n:] / FACTOR_SPREAD
        return np.concatenate([root * (error + factors[which]), drawn, pulled])

    bounds = (
        np.concatenate([low, np.full(several, -1.5)]),
        np.concatenate([high, np.full(several, 1.5)]),
    )
    rng = np.random.default_rng(0)
    best, lowest = None, np.inf
    for start in range(starts):
        theta = np.concatenate([center, np.zeros(several)])
        if start:
            theta[:n] += rng.normal(size=n) * spread * 0.7
        margin = 1e-6 * (bounds[1] - bounds[0])
        theta = np.clip(theta, bounds[0] + margin, bounds[1] - margin)
        end = least_squares(
            residuals, theta, bounds=bounds, loss="soft_l1", f_scale=LOSS_SCALE,
            diff_step=1e-4, x_scale=np.concatenate([spread, np.full(several, FACTOR_SPREAD)]),
            max_nfev=60, ftol=1e-5, xtol=1e-5,
        )  # fmt: skip
        if end.cost < lowest:
            best, lowest = end.x, end.cost
    assert best is not None
    found = best[n:] - best[n:].mean() if several else np.zeros(len(names))
    return Fit(
        np.exp(best[:n]), dict(zip(names.tolist(), np.exp(-found).tolist(), strict=True))
    )


def predict(family: Family, done: Fit, h: F8, x: F8, labels: Labels) -> F8:
    """Seconds with the factor of each row's framework."""
    return family.seconds(done.values, h, x) * done.factor(labels)
