"""Fit of the width of each factor's interval (`answers.error_factors`) to measured runs, scored on sources left out.

The logarithm of measured over simulated time has Student's t about 0. Its squared scale is the sum of the kernels' own
and of every factor of the run; below 0 the factors' part has a common ratio. A system counts once for any number of
loads. Factors have a common prior, so that an unseen factor still widens. One more number, a factor on all of them (in
training steps on the one of any deployment), is the least with which the intervals contain `LEVEL` of the values of sources left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....devices.ratios import Ratios, Z
from ....workloads.errors import InputError
from ...answers.error_factors import (
    ANY,
    FACTORS,
    FIRST,
    POWER,
    STEP,
    TOGETHER,
    TOKEN,
    TRAINING,
    UNPRICED,
    Widths,
    fitted_widths,
)
from ...answers.interval import LEVEL
from ..check import RunCheck

F8 = npt.NDArray[np.float64]
EACH = "each"
"""All sources, one left out after the other."""
QUANTITIES = (STEP, FIRST, POWER, TRAINING)
FREEDOM = 4.0
"""Degrees of freedom of the errors: tails as heavy as in published runs."""
BASE, PRIOR, SPREAD = 0.25, 0.15, 1.0
"""Prior of a factor's scale: the scale of any deployment is this share of the others'; spread of its logarithm. The
others' middle is fitted, near `PRIOR`."""
SERVED = 0.1
"""The same share for steps and first tokens of servers, where every other known cause is a factor."""
BELOW = {FIRST: 0.3}
"""Prior of the factors' part below 0 over the part above, 1 for other quantities: host and server time outside of
steps makes a first token later, not earlier."""
TRIED = np.arange(0.6, 2.51, 0.05)
LEAST_TIMES = {STEP: 1.1, TRAINING: 1.0}
"""Least number on the widths of a quantity. The fit of steps has few loads of each system, and its rule says 0.9. Of 149 other serving points, each source
left out, 0.9 contains 82 %, 1.0 86 %, 1.1 and 1.2 both 88 %; if each system of InferenceX counts once 67, 73 and 76 % of it."""
LEAST = 0.01
"""Scale below which an error counts as zero."""
FEWEST = 5
"""Sources from which on that number is chosen."""
PLACES = 3


class ErrorRow(NamedTuple):
    """One measured time over the simulated one: logarithm of the ratio, and of the kernels' own interval; factors; source."""

    quantity: str
    error: float
    low: float
    high: float
    amounts: Mapping[str, float]
    source: str
    system: str


def left_out_with(entry: RunCheck) -> str:
    """Name of what is left out together: a source, or a model of training steps, nearly all of which one source published."""
    trained = any(basis.quantity == TRAINING for basis in entry.basis.values())
    return entry.labels.get("model" if trained else "source", "")


def error_rows(entries: Iterable[RunCheck]) -> list[ErrorRow]:
    """Rows of errors from entries, for all metrics that a fit uses."""
    out = []
    for e in entries:
        for name, basis in e.basis.items():
            bounded = basis.kernels.low > 0.0 and basis.kernels.high < np.inf  # not where it may be overloaded
            if basis.quantity and bounded and e.simulated[name] > 0.0 and e.measured[name] > 0.0:
                sign = -1.0 if is_rate(name) else 1.0
                error = sign * float(np.log(e.measured[name] / e.simulated[name]))
                low, high = -np.log(basis.kernels.low), np.log(basis.kernels.high)
                out.append(
                    ErrorRow(basis.quantity, error, low, high, basis.amounts, left_out_with(e), f"{e.group} {e.costs}")
                )
    return out


def is_rate(metric: str) -> bool:
    """Return whether a larger value means a shorter time."""
    return metric.endswith("per_s")


class Scales(NamedTuple):
    """A fit of one quantity: scale of each factor, its ratio below 0, and the power of the kernels' own errors."""

    names: tuple[str, ...]
    scale: F8
    below: float
    kernels: float

    def ends(self, rows: Sequence[ErrorRow], times: float) -> tuple[F8, F8]:
        """Return the logarithms of the rows' lower and upper interval ends, with factors' widths times `times`."""
        reach = times * QUANTILE * np.sqrt(_amounts(rows, self.names) ** 2 @ self.scale**2)
        low, high = (self.kernels * np.array([getattr(r, end) for r in rows]) for end in ("low", "high"))
        return -np.hypot(low, self.below * reach), np.hypot(high, reach)


