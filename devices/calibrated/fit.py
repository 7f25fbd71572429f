"""Fit of a family's parameters to the measured rows of one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ...workloads.records import Records
from .family import F8, Family

PRIOR = 0.007
"""Error of a row that weighs as much as a parameter one standard deviation from its default."""
LOSS_SCALE = 0.01
"""Log error beyond which a row's loss grows linearly: close to a median fit."""
FACTOR_SPREAD = 0.15
"""Usual spread of frameworks' times, as a standard deviation of the logarithm."""
SCALE_SPREAD = 0.7
"""Usual spread of the parameters in `Family.by_framework`, which belong to each framework's small kernels."""
FEW_ROWS = 20
"""Minimum rows of a framework for a separate scale."""
FEW_STEPS = 8
"""Maximum steps of a fit that starts from the result of a fit to more rows."""
KERNEL_ROWS = 20
"""Minimum rows for separate parameters of a framework's kernel."""
TIME = "time"
Labels = npt.NDArray[np.object_]
Scales = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted parameters of one family on one device.

    Attributes
    ----------
    values : float64 array
        In the order of `Family.parameters`.
    scales : mapping of str to mapping of str to float
        Framework -> {"time": multiple of the whole time, parameter: multiple of it}. The first
        has geometric mean 1 over the frameworks and each other one median 1, so that a framework
        never seen gets the base, and one unlike all others does not move that.
    kernels : mapping of str to mapping of str to float64 array
        Framework -> branch of the family -> its parameters, where its rows tell them.
    own : mapping of str to float64 array
        Framework -> all its parameters, where none are shared.
    """

    values: F8
    scales: Scales
    own: Mapping[str, F8] = field(default_factory=dict)
    kernels: Mapping[str, Mapping[str, F8]] = field(default_factory=dict)

    def of(self, family: Family, label: str) -> tuple[F8, float]:
        """Return the parameters of one framework and its factor on the whole time; the base for unknown frameworks."""
        if label in self.own:
            return self.own[label], 1.0
        values, time = self.values.copy(), 1.0
        for name, factor in self.scales.get(label, {}).items():
            if name == TIME:
                time = factor
            else:
                values[family.index(name)] *= factor
        if self.kernels:
            values = family.per_branch(values)
        for branch, of_branch in self.kernels.get(label, {}).items():
            values[family.branches.index(branch)] = of_branch
        return values, time

    def single(self, family: Family, label: str) -> F8:
        """Return a framework's parameters with its factor on the whole time included."""
        return family.slowed(*self.of(family, label))


def predict(family: Family, done: Fit, hardware: Records, inputs: F8, labels: Labels) -> F8:
    """Return the seconds predicted with the parameters of each row's framework; the base for unknown frameworks."""
    out = np.empty(len(inputs))
    for label in set(labels.tolist()):
        rows = labels == label
        values, time = done.of(family, label)
        out[rows] = family.seconds(values, hardware, inputs[rows]) * time
    return out


@dataclass(frozen=True, slots=True)
class _Layout:
    """Positions of a fit's unknowns: parameters, then a column of scales per framework."""

    family: Family
    names: tuple[str, ...]
    columns: tuple[int, ...]
    informed: npt.NDArray[np.bool_]

    @property
    def size(self) -> int:
        return len(self.family.parameters)

    def scales(self, theta: F8) -> F8:
        """Return the log scales, shape (frameworks, 1 + columns): centred, 0 if no row determines them."""
        raw = theta[self.size :].reshape(self.informed.shape) * self.informed
        count = np.maximum(self.informed.sum(axis=0), 1)
        out: F8 = (raw - raw.sum(axis=0) / count) * self.informed
        return out


def _layout(family: Family, hardware: Records, inputs: F8, labels: Labels, center: F8) -> _Layout:
    """Find which frameworks have enough rows for a launch time and parameters that differ by framework."""
    names = tuple(sorted(set(labels.tolist())))
    columns = tuple(family.index(name) for name in family.by_framework)
    informed = np.zeros((len(names), 1 + len(columns)), dtype=np.bool_)
    if family.framework_time:
        informed[:, 0] = [np.count_nonzero(labels == name) >= FEW_ROWS for name in names]
    base = family.seconds(np.exp(center), hardware, inputs)
    for j, column in enumerate(columns):
        moved = center.copy()
        moved[column] += 0.1
        matters = np.abs(np.log(family.seconds(np.exp(moved), hardware, inputs) / base)) > 1e-3
        for i, name in enumerate(names):
            informed[i, 1 + j] = np.count_nonzero(matters & (labels == name)) >= FEW_ROWS
    informed &= informed.sum(axis=0) > 1
    return _Layout(family, names, columns, informed)


