"""Results that all validations share: predicted and measured values, accepted errors, and skipped input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.calibrate import MIN_ROWS, FamilyRows
from ...devices.calibrated.errors import Errors
from ...devices.calibrated.family import F8
from ...devices.lines import BoundsSpec
from ...workloads.kernel_tables import KernelTable, Skipped
from ..answers.error_factors import Widths
from ..answers.interval import LEVEL, Interval
from ..show.result import Result, skipped_remarks
from ..show.text import Records, Rows, seconds

WORDS = {"median_ape_bound": "median at most", "p90_ape_bound": "9 of 10 at most", "n": "rows",
         "median_ape": "median error", "p90_ape": "9 of 10 within"}  # fmt: skip
NO_TIMES = {"per_s": "1/s", "power": "W", "energy": "J"}
"""Units of metrics that are not times, by a part of their names."""


def for_people(rows: Rows) -> Records:
    """Return rows with readable column names and with fractions as percentages.

    Examples
    --------
    >>> for_people([{"n": 5, "read_median_ape": 0.047, "median_bias": -0.01, "p90_ape_bound": None}])
    [{'rows': 5, 'read median error': '4.7%', 'median bias': '-1.0%', '9 of 10 at most': None}]
    """

    def name(key: str) -> str:
        for old, new in WORDS.items():
            key = f"_{key}_".replace(f"_{old}_", f"_{new}_").strip("_")
        return key.replace("_", " ")

    def shown(key: str, x: Any) -> Any:
        return percent(x, "+" if "bias" in key else "") if isinstance(x, float) else x

    return [{name(k): shown(k, x) for k, x in row.items()} for row in rows]


def percent(value: float | None, sign: str = "") -> str:
    """Return a fraction as a percentage with one decimal, and with its sign if `sign` is "+"; "-" for None."""
    return "-" if value is None else f"{value:{sign}.1%}"


def left_out(skipped: Sequence[Skipped]) -> Records:
    """Return the skipped rows and files as a table: file, line and reason."""
    return [{"file": s.file, "line": s.line or None, "reason": s.reason} for s in skipped]


def summary(off: Sequence[float], inside: Sequence[bool | None] = ()) -> dict[str, Any]:
    """Return number, median, 90th percentile and bias of relative errors, and the share of measured values in their intervals."""
    covered = [x for x in inside if x is not None]
    values = Errors.of(np.array(off)).figures() if len(off) else dict.fromkeys(("median_ape", "p90_ape", "median_bias"))
    return {"n": len(off), **values, "within": sum(covered) / len(covered) if covered else None}


ALIKE = 0.37
"""Intra-class correlation of whether the interval of a point contains its measured value, with systems as classes. Source:
101 systems, 380 rates, times per token and batches of published runs ($OPBYTE_DATA/real_runs)."""


def by_chance(systems: Sequence[str]) -> dict[str, Any]:
    """Return the number of systems, and the 90 % range of the share of points inside correct 80 % intervals.

    `systems` has the system of each point. Errors of points of one system are correlated, so the share of each system is
    sampled from a beta distribution with mean `LEVEL` and the intra-class correlation `ALIKE`.
    """
    many = list(Counter(systems).values())
    if not many:
        return {"systems": 0, "chance_least": None, "chance_most": None}
    rng = np.random.default_rng(0)
    sure = 1.0 / ALIKE - 1.0
    samples = rng.beta(LEVEL * sure, (1.0 - LEVEL) * sure, size=(4000, len(many)))
    low, high = np.quantile(rng.binomial(many, samples).sum(axis=1) / sum(many), [0.05, 0.95]).tolist()
    return {"systems": len(many), "chance_least": low, "chance_most": high}


class Compared(Result):
    """Result of a validation; a field `skipped`, if there is one, lists the input that was not used."""

    __slots__ = ()
    skipped: Sequence[Any]

    @property
    def passed(self) -> bool:
        """Return whether all errors are within their bounds; True without bounds."""
        return True

    def remarks(self) -> Sequence[str]:
        return skipped_remarks(getattr(self, "skipped", ()))


class Checked(Compared):
    """Result of a validation with a field `checks`; each check has a method `record` and a verdict `passed`."""

    __slots__ = ()
    checks: Sequence[Any]

    @property
    def passed(self) -> bool:
        """Return whether there is a check and no check exceeds its bounds."""
        return bool(self.checks) and all(check.passed is not False for check in self.checks)

    def records(self) -> Records:
        return [check.record() for check in self.checks]

    def rows(self) -> Rows:
        return for_people(self.records())


@dataclass(frozen=True, slots=True)
class Check:
    """Measured and predicted values of one kernel family on one device, with accepted errors.

    Attributes
    ----------
    basis : str
        Where the parameters come from: "fitted", "transferred" or "default".
    predicted, measured : float64 array, shape (n,)
        Values of each row: times [s], or power [W].
    bounds : BoundsSpec or None
        Largest accepted errors; None if no errors are judged.
    held : bool array, shape (n,), or None
        Rows that the bounds apply to; by default all. With fewer than `MIN_ROWS` of them there is no verdict.
    seen : int
        Number of rows from sources that the model was fitted to.
    rows : FamilyRows or None
        The same rows as quantities of a kernel family.
    more, last : mapping
        Additional values of the result, by name, before the bounds and at the end.
    """

    family: str
    title: str
    device: str
    basis: str
    table: KernelTable
    predicted: F8
    measured: F8
    bounds: BoundsSpec | None = None
    held: npt.NDArray[np.bool_] | None = None
    seen: int = 0
    rows: FamilyRows | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)

    @property
    def off(self) -> F8:
        """Return the relative error of each row: predicted / measured - 1."""
        return self.predicted / self.measured - 1.0

    @property
    def errors(self) -> Errors:
        return Errors.of(self.off)

    @property
    def passed(self) -> bool | None:
        """Return whether the errors are within the bounds; None without bounds, or with too few rows that they apply to."""
        off = self.off if self.held is None else self.off[self.held]
        if self.bounds is None or (self.held is not None and len(off) < MIN_ROWS):
            return None
        errors = Errors.of(off)
        small = errors.median_ape <= self.bounds.median_ape and errors.p90_ape <= self.bounds.p90_ape
        return small and abs(errors.median_bias) <= self.bounds.median_bias

    def record(self) -> dict[str, Any]:
        """Return the check as one row of a table: errors, bounds and verdict."""
        e, most = self.errors, self.bounds
        return {
            "family": self.family, "device": self.device, "n": e.rows, **e.figures(), "basis": self.basis, **self.more,
            "median_ape_bound": most and most.median_ape, "p90_ape_bound": most and most.p90_ape,
            "passed": self.passed, **self.last,
        }  # fmt: skip


Refit = Callable[[Widths], Interval]


class IntervalBasis(NamedTuple):
    """Inputs of a metric's interval, from which it can be recomputed with other widths of error factors.

    `quantity`: the quantity whose widths a fit learns from this metric ("": none). `kernels`: interval of the kernels only.
    `amounts`: amount of each error factor in the run. `refit`: returns the interval for given widths.
    """

    quantity: str
    kernels: Interval
    amounts: Mapping[str, float]
    refit: Refit


@dataclass(frozen=True, slots=True)
class RunCheck:
    """Measured and simulated values of one stage, static batch or published point.

    Attributes
    ----------
    stage : int or None
        Number of the stage; None for a static batch and for a published point.
    measured, simulated : dict of str to float
        Values by metric, in SI units; the same metrics in both.
    costs : str
        System, and source of the ops' times.
    group : str
        Data set of a published point.
    factors : mapping of str to Interval
        Intervals as factors on the simulated values, by metric.
    basis : mapping of str to IntervalBasis
        Inputs of these intervals, by metric.
    labels : mapping of str to str
        Device, model, engine with its version, and concurrency of a published point.
    """

    run: str
    stage: int | None
    measured: dict[str, float]
    simulated: dict[str, float]
    costs: str
    group: str = ""
    factors: Mapping[str, Interval] = field(default_factory=dict)
    basis: Mapping[str, IntervalBasis] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def with_widths(self, widths: Widths) -> RunCheck:
        """Return the check with intervals of other widths."""
        return replace(
            self, factors=dict(self.factors) | {name: inputs.refit(widths) for name, inputs in self.basis.items()}
        )

    def metrics(self, sure: bool = False) -> dict[str, dict[str, Any]]:
        """Return measured and simulated value and relative error of every metric; with `sure` also the ends of its interval."""
        out: dict[str, dict[str, Any]] = {}
        for name, value in self.measured.items():
            value_own = self.simulated[name]
            out[name] = {"measured": value, "simulated": value_own, "error": value_own / value - 1.0}
            if sure and name in self.factors:
                out[name]["low"], out[name]["high"] = self.factors[name].of(value_own)
        return out

    def within(self, name: str) -> bool | None:
        """Return whether the measured value is inside the simulated interval; None without one."""
        if name not in self.factors:
            return None
        low, high = self.factors[name].of(self.simulated[name])
        return low <= self.measured[name] and (high is None or self.measured[name] <= high)

    def table(self, sure: bool = False) -> Records:
        """Return the metrics as a table of text, with `sure` including their intervals."""
        out = []
        for name, v in self.metrics(sure=True).items():
            row: dict[str, Any] = {"metric": name.replace("_", " "), "measured": _shown(name, v["measured"]),
                   "simulated": _shown(name, v["simulated"]), "error": percent(v["error"], "+")}  # fmt: skip
            if sure:
                high = "overload" if v.get("high") is None else _shown(name, v["high"])
                row[f"{LEVEL:.0%} interval"] = f"{_shown(name, v['low'])} to {high}" if "low" in v else None
            out.append(row)
        return out


def _shown(metric: str, value: float) -> str:
    unit = next((u for name, u in NO_TIMES.items() if name in metric), None)
    return seconds(value) if unit is None else f"{value:,.4g} {unit}"