def fit_widths(entries: Sequence[RunCheck], known: Widths, times: Mapping[str, float] | None = None) -> Widths:
    """Widths that fit some runs; what has no cost model, and quantities without a run, are as in `known`.

    Parameters
    ----------
    times : mapping of str to float, optional
        `_times` of each quantity, where more runs tell of it.
    """
    rows, table = error_rows(entries), dict(known.table)
    powers = {STEP: known.kernels, FIRST: known.first_kernels}
    for quantity in QUANTITIES:
        stay = _fixed(known, quantity)
        some = _rows_of(rows, quantity, stay)
        if not some and quantity in table:
            continue
        scales, wider = _fit(some, quantity), _times(some) if times is None else times.get(quantity, 1.0)
        powers[quantity] = scales.kernels
        high = QUANTILE * scales.scale
        high[: 1 if quantity == TRAINING else None] *= wider  # the first is `ANY`
        ends = {
            n: Ratios(-round(x * scales.below, PLACES), 0.0, round(x, PLACES))
            for n, x in zip(scales.names, high.tolist(), strict=True)
        }
        table[quantity] = stay | ends
    return Widths(round(powers[STEP], PLACES), table, round(powers[FIRST], PLACES))


FIXED = {STEP: frozenset(f.name for f in FACTORS[:UNPRICED]), FIRST: frozenset([TOGETHER])}
"""Factors that are not fitted here: of a step, as their medians are not zero; of a first token, as the amount is what can happen at most."""


def _fixed(known: Widths, quantity: str) -> dict[str, Ratios]:
    """Return the known widths of a quantity's factors that are not fitted."""
    return {name: r for name, r in known.table.get(quantity, {}).items() if name in FIXED.get(quantity, ())}


def _rows_of(rows: Iterable[ErrorRow], quantity: str, stay: Mapping[str, Ratios]) -> list[ErrorRow]:
    """Return the rows of one quantity; factors that are not fitted count by their known widths."""
    return [_shifted(r, stay) for r in rows if r.quantity == quantity]


def _shifted(row: ErrorRow, known: Mapping[str, Ratios]) -> ErrorRow:
    """A row whose factors without a cost model count to what is known, as kernels do."""
    stay = [(row.amounts.get(name, 0.0), r) for name, r in known.items()]
    low = np.hypot(row.low, np.sqrt(sum((x * (r.middle - r.low)) ** 2 for x, r in stay)))
    high = np.hypot(row.high, np.sqrt(sum((x * (r.high - r.middle)) ** 2 for x, r in stay)))
    return row._replace(error=row.error - sum(x * r.middle for x, r in stay), low=float(low), high=float(high))


def _times(rows: Sequence[ErrorRow]) -> float:
    """Return the least factor on all widths with which intervals contain `LEVEL` of the values of left-out sources.

    Runs with a factor that is not fitted do not count. Nor do training steps with experts, because five models are too few to narrow
    the factors of experts by; each release of a recipe is another run.
    """
    rows = [r for r in rows if r.quantity != STEP or not FIXED[STEP] & r.amounts.keys()]
    sources = sorted({r.source for r in rows})
    if len(sources) < FEWEST:
        return 1.0
    quantity = rows[0].quantity
    dense = np.array([float("experts" not in r.amounts) for r in rows])
    weights, error = dense if quantity == TRAINING else _weights(rows), np.array([r.error for r in rows])
    inside = np.zeros(len(TRIED))
    for source in sources:
        scales = _fit([r for r in rows if r.source != source], quantity)
        chosen = weights * [r.source == source for r in rows]
        ends = (scales.ends(rows, float(times)) for times in TRIED)
        inside += [chosen @ ((low <= error) & (error <= high)) for low, high in ends]
    enough = inside >= LEVEL * weights.sum()
    return max(float(TRIED[np.argmax(enough) if enough.any() else -1]), LEAST_TIMES.get(quantity, 0.0))


def _weights(rows: Sequence[ErrorRow]) -> F8:
    """Return the weights of rows: the rows of a system count as one."""
    rows_by_system = Counter(r.system for r in rows)
    return np.array([1.0 / rows_by_system[r.system] for r in rows])


def _amounts(rows: Sequence[ErrorRow], names: Sequence[str]) -> F8:
    return np.array([[r.amounts.get(name, 0.0) for name in names] for r in rows])


QUANTILE = 1.5332
"""The 90th percentile of Student's t with `FREEDOM`."""