def fit(
    family: Family, hardware: Records, inputs: F8, measured: F8, labels: Labels, *, prior: F8 | None = None,
    starts: int = 2, start: F8 | None = None,
) -> Fit:  # fmt: skip
    """Fit the parameters by least squares on ``log(predicted / measured)`` with a soft absolute loss.

    Parameters
    ----------
    hardware : float64 array
        Device constants (see `hardware`).
    inputs, measured, labels : arrays of n rows
        Quantities, seconds, framework of each row.
    prior : float64 array, optional
        Prior of the parameters; default: the family's defaults.
    starts : int
        Starting points; the best end is kept.
    start : float64 array, optional
        One starting point instead, such as the fit to all rows in cross-validation.
    """
    from scipy.optimize import least_squares

    usual = family.usual(inputs)
    inputs, measured, labels = np.ascontiguousarray(inputs[usual]), measured[usual], labels[usual]
    low = np.log([p.low for p in family.parameters])
    high = np.log([p.high for p in family.parameters])
    spread = np.array([p.spread for p in family.parameters])
    center = np.clip(np.log(family.defaults if prior is None else prior), low, high)
    plan = _layout(family, hardware, inputs, labels, center)
    n, shape = plan.size, plan.informed.shape
    pull = np.full(shape, FACTOR_SPREAD)
    pull[:, 1:] = SCALE_SPREAD
    groups = [np.flatnonzero(labels == name) for name in plan.names]
    parts = [np.ascontiguousarray(inputs[rows]) for rows in groups]
    logs = [np.log(measured[rows]) for rows in groups]

    def residuals(theta: F8) -> F8:
        scales = plan.scales(theta)
        out = []
        for scale, part, log in zip(scales, parts, logs, strict=True):
            values = theta[:n].copy()
            values[list(plan.columns)] += scale[1:]
            out.append(np.log(family.seconds(np.exp(values), hardware, part)) - log + scale[0])
        drawn = PRIOR * (theta[:n] - center) / spread
        pulled = PRIOR * theta[n:] / pull.ravel()
        return np.concatenate([*out, drawn, pulled])

    limit = np.full(shape, 1.5).ravel()
    bounds = np.concatenate([low, -limit]), np.concatenate([high, limit])
    steps = np.concatenate([spread, pull.ravel()])
    margin = 1e-6 * (bounds[1] - bounds[0])
    rng = np.random.default_rng(0)
    best, lowest = center, np.inf
    first = center if start is None else np.clip(np.log(start), low, high)
    for number in range(starts if start is None else 1):
        theta = np.concatenate([first, np.zeros(limit.size)])
        if number:
            theta[:n] += rng.normal(size=n) * spread * 0.7
        end = least_squares(
            residuals, np.clip(theta, bounds[0] + margin, bounds[1] - margin), bounds=bounds,
            loss="soft_l1", f_scale=LOSS_SCALE, diff_step=np.full(steps.size, 1e-4), x_scale=steps,
            max_nfev=60 if start is None else FEW_STEPS,
            ftol=1e-5, xtol=1e-5,
        )  # fmt: skip
        if end.cost < lowest:
            best, lowest = end.x, end.cost
    _forget(plan, best, center, hardware, inputs)
    return _result(plan, best)


def with_kernels(
    family: Family, done: Fit, hardware: Records, inputs: F8, measured: F8, labels: Labels, start: Fit | None = None
) -> Fit:
    """Return a fit with separate parameters for the kernels of each framework with enough rows.

    Parameters
    ----------
    start : Fit, optional
        One with such parameters, to start from in cross-validation.
    """
    which, kernels = family.kernel_of(inputs), dict[str, dict[str, F8]]()
    kind = np.array([b.partition("+")[0] for b in family.branches], dtype=object)

    def own(rows: npt.NDArray[np.bool_], branch: str, prior: F8, time: float) -> F8:
        label = labels[rows][0]
        first = None if start is None else start.kernels.get(label, {}).get(branch)
        return fit(family, hardware, np.ascontiguousarray(inputs[rows]), measured[rows] / time, labels[rows],
                   prior=prior, starts=1, start=first).values  # fmt: skip

    for label in sorted(set(labels.tolist())) if family.branches else ():
        values, time = done.of(family, label)
        for name in dict.fromkeys(kind[which[labels == label]]):
            every = (labels == label) & (kind[which] == name)
            if np.count_nonzero(every) < KERNEL_ROWS:
                continue
            combined = own(every, name, values, time)
            for branch in family.branches:
                if branch.partition("+")[0] != name:
                    continue
                rows = every & (which == family.branches.index(branch))
                if branch.endswith(family.aside) and np.count_nonzero(rows) < KERNEL_ROWS:
                    continue
                apart = KERNEL_ROWS <= np.count_nonzero(rows) < np.count_nonzero(every)
                values = own(rows, branch, combined, time) if apart else combined
                kernels.setdefault(label, {})[branch] = values
    return replace(done, kernels=kernels)


def _forget(plan: _Layout, theta: F8, center: F8, hardware: Records, inputs: F8) -> None:
    """Reset parameters that no row depends on to their prior.

    Each reset is tried in full, together with those already made: near the fitted value a parameter may have no effect,
    although the way back to the default has one.
    """
    base = plan.family.seconds(np.exp(theta[: plan.size]), hardware, inputs)
    for column in range(plan.size):
        moved = theta[: plan.size].copy()
        moved[column] = center[column]
        if abs(theta[column] - moved[column]) < 0.1:  # a short move tells nothing by itself
            moved[column] += 0.1 if theta[column] <= center[column] else -0.1
        change = np.abs(np.log(plan.family.seconds(np.exp(moved), hardware, inputs) / base))
        if change.max() < 1e-3:
            theta[column] = center[column]


def _result(plan: _Layout, theta: F8) -> Fit:
    heads = (TIME, *plan.family.by_framework)
    logs, base = plan.scales(theta), theta[: plan.size].copy()
    for j, column in enumerate(plan.columns, start=1):
        informed = plan.informed[:, j]
        if informed.any():
            bounds = plan.family.parameters[column]
            moved = base[column] + np.median(logs[informed, j])
            middle = np.clip(moved, np.log(bounds.low), np.log(bounds.high)) - base[column]
            base[column] += middle
            logs[informed, j] -= middle
    scales = {
        name: {head: float(np.exp(v)) for head, v, known in zip(heads, row, informed, strict=True) if known}
        for name, row, informed in zip(plan.names, logs, plan.informed, strict=True)
    }
    return Fit(np.exp(base), scales)
