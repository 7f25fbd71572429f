"""Rankings of kernel configurations against measured ones (``opbyte validate configs``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date as Date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...devices.tiles import fit as score
from ...devices.tiles.config import NAMES
from ...devices.tiles.fit import fit, fit_fixed
from ...devices.tiles.store import Bounds, ConstantSet, bounds, constants, constants_yaml
from ...devices.tiles.tables import FixedTile, MeasuredKernel, read_configs
from ...workloads.errors import InputError
from ...workloads.kernel_tables import Skipped
from ..show.text import Blocks, Records
from .check import Checked
from .cpu_configs import UNKNOWN, CpuCheck, check_cpu, tables_in

if TYPE_CHECKING:
    import pandas as pd

F8 = npt.NDArray[np.float64]
DEEPEST = max(score.DEPTHS)
OTHERS = "others"
"""Choice of constants: for each device, constants fitted to the other devices."""
CHOICES = ("stored", "none", OTHERS)


@dataclass(frozen=True, slots=True)
class ConfigCheck:
    """Check of one kernel on one device whose near-best configurations were measured.

    Attributes
    ----------
    seconds : float64 array, shape (shapes, configurations)
        Predicted times [s].
    default_s : float64 array, shape (shapes,)
        Predicted times of the default configurations [s].
    chosen : list of int arrays
        Configurations of each shape, fastest prediction first; those that differ only in group_m are counted once.
    look_ups : mapping of str to dict
        Hit rates if the best configurations of another device are used at the same shapes, by device.
    bounds : Bounds or None
        Accepted hit rates and errors; None if there are none for this kernel and device.
    """

    measured: MeasuredKernel
    seconds: F8
    default_s: F8
    chosen: score.Picks
    look_ups: Mapping[str, Mapping[int, float]]
    bounds: Bounds | None

    @property
    def best(self) -> F8:
        """Return the predicted times of the configurations with the best measured time, shape (shapes,) [s]."""
        return self.seconds[np.arange(len(self.measured.shapes)), self.measured.best]

    @property
    def best_errors(self) -> F8:
        return score.log_errors(self.best, self.measured.best_s)

    @property
    def default_ape(self) -> float | None:
        return _of_defaults(score.log_errors(self.default_s, self.measured.default_s))

    def row(self) -> dict[str, Any]:
        """Return the values of the check."""
        m = self.measured
        best = self.best
        median = np.median(self.seconds, axis=1)
        predicted, measured = self.default_s / best, m.default_s / m.best_s
        look_up = max(self.look_ups.items(), key=lambda kv: kv[1][5], default=None)
        return {
            "device": m.device,
            "kernel": m.form.name,
            "n": len(m.shapes),
            "searched": len(m.configs),
            "hit": {k: score.hits(m, self.chosen, k) for k in score.DEPTHS},
            "random": {k: score.random_hits(m, k) for k in score.DEPTHS},
            "look_up": look_up and {"from": look_up[0], **look_up[1]},
            "default1": score.default_hits(m),
            "tile1": score.tile_hits(m, self.chosen),
            "gain": {k: score.gain(m, self.chosen, k) for k in score.GAINS},
            **_errors(self.best_errors),
            "default_median_ape": self.default_ape,
            "grid_median_ape": _middle(score.log_errors(median, m.median_s)),
            "speedup_median_ape": _of_defaults(score.log_errors(predicted, measured)),
            "passed": self.passed,
        }

    @property
    def passed(self) -> bool | None:
        """Whether it reaches its bounds; None without any."""
        if self.bounds is None:
            return None
        m, b = self.measured, self.bounds
        return bool(
            score.hits(m, self.chosen, 5) >= b.hit_5
            and score.hits(m, self.chosen, 10) >= b.hit_10
            and score.tile_hits(m, self.chosen) >= b.tile_1
            and max(_middle(self.best_errors), self.default_ape or 0.0) <= b.median_ape
        )


@dataclass(frozen=True, slots=True)
class FixedCheck:
    """Check of one kernel with a fixed tile, on the rows whose (n, k) was not used in a fit."""

    fixed: FixedTile
    predicted: F8
    bounds: Bounds | None

    @property
    def errors(self) -> F8:
        half = self.fixed.halves()[1]
        return score.log_errors(self.predicted[half], self.fixed.measured_s[half])

    def row(self) -> dict[str, Any]:
        """Return the values of the check."""
        errors = self.errors
        return {
            "device": self.fixed.device,
            "kernel": self.fixed.form.name,
            "n": len(errors),
            "searched": 1,
            **UNKNOWN,
            **_errors(errors),
            "passed": self.passed,
        }

    @property
    def passed(self) -> bool | None:
        """Whether it reaches its bounds; None without any."""
        if self.bounds is None:
            return None
        reached = _errors(self.errors)
        return reached["best_median_ape"] <= self.bounds.median_ape and reached["best_p90_ape"] <= self.bounds.p90_ape


def _middle(errors: F8) -> float:
    return float(np.median(np.abs(errors)))


def _of_defaults(errors: F8) -> float | None:
    """Return the median error of defaults; None if no default was measured."""
    return _middle(errors) if len(errors) else None


def _errors(errors: F8) -> dict[str, float]:
    """Return the median, the 90th percentile and the bias of logarithms of predicted over measured time."""
    p90 = float(np.quantile(np.abs(errors), 0.9))
    return {"best_median_ape": _middle(errors), "best_p90_ape": p90, "best_bias": float(np.median(errors))}


@dataclass(frozen=True, slots=True)
class ConfigValidation(Checked):
    """Quality of the ranking and of the predicted times of kernel configurations, by device.

    Attributes
    ----------
    which : str
        Constants used: "stored" (committed), "none" (without any measurement) or "others" (fitted without the device).
    fitted : str or None
        YAML of new constants; None without a fit.
    """

    checks: Sequence[ConfigCheck | FixedCheck | CpuCheck]
    skipped: Sequence[Skipped]
    which: str
    fitted: str | None = None

    def blocks(self) -> Blocks:
        text = {
            "stored": "committed constants",
            "none": "constants without any measurement",
            OTHERS: "constants fitted without the device they predict",
        }[self.which]
        return [
            (
                f"kernel configurations, {text}: hits are shares of shapes with one within 1 % of the "
                "best among the first k, shapes that differ only in group_m counted once; errors are "
                "of ln(predicted / measured)"
            ),
            self.rows(),
        ]

    def records(self) -> Records:
        out = []
        for check in self.checks:
            row = check.row()
            flat: dict[str, Any] = {key: row[key] for key in ("device", "kernel", "n", "searched")}
            for name, depths in (("hit", score.DEPTHS), ("random", (1, 5)), ("gain", score.GAINS)):
                flat |= {f"{name}_{k}": row[name] and row[name][k] for k in depths}
            flat["look_up_5"] = row["look_up"] and row["look_up"][5]
            regret = row.get("regret")
            flat["regret"] = regret and regret["model"]["geomean"]
            names = ("default1", "tile1", "best_median_ape", "best_p90_ape", "best_bias",
                     "default_median_ape", "grid_median_ape", "speedup_median_ape", "passed")  # fmt: skip
            out.append(flat | {name: row[name] for name in names})
        return out

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {k: {str(n): x for n, x in v.items()} if isinstance(v, dict) else v for k, v in check.row().items()}
            for check in self.checks
        ]
        return {"constants": self.which, "rows": rows, "passed": self.passed, "skipped": [str(s) for s in self.skipped]}

    def predictions(self) -> pd.DataFrame:
        """Return the best ranked configurations of every shape with predicted times, and measured times if known [s]."""
        import pandas as pd

        out: Records = []
        for check in self.checks:
            if isinstance(check, CpuCheck):
                continue
            if isinstance(check, FixedCheck):
                pairs = zip(check.fixed.shapes, check.predicted, check.fixed.measured_s, strict=True)
                out += [
                    {"device": check.fixed.device, "kernel": check.fixed.form.name, **shape, "rank": 1,
                     **check.fixed.form.default(check.fixed.machine, shape).to_dict(),
                     "predicted_s": float(p), "measured_s": float(s)}
                    for shape, p, s in pairs
                ]  # fmt: skip
                continue
            m = check.measured
            for i, (shape, row) in enumerate(zip(m.shapes, check.chosen, strict=True)):
                for rank, j in enumerate(row, 1):
                    config = dict(zip(NAMES, m.configs[j].tolist(), strict=True))
                    seconds = m.times[i, j]
                    out.append(
                        {"device": m.device, "kernel": m.form.name, **shape, "rank": rank, **config,
                         "predicted_s": float(check.seconds[i, j]),
                         "measured_s": float(seconds)}
                    )  # fmt: skip
        return pd.DataFrame(out)


def validate_configs(
    tables: Iterable[str | Path], which: str = "stored", refit: bool = False, date: str | None = None
) -> ConfigValidation:
    """Rank the kernel configurations of measured tables by predicted time, and compare with the measured ranking.

    Parameters
    ----------
    tables : paths
        Folders with ``KERNEL_near_best.csv``, its shapes and grid; with ``gemm.csv``; or with the tables that
        `measure configs` writes.
    which : str
        Constants: "stored", "none", or "others" (fitted to the other devices of the tables).
    refit : bool
        Also fit new constants to all of the tables.
    date : str, optional
        Date to store with a fit; by default today's.

    Raises
    ------
    InputError
        No tables, a bad cell, or an unknown choice.
    """
    if which not in CHOICES:
        raise InputError("--constants", f"must be one of {', '.join(CHOICES)}, not {which!r}")
    paths = list(tables)
    here = tables_in(paths)
    cpu, left = check_cpu(here)
    others = [path for path in paths if Path(path) not in here]
    measured, fixed, skipped = read_configs(others, needed=not here)
    skipped = [s for s in skipped if Path(s.file) not in here] + left
    if which == OTHERS and len(measured) < 2 and not fixed:
        raise InputError("--constants others", "needs tables of two devices or more")
    checks: list[ConfigCheck | FixedCheck | CpuCheck]
    checks = [_check(m, measured, which) for m in measured]
    checks += [_fixed_check(f, which) for f in fixed]
    checks += cpu
    text = _fitted(measured, fixed, date) if refit else None
    return ConfigValidation(checks, skipped, which, text)


def _check(m: MeasuredKernel, every: Sequence[MeasuredKernel], which: str) -> ConfigCheck:
    others = [o for o in every if o is not m and o.form is m.form]
    if which == OTHERS:
        p = fit(others)
    else:
        name = m.form.constants(m.machine, m.shapes[0])
        p = constants(name if which == "stored" else "none").p
    seconds, default = m.predicted(p)
    chosen = score.picks(seconds, m.configs, DEEPEST)
    look_ups = {o.device: score.look_up(m, o) for o in others}
    limits = None if which == "none" else bounds().get(f"{m.form.name}/{m.machine.name}")
    return ConfigCheck(m, seconds, default, chosen, look_ups, limits)


def _fixed_check(fixed: FixedTile, which: str) -> FixedCheck:
    if which == OTHERS:
        p = fit_fixed(fixed)
    else:
        name = fixed.form.constants(fixed.machine, fixed.shapes[0])
        p = constants(name if which == "stored" else "none").p
    limits = None if which == "none" else bounds().get(f"{fixed.form.name}/{fixed.machine.name}")
    return FixedCheck(fixed, fixed.predicted(p), limits)


def _fitted(measured: Sequence[MeasuredKernel], fixed: Sequence[FixedTile], date: str | None) -> str:
    """Return YAML of constants fitted to all tables; sets without rows stay unchanged."""
    stamp = date or Date.today().isoformat()  # a date for people
    new: list[ConstantSet] = []
    if measured:
        rows = sum(int((~np.isnan(m.times)).sum()) + len(m.shapes) for m in measured)
        devices = ", ".join(m.device for m in measured)
        new.append(ConstantSet.fitted("triton", fit(measured), f"fused_moe on {devices}", rows, stamp))
    for f in fixed:
        text = f"gemm fp8_block on {f.device}, every second (n, k)"
        new.append(ConstantSet.fitted("fp8_block", fit_fixed(f), text, len(f.halves()[0]), stamp))
    return constants_yaml(new)
