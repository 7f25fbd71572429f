"""Predicted against measured power of kernels (``opbyte validate power``).

What is compared is the mean of the monitor's readings, as the collector takes them; see
`devices.power.fit` for why that is not the kernel's own power where it is short.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.errors import Errors, errors
from ...devices.catalog import load_device
from ...devices.lines import BoundsSpec
from ...devices.power.fit import FOLDS, PowerFit, PowerRows, fit_power, read_while_running, unpack, unseen
from ...devices.power.store import REFERENCE, base_model, power_yaml, stored, stored_fit
from ...devices.power.transfer import can_model, power_model
from ...devices.power.work import FROM_TABLE
from ...devices.spec import DeviceSpec
from ...workloads.errors import InputError
from ...workloads.kernel_schemas import TableForm
from ...workloads.kernel_tables import KernelTable, Skipped, read_tables
from ..show.text import Blocks
from .check import Check, Checked, left_out

F8 = npt.NDArray[np.float64]
FORM = TableForm(more=("power_W", "power_limit_W"), optional=("active_experts",), known_kernels=False)
"""Tables of power: kernels by the framework's names, with the board's power."""
MEDIAN, P90 = 0.15, 0.35
"""Errors that a model of power should reach on kernels it has not seen."""
MARGIN = 0.02
"""How far past the committed errors of unseen shapes a check may go: 18,000 rows tell a percent."""


@dataclass(frozen=True, slots=True)
class PowerValidation(Checked):
    """Errors by family and device, and the rows that were not used.

    Attributes
    ----------
    cross_validated : bool
        Errors are of rows whose model's shape was not in the fit.
    fitted : str or None
        YAML of a new fit, where one was made.
    """

    checks: Sequence[Check]
    skipped: Sequence[Skipped]
    cross_validated: bool = False
    fitted: str | None = None

    def blocks(self) -> Blocks:
        text = (
            f"Errors are of rows whose model's shape was not in the fit, {FOLDS} folds."
            if self.cross_validated else "Errors are of the committed fit; --cross-validate holds shapes out of it."
        )  # fmt: skip
        return [
            self.rows(),
            (
                f"{text} read: of the rows that the monitor read while the kernel ran; a loop of under "
                f"0.1 s was read before it only. reached: within {MEDIAN:.0%} in the median and {P90:.0%} at "
                "the 90th percentile."
            ),
            f"{len(self.skipped)} rows or files skipped",
        ]

    def to_dict(self) -> dict[str, Any]:
        return {"rows": self.records(), "cross_validated": self.cross_validated,
                "skipped": left_out(self.skipped), "passed": self.passed}  # fmt: skip

    def report_title(self) -> str:
        return "Power of kernels, predicted and measured"


def validate_power(
    tables: Iterable[str | Path], cross_validate: bool = False, refit: str | None = None
) -> PowerValidation:
    """Compare the power model with measured tables.

    Parameters
    ----------
    tables : iterable of str or Path
        CSV files or folders: kernel tables with ``power_W`` and ``power_limit_W``.
    cross_validate : bool
        Refit without a fifth of the models' shapes at a time, and judge the rest by that.
    refit : str, optional
        Date of a new fit to all rows, which is then judged in place of the committed one.

    Raises
    ------
    InputError
        If a path does not exist, or a file is not a table.
    """
    read, skipped = read_tables(tables, form=FORM)
    checks: list[Check] = []
    fitted = None
    for spec, rows in _by_device(read, skipped):
        if cross_validate or refit is not None:
            fitted_own, fitted = _fresh(spec, rows, refit)
            checks += fitted_own
            continue
        known = _known(spec, float(rows[0].table["power_limit_W"][0]))
        basis = "fitted" if spec.name == REFERENCE else "transferred"
        checks += [_check(r, spec.name, known.predict(r), basis) for r in rows]
    checks.sort(key=lambda c: (c.family, c.device))
    fresh = bool(checks) and (cross_validate or refit is not None)
    return PowerValidation(checks, skipped, fresh, fitted)


def _check(rows: PowerRows, device: str, predicted: F8, basis: str) -> Check:
    """Return the mean of the readings of each row [W]; bounds apply to the committed fit's own device."""
    name, known, bounds = rows.table.family, stored().errors.get(rows.table.family), None
    if device == REFERENCE and known is not None:
        median = known.by_shape.median_ape + MARGIN  # which no bias exceeds
        bounds = BoundsSpec(median_ape=median, p90_ape=known.by_shape.p90_ape + MARGIN, median_bias=median)
    off, running = predicted / rows.measured - 1.0, read_while_running(rows.work.seconds)
    every, read = Errors.of(off), Errors.of(off[running]) if running.any() else None
    more = {
        "read_n": read.rows if read else 0, "read_median_ape": read and read.median_ape,
        "read_p90_ape": read and read.p90_ape, "reached": every.median_ape <= MEDIAN and every.p90_ape <= P90,
    }  # fmt: skip
    return Check(name, name, device, basis, rows.table, predicted, rows.measured, bounds, more=more)


