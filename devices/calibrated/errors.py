"""Errors of a fit on rows that it was fitted to, and on rows that were left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...workloads.records import Records
from .family import F8, Family
from .fit import FEW_ROWS, LOSS_SCALE, Fit, Labels, fit, predict, with_kernels

FOLDS = 3
FEW = 5
"""Minimum rows of a framework for a judgement of its errors."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors as fractions of the measured time; `median_bias` is the median of predicted / measured - 1."""

    rows: int
    median_ape: float
    p90_ape: float
    median_bias: float

    @classmethod
    def of(cls, ratios: F8) -> Errors:
        """Return the errors of predictions: the single definition of their medians."""
        ape = np.abs(ratios)
        median, tail, bias = np.median(ape), np.quantile(ape, 0.9), np.median(ratios)
        return cls(len(ratios), float(median), float(tail), float(bias))

    def figures(self) -> dict[str, float]:
        """Return the three errors by their names in results."""
        return {name: getattr(self, name) for name in ("median_ape", "p90_ape", "median_bias")}


def errors(predicted: F8, measured: F8) -> Errors:
    """Return the errors of predicted against measured seconds.

    Examples
    --------
    >>> errors(np.array([1.1, 0.9, 1.0]), np.ones(3)).median_bias
    0.0
    """
    return Errors.of(predicted / measured - 1.0)


def constant_model(floor: F8, measured: F8, unseen: F8) -> F8:
    """Return the predictions of the usual model with one efficiency and one constant, for comparison.

    The model ``launch + roofline / efficiency`` is fitted to rows with the rooflines `floor`, and applied to rows with
    the rooflines `unseen`.
    """
    from scipy.optimize import least_squares

    log_measured = np.log(measured)

    def predicted(theta: F8, at: F8) -> F8:
        out: F8 = np.exp(theta[0]) * at + np.exp(theta[1])
        return out

    def residuals(theta: F8) -> F8:
        return np.log(predicted(theta, floor)) - log_measured

    first = np.log([float(np.median(measured / floor)), float(measured.min())])
    end = least_squares(residuals, first, loss="soft_l1", f_scale=LOSS_SCALE)
    return predicted(end.x, unseen)


def constant_by_shape(family: Family, hardware: Records, inputs: F8, measured: F8, shapes: npt.NDArray[np.int64]) -> F8:
    """Return predictions of the usual model in cross-validation: for each row fitted to other shapes, as `by_shape`."""
    floor, fold = family.roofline(hardware, inputs), _folds(shapes)
    out = np.empty(len(measured))
    for number in range(FOLDS):
        left_out = fold == number
        if left_out.any():
            rest = ~left_out if not left_out.all() else left_out
            out[left_out] = constant_model(floor[rest], measured[rest], floor[left_out])
    return out


def _folds(shapes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    order = np.random.default_rng(0).permutation(int(shapes.max()) + 1)
    fold: npt.NDArray[np.int64] = (order % FOLDS)[shapes]
    return fold


def by_shape(
    family: Family,
    hardware: Records,
    inputs: F8,
    measured: F8,
    labels: Labels,
    shapes: npt.NDArray[np.int64],
    start: Fit,
) -> F8:
    """Return the prediction of each row by a fit to other shapes (`FOLDS` folds over shapes)."""
    fold = _folds(shapes)
    out = np.empty(len(measured))
    for number in range(FOLDS):
        out[fold == number] = _unseen(family, hardware, inputs, measured, labels, fold == number, start)
    return out


def by_source(family: Family, hardware: Records, inputs: F8, measured: F8, labels: Labels, start: Fit) -> F8 | None:
    """Return predictions of each framework's rows by the base of a fit to the other frameworks.

    NaN if the others have fewer than `FEW_ROWS` rows or the framework has fewer than `FEW`; None if all are NaN.
    """
    out = np.full(len(measured), np.nan)
    for name in sorted(set(labels.tolist())):
        left_out = labels == name
        if np.count_nonzero(~left_out) >= FEW_ROWS and np.count_nonzero(left_out) >= FEW:
            done = fit(family, hardware, inputs[~left_out], measured[~left_out], labels[~left_out], start=start.values)
            out[left_out] = predict(family, done, hardware, inputs[left_out], labels[left_out])
    return None if np.isnan(out).all() else out


def _unseen(
    family: Family,
    hardware: Records,
    inputs: F8,
    measured: F8,
    labels: Labels,
    left_out: npt.NDArray[np.bool_],
    start: Fit,
) -> F8:
    if left_out.all() or not left_out.any():
        return family.seconds(family.defaults, hardware, inputs[left_out])
    seen = (hardware, inputs[~left_out], measured[~left_out], labels[~left_out])
    done = with_kernels(family, fit(family, *seen, start=start.values), *seen, start)
    return predict(family, done, hardware, inputs[left_out], labels[left_out])
