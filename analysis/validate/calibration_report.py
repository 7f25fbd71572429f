"""The page of cross-validated errors (docs/calibration.md), from the fits of a calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...devices.calibrated.calibrate import DeviceRows, FamilyFit, FamilyRows
from ...devices.calibrated.errors import Errors, constant_by_shape, errors
from ...devices.calibrated.family import families
from ...devices.calibrated.kernel_sets import LABELS, TYPICAL, Entries, SetEntry
from ...devices.catalog import list_devices, load_device
from .behind import by_others, with_intervals
from .check import Check


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