def _fit(rows: Sequence[ErrorRow], quantity: str) -> Scales:
    """Fit the most likely scales of all factors of a quantity."""
    from scipy.optimize import minimize

    names = (ANY, *(f.name for f in FACTORS if quantity in f.of and f.name not in FIXED.get(quantity, ())))
    least = SERVED if quantity in (STEP, FIRST) else BASE
    usual = np.log(np.where(np.arange(len(names)) == 0, least, 1.0))
    if not rows:
        return Scales(names, PRIOR * np.exp(usual), 1.0, 1.0)
    amount, weights, error = _amounts(rows, names) ** 2, _weights(rows), np.array([r.error for r in rows])
    kernel_errors = np.array([r.high if r.error > 0.0 else r.low for r in rows]) / Z

    lower = np.log(BELOW.get(quantity, 1.0))

    def lost(x: F8) -> tuple[float, F8]:
        factors, below, kernels, middle = x[:-3], x[-3], x[-2], x[-1]
        side = np.where(error > 0.0, 1.0, np.exp(2.0 * below))
        of_kernels, of_factors = (kernel_errors * np.exp(kernels)) ** 2, amount * np.exp(2.0 * factors) * side[:, None]
        square = of_kernels + of_factors.sum(axis=1) + LEAST**2
        part = error**2 / square / FREEDOM
        likely = 0.5 * np.log(square) + (FREEDOM + 1.0) / 2.0 * np.log1p(part)
        slope = weights / square * (1.0 - (FREEDOM + 1.0) * part / (1.0 + part))  # of the squares' logarithms, twice
        apart, own_prior = (
            (factors - usual - middle) / SPREAD**2,
            np.array([(below - lower) / 0.25, kernels / 0.04, middle - np.log(PRIOR)]),
        )
        prior = 0.5 * (
            SPREAD**2 * apart @ apart + 0.25 * own_prior[0] ** 2 + 0.04 * own_prior[1] ** 2 + own_prior[2] ** 2
        )
        ends = np.array([slope @ (of_factors.sum(axis=1) * (error <= 0.0)), slope @ of_kernels, -apart.sum()])
        return float(weights @ likely + prior), np.concatenate([slope @ of_factors + apart, ends + own_prior])

    start = np.concatenate([usual + np.log(PRIOR), [0.0, 0.0, np.log(PRIOR)]])
    optimum = minimize(lost, start, jac=True, method="L-BFGS-B").x
    return Scales(names, np.exp(optimum[:-3]), float(np.exp(optimum[-3])), float(np.exp(optimum[-2])))


def left_out_in_turn(entries: Sequence[RunCheck], without: str) -> list[RunCheck]:
    """Return the entries of a source, or of `EACH`, with intervals by widths fitted to the other sources only (except `_times`, one number)."""
    sources = sorted({left_out_with(e) for e in entries if e.labels})
    if without != EACH and without not in sources:
        raise InputError(f"--without {without}", f"must be {EACH} or a source of these runs: {', '.join(sources)}")
    rows, out = error_rows(entries), []
    known = fitted_widths()
    fixed = {quantity: _fixed(known, quantity) for quantity in QUANTITIES}
    times = {quantity: _times(_rows_of(rows, quantity, fixed[quantity])) for quantity in QUANTITIES}
    bare = Widths(1.0, {TOKEN: known.table[TOKEN], STEP: fixed[STEP], FIRST: fixed[FIRST]})
    for source in sources if without == EACH else [without]:
        others = [e for e in entries if e.labels and left_out_with(e) != source]
        if not error_rows(others):
            raise InputError(f"--without {without}", "leaves no run that widths can be fitted to")
        widths = fit_widths(others, bare, times)
        out += [e.with_widths(widths) for e in entries if left_out_with(e) == source]
    return out


def widths_yaml(widths: Widths, entries: Sequence[RunCheck]) -> str:
    """Text of `error_factors.yaml`: what was fitted, and to what."""
    rows = error_rows(entries)
    told = Counter(r.source for r in rows)
    lines = [
        "# Errors of deployments beyond their kernels' errors: logarithms of measured over simulated time, 10th, 50th and 90th percentile.",
        "# Written by `opbyte validate runs --fit`; what each factor is: error_factors.py.",
        "# Errors by source: " + ", ".join(f"{name} {count}" for name, count in sorted(told.items())),
        f"kernels: {widths.kernels}", f"first_kernels: {widths.first_kernels}", "widths:",
    ]  # fmt: skip
    for quantity, known in widths.table.items():
        lines.append(f"  {quantity}:")
        lines += [f"    {name}: [{r.low:g}, {r.middle:g}, {r.high:g}]" for name, r in known.items()]
    return "\n".join(lines) + "\n"
