"""Fit a device's kernel models to measured tables (``opbyte calibrate``), and write the page of cross-validated errors."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...devices.calibrated.calibrate import (
    MIN_ROWS,
    DeviceRows,
    FamilyFit,
    FamilyRows,
    by_device,
    calibrate_family,
    device_named,
)
from ...devices.calibrated.errors import Errors, constant_by_shape, errors
from ...devices.calibrated.family import families
from ...devices.calibrated.kernel_sets import LABELS, TYPICAL, Entries, SetEntry
from ...devices.calibrated.store import device_yaml
from ...devices.catalog import list_devices, load_device
from ...devices.spec import DeviceSpec
from ...workloads.errors import InputError
from ...workloads.kernel_tables import Skipped, read_tables
from ..show.kept import NOTHING, Kept
from ..show.text import Blocks, Records
from .behind import by_others, with_intervals
from .check import Check, Compared, for_people, left_out


def intro(page: str) -> str:
    """Return the text above the tables of a page, as Markdown."""
    return (Path(__file__).parent / "pages" / f"{page}.md").read_text(encoding="utf-8")


def set_report(sets: Mapping[str, Entries]) -> str:
    """Return the page of shared kernel sets as Markdown: for each family, the errors of all sets by framework."""
    parts = [intro("kernel-sets")]
    for name, family in families().items():
        entries_held = {key: found[name] for key, found in sets.items() if name in found}
        if not entries_held:
            continue
        columns = [TYPICAL, *LABELS] if any(len(e) > 1 for e in entries_held.values()) else [TYPICAL]
        parts.append(f"## {family.title} (`{name}`)\n")
        parts.append("| set | " + " | ".join(columns) + " |")
        parts.append("|---" * (len(columns) + 1) + "|")
        parts += [
            f"| {key} | " + " | ".join(_entry_cell(entries.get(c)) for c in columns) + " |"
            for key, entries in sorted(entries_held.items())
        ]
        parts.append("")
    return "\n".join(parts)


def _entry_cell(entry: SetEntry | None) -> str:
    if entry is None:
        return "-"
    if entry.errors is None:
        return entry.basis
    median, tail, bias = (100.0 * e for e in entry.errors)
    return f"{entry.basis}, {entry.rows}: {median:.1f} / {tail:.0f} / {bias:+.1f} %"


Fits = Mapping[str, Mapping[str, FamilyFit]]


def leave_one_device_out(rows: DeviceRows) -> dict[str, dict[str, Check]]:
    """Return, by family and device, a check of the device's rows against predictions without its own kernel set."""
    out: dict[str, dict[str, Check]] = {}
    for device in sorted(rows.keys() & set(list_devices())):  # a description of one's own has no kernel set
        spec, rows_of = load_device(device)[0], rows[device]
        for name, r in rows_of.items():
            if name in families() and r.family.kinds:
                out.setdefault(name, {})[device] = by_others(device, spec, r)
    return {name: {c.device: c for c in with_intervals(list(checks.values()))} for name, checks in out.items()}


def report(fits: Fits, rows: DeviceRows) -> str:
    """Return the page of cross-validated errors as Markdown: one table per family, one row per device."""
    others = leave_one_device_out(rows)
    parts = [intro("calibration")]
    for name, family in families().items():
        devices = [device for device in sorted(rows) if name in rows[device]]
        if not devices:
            continue
        parts.append(f"## {family.title} (`{name}`)\n")
        parts.append(_table([_row(d, name, fits, rows, others) for d in devices]))
    return "\n".join(parts)


HEAD = ("device", "rows", "one efficiency", "fit", "by shape", "by source", "from others",
        "inside", "measured / roofline")  # fmt: skip


def _row(
    device: str, name: str, fits: Fits, rows: DeviceRows,
    others: Mapping[str, Mapping[str, Check]],
) -> list[str]:  # fmt: skip
    done = fits.get(device, {}).get(name)
    r = rows[device][name]
    usual = None
    if done is not None:
        result = constant_by_shape(r.family, r.h, r.x, r.measured, r.table.shape_keys())
        usual = errors(result, r.measured)
    cells = [device, str(len(r.measured)), _cell(usual)]
    for kind in ("fit", "by_shape", "by_source"):
        cells.append(_cell(None if done is None else done.errors.get(kind)))
    check = others.get(name, {}).get(device)
    inside = "-" if check is None or not check.last else f"{100 * check.last['held']:.0f} %"
    return [*cells, _cell(None if check is None else check.errors), inside, f"{_over_roofline(r):.1f}"]


def _over_roofline(r: FamilyRows) -> float:
    """Return the median of measured over roofline time, for the tenth of the rows with the longest roofline times."""
    floor = r.family.roofline(r.h, r.x)
    long = floor >= np.quantile(floor, 0.9)
    return float(np.median(r.measured[long] / floor[long]))


def _cell(e: Errors | None) -> str:
    if e is None:
        return "-"
    return f"{100 * e.median_ape:.1f} / {100 * e.p90_ape:.0f} / {100 * e.median_bias:+.1f} %"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |"]
    lines.append("|" + "---|" * len(HEAD))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


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