def _known(spec: DeviceSpec, limit_W: float) -> PowerFit:
    """Return the committed power model of a device, with the power limit at which the rows were measured."""
    from dataclasses import replace

    reference = stored_fit()
    model = replace(power_model(spec).model, limit_W=limit_W)
    return replace(reference, model=model)


def _fresh(spec: DeviceSpec, rows: Sequence[PowerRows], date: str | None) -> tuple[list[Check], str | None]:
    """Fit to a device's rows, and predict each from a fit without its model's shape."""
    limit = float(rows[0].table["power_limit_W"][0])
    base = base_model(spec, limit)
    values = fit_power(base, rows)
    done = unpack(base, [r.table.family for r in rows], values)
    left_out = unseen(base, rows, values)
    checks = [_check(r, spec.name, h, "fitted") for r, h in zip(rows, left_out, strict=True)]
    if date is None:
        return checks, None
    seen = {r.table.family: errors(done.predict(r), r.measured) for r in rows}
    unseen_errors = {c.family: c.errors for c in checks}
    return checks, power_yaml(spec.name, limit, rows, values, seen, unseen_errors, date)


def _by_device(tables: Mapping[str, KernelTable], skipped: list[Skipped]) -> list[tuple[DeviceSpec, list[PowerRows]]]:
    """Usable rows by device and limit, families in the order of `FROM_TABLE`."""
    by_limit: dict[tuple[str, float], tuple[DeviceSpec, list[PowerRows]]] = {}
    for name, table in tables.items():
        if name not in FROM_TABLE:
            _skip(skipped, table, np.ones(len(table), dtype=np.bool_), f"{name} has no power model")
    for name in FROM_TABLE:
        if name not in tables:
            continue
        table = tables[name]
        above = table["power_W"] > 1.02 * table["power_limit_W"]
        _skip(skipped, table, above, "power_W is more than 2 % above power_limit_W")
        for device in sorted(set(table["device"].tolist())):
            mask = table["device"] == device
            try:
                spec = load_device(device)[0]
            except ValueError as error:
                _skip(skipped, table, mask, f"device: {error}")
                continue
            if not can_model(spec):
                _skip(skipped, table, mask, f"device: {spec.name} has no limit_W, process or cores")
                continue
            for limit in sorted(set(table["power_limit_W"][mask & ~above].tolist())):
                part = mask & ~above & (table["power_limit_W"] == limit)
                rows = PowerRows.of(table.take(part))
                by_limit.setdefault((spec.name, limit), (spec, []))[1].append(rows)
    if not by_limit and not skipped:
        raise InputError("TABLES", "hold no rows with power_W")
    return [by_limit[key] for key in sorted(by_limit)]


def _skip(skipped: list[Skipped], table: KernelTable, rows: npt.NDArray[np.bool_], reason: str) -> None:
    skipped += [Skipped(str(table.file[i]), int(table.line[i]), reason) for i in np.flatnonzero(rows)]
