"""Fit a device's kernel models to measured tables (``opbyte calibrate``)."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...devices.calibrated.calibrate import (
    MIN_ROWS,
    DeviceRows,
    FamilyFit,
    FamilyRows,
    by_device,
    calibrate_family,
    device_named,
)
from ...devices.calibrated.store import device_yaml
from ...devices.catalog import list_devices, load_device
from ...devices.spec import DeviceSpec
from ...workloads.errors import InputError
from ...workloads.kernel_tables import Skipped, read_tables
from ..show.kept import NOTHING, Kept
from ..show.text import Blocks, Records
from .calibration_report import report
from .check import Compared, for_people, left_out

ALL = "all"
FIGURES = ("median_ape", "p90_ape", "median_bias")


@dataclass(frozen=True, slots=True)
class Calibration(Compared):
    """Kernel models fitted to measured tables, by device and kernel family.

    Attributes
    ----------
    fits : mapping of str to mapping of str to FamilyFit
        Device -> family -> fit.
    measured : mapping of str to mapping of str to FamilyRows
        The rows used, by device and family, including families with too few rows for a fit.
    skipped : list of Skipped
        Rows not used and why.
    own : Path or None
        File of the device's description; None for devices of the catalog.
    """

    fits: Mapping[str, Mapping[str, FamilyFit]]
    measured: DeviceRows
    skipped: Sequence[Skipped]
    own: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "devices": {
                device: {name: _plain(done) for name, done in fits.items()} for device, fits in self.fits.items()
            },
            "skipped": left_out(self.skipped),
        }

    def rows(self) -> Records:
        kinds = ("fit", "by_shape", "by_source")
        return for_people([
            {"device": device, "family": name, "rows": done.rows}
            | {f"{kind}_{figure}": getattr(done.errors.get(kind), figure, None) for kind in kinds for figure in FIGURES}
            for device, fits in self.fits.items() for name, done in fits.items()
        ])  # fmt: skip

    def blocks(self) -> Blocks:
        return [
            self.rows(),
            "--out DIR writes DIR/DEVICE.yaml, for opbyte validate kernels --device and opbyte simulate --system",
        ]

    def yaml(self, device: str) -> str:
        """Return the YAML description of a device with the fitted parameters."""
        base = device if self.own is None else str(self.own.resolve())
        return device_yaml(device, self.fits[device], base)

    def report(self) -> str:
        """Return the page of cross-validated errors as Markdown."""
        return report(self.fits, self.measured)


def _plain(done: FamilyFit) -> dict[str, Any]:
    values = dict(zip([p.name for p in done.family.parameters], done.fit.values, strict=True))
    return {
        "rows": done.rows,
        "parameters": values,
        "frameworks": done.fit.scales,
        "errors": {kind: {"rows": e.rows, **e.figures()} for kind, e in done.errors.items()},
        "bounds": done.bounds(),
        "date": done.date,
        "tables": done.tables,
    }


def calibrate(
    tables: Iterable[str | Path],
    device: str,
    *,
    date: str | None = None,
    family: str | None = None,
    progress: Callable[[str], None] | None = None,
    kept: Kept = NOTHING,
) -> Calibration:
    """Fit the kernel models of a device.

    Parameters
    ----------
    tables : paths
        Kernel tables, or folders of them (see `workloads.kernel_tables`).
    device : str
        Catalog name or alias, a YAML file, or "all" for every device of the tables.
    date : str, optional
        Date to store, YYYY-MM-DD; by default today's.
    family : str, optional
        Kernel family of all tables; by default each file's name gives it.
    progress : callable, optional
        Called with the device and the family that are being fitted.
    kept : Kept
        Fits that an earlier call finished; this call adds its own.

    Raises
    ------
    InputError
        Unknown device, or too few usable rows of it in every family.
    """
    spec = None if device == ALL else load_device(device)[0]
    described = None if spec is None or spec.name in list_devices() else spec
    day = stamp(date)
    read, skipped = read_tables(tables, family=family)
    if spec is not None:
        names = {name: table["device"] for name, table in read.items()}
        read = {name: table.take(_of_device(names[name], spec.name, described)) for name, table in read.items()}
        read = {name: table for name, table in read.items() if len(table)}
    rows_found = by_device(read, skipped, described)
    fits: dict[str, dict[str, FamilyFit]] = {}
    for name in sorted(rows_found):
        for kind, rows in rows_found[name][1].items():
            if len(rows.measured) < MIN_ROWS:
                continue
            if progress:
                progress(f"{name} {kind}")
            fits.setdefault(name, {})[kind] = _fitted(rows, day, kept)
    if not fits:
        why = f" ({len(skipped)} left out: {skipped[0]})" if skipped else ""
        raise InputError(f"--device {device}", f"has fewer than {MIN_ROWS} usable rows in these tables{why}")
    measured = {name: rows for name, (_, rows) in rows_found.items()}
    return Calibration(fits, measured, skipped, None if described is None else Path(device))


def _fitted(rows: FamilyRows, day: str, kept: Kept) -> FamilyFit:
    """Return the fit of a family with date `day`; an earlier call's fit is used again if `kept` has it."""
    known = [rows.family.name, rows.h, rows.x, rows.table.columns] if kept else None
    return replace(kept.once(known, partial(calibrate_family, rows, "")), date=day)


def _of_device(names: Any, wanted: str, described: DeviceSpec | None) -> Any:
    import numpy as np

    same = {}
    for name in set(names.tolist()):
        try:
            same[name] = device_named(name, described).name == wanted
        except InputError:
            same[name] = False
    return np.array([same[name] for name in names], dtype=bool)


def stamp(text: str | None) -> str:
    """Return a given date, YYYY-MM-DD, or today's date if `text` is None; refuse other text."""
    if text is None:
        return datetime.date.today().isoformat()
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise InputError(f"--date {text}", "is not a date like 2026-01-31") from None
