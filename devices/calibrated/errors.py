"""How far a fit is from rows, seen and unseen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .family import F8, Family
from .fit import FEW_ROWS, LOSS_SCALE, Fit, Labels, fit, predict

FOLDS = 5
FEW = 5
"""A framework with fewer rows is not judged."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Fractions of the measured time; `median_bias` is of predicted / measured - 1."""

    rows: int
    median_ape: float
    p90_ape: float
    median_bias: float


def errors(predicted: F8, measured: F8) -> Errors:
    """Summarise predicted against measured seconds.

    Examples
    --------
    >>> errors(np.array([1.1, 0.9, 1.0]), np.ones(3)).median_bias
    0.0
    """
    ratio = predicted / measured - 1.0
    ape = np.abs(ratio)
    return Errors(
        len(ratio), float(np.median(ape)), float(np.quantile(ape, 0.9)), float(np.median(ratio))
    )


def constant_model(family: Family, h: F8, x: F8, measured: F8) -> F8:
    """Predictions of the usual model, one efficiency and one constant, fitted to the same rows.

    ``launch + roofline / efficiency``; what a kernel model has to beat.
    """
    from scipy.optimize import least_squares

    floor = family.roofline(h, x)
    log_measured = np.log(measured)

    def predicted(theta: F8) -> F8:
        out: F8 = np.exp(theta[0]) * floor + np.exp(theta[1])
        return out

    def residuals(theta: F8) -> F8:
        return np.log(predicted(theta)) - log_measured

    first = np.log([float(np.median(measured / floor)), float(measured.min())])
    end = least_squares(residuals, first, loss="soft_l1", f_scale=LOSS_SCALE)
    return predicted(end.x)


def by_shape(
    family: Family, h: F8, x: F8, measured: F8, labels: Labels, shapes: npt.NDArray[np.int64],
    start: Fit,
) -> F8:  # fmt: skip
    """Predictions of each row from a fit on the other shapes (`FOLDS` folds over shapes)."""
    order = np.random.default_rng(0).permutation(int(shapes.max()) + 1)
    fold = (order % FOLDS)[shapes]
    out = np.empty(len(measured))
    for number in range(FOLDS):
        out[fold == number] = _unseen(family, h, x, measured, labels, fold == number, start)
    return out


def by_source(family: Family, h: F8, x: F8, measured: F8, labels: Labels, start: Fit) -> F8 | None:
    """Predictions of each framework's rows from a fit on the others.

    NaN where the others have fewer than `FEW_ROWS` rows or it has fewer than `FEW`; None where
    that is so for all.
    """
    out = np.full(len(measured), np.nan)
    for name in sorted(set(labels.tolist())):
        if np.count_nonzero(labels != name) < FEW_ROWS or np.count_nonzero(labels == name) < FEW:
            continue
        out[labels == name] = _unseen(family, h, x, measured, labels, labels == name, start)
    return None if np.isnan(out).all() else out


def _unseen(
    family: Family, h: F8, x: F8, measured: F8, labels: Labels, held: npt.NDArray[np.bool_],
    start: Fit,
) -> F8:  # fmt: skip
    if held.all() or not held.any():
        return family.seconds(family.defaults, h, x[held])
    done = fit(family, h, x[~held], measured[~held], labels[~held], start=start.values)
    return predict(family, done, h, x[held], labels[held])
