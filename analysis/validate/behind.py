"""Write the errors of each kernel set on measured rows (`devices.calibrated.behind`).

Transfer errors: each device is predicted without its own kernel set, with parameters from all other sets
(`kernel_sets.borrowed`), as for a device without rows. The interval of a family is the 10th to 90th percentile of
measured over predicted time of the other devices, each of them predicted in this way. Devices whose silicon has another
set (`kernel_sets.alike`) and devices without one have separate intervals. An interval is correct if it contains 80 % of
a device's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.behind import ANY, FAR_SET, KIN, NEAR_SET, TRANSFER, formats_of, places
from ...devices.calibrated.calibrate import FamilyRows
from ...devices.calibrated.family import F8, Family, families
from ...devices.calibrated.fit import predict
from ...devices.calibrated.kernel_sets import (
    LABELS,
    MEASURED,
    TYPICAL,
    SetEntry,
    alike,
    borrowed,
    load_set,
    owner,
    silicon_of,
)
from ...devices.calibrated.layer_kernels import LAYER_FAMILIES
from ...devices.calibrated.rules import ALONE, parameters
from ...devices.calibrated.set_rows import some_of, unserved
from ...devices.catalog import load_device
from ...devices.spec import DeviceSpec
from .check import Check

LEAST = 20
"""Minimum rows of a device whose errors count in the intervals of other devices."""
INSIDE = (0.1, 0.5, 0.9)


def from_others(spec: DeviceSpec, rows: FamilyRows) -> F8:
    """Predict the times of a device's rows [s] with the kernel parameters of other devices, framework by framework."""
    family, out = rows.family, np.empty(len(rows.x))
    owner_name = "" if spec.kernels is None else owner(spec.kernels, family.name)
    names = {label: name for name, label in LABELS.items()}
    for label in dict.fromkeys(rows.labels.tolist()):
        at = rows.labels == label
        known = borrowed(spec, family, names.get(label, TYPICAL), owner_name)
        out[at] = family.seconds(known.fit.values, rows.h, np.ascontiguousarray(rows.x[at]))
    return out


def by_others(device: str, spec: DeviceSpec, rows: FamilyRows) -> Check:
    """Return measured times and predictions of `from_others` for the rows that the device's frameworks can run."""
    family, run = rows.family, some_of(rows, ~unserved(rows))
    said = from_others(spec, run)
    return Check(family.name, family.title, device, "transferred", run.table, said, run.measured, rows=run)


@cache
def left_alike(device: str, name: str) -> bool:
    """Return whether another kernel set than the device's own is of the same silicon; `name` is a kernel family."""
    spec = load_device(device)[0]
    owner_name = "" if spec.kernels is None else owner(spec.kernels, name)
    return alike(spec, families().get(name) or LAYER_FAMILIES[name], owner_name)


def with_intervals(checks: Sequence[Check]) -> list[Check]:
    """Return the checks, each with the interval from the other devices' errors and the share of rows inside it.

    Parameters
    ----------
    checks : sequence of Check
        Checks whose predictions use no row of their own device.
    """
    out = []
    for check in checks:
        others = [
            c
            for c in checks
            if c.family == check.family and c.device not in (check.device, *ALONE) and len(c.measured) >= LEAST
        ]
        near = [c for c in others if left_alike(c.device, c.family) == left_alike(check.device, check.family)]
        logs = [np.log(c.measured / c.predicted) for c in near or others]
        if logs:
            low, _, high = spread(logs)
            low, high = min(low, 1.0), max(high, 1.0)  # few others may err to one side: the prediction is inside
            ratio = check.measured / check.predicted
            entry = {
                "interval_low": low,
                "interval_high": high,
                "held": float(np.mean((ratio >= low) & (ratio <= high))),
            }
            check = replace(check, last=entry)
        out.append(check)
    return out


def spread(logs: Sequence[F8]) -> tuple[float, float, float]:
    """Return the quantiles `INSIDE` of measured over predicted time; each device's logarithms have the same total weight."""
    values = np.concatenate(logs)
    weight = np.concatenate([np.full(len(part), 1.0 / len(part)) for part in logs])
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weight[order]) - weight[order] / 2
    low, middle, high = np.exp(np.interp(INSIDE, below / weight.sum(), values[order]))
    return float(low), float(middle), float(high)


HEAD = "family,framework,format,sizes,rows,low,middle,high"
FEW = 50
"""Minimum rows of a set for its transfer error and the error of unseen rows."""

Found = Mapping[str, tuple[DeviceSpec, Mapping[str, FamilyRows]]]


def evidence_files(measured: Found) -> dict[str, str]:
    """Return the CSV text of each kernel set, by its name, and of the transfer errors, under `TRANSFER`.

    Columns low, middle and high are percentiles of 100 ln(measured / predicted). The sets' parameters were fitted to
    the same rows. So these errors are multiplied by the error of unseen shapes over the error of the fit (`_unseen`).

    Parameters
    ----------
    measured : mapping
        Device -> its description and rows by family, see `calibrate.by_device`.
    """
    lines: dict[str, dict[tuple[str, str, str, str], list[F8]]] = {}
    moved: dict[tuple[str, str, str, str], list[F8]] = {}
    kin: dict[str, list[tuple[SetEntry, FamilyRows]]] = {}
    for device, (spec, rows_of) in sorted(measured.items()):
        for name, rows in rows_of.items():
            family = rows.family
            if not family.kinds or spec.kernels is None:
                continue
            whose, run = owner(spec.kernels, name), some_of(rows, ~unserved(rows))
            if len(rows.measured) >= LEAST and whose not in ALONE:
                left = np.log(run.measured / from_others(spec, run))
                for which in (TYPICAL, NEAR_SET if left_alike(device, name) else FAR_SET):
                    moved.setdefault((name, which, ANY, "0"), []).append(left)
            if name not in families():  # layers' kernels have tables of their own
                continue
            for key, errors, mask in _errors(spec, family, rows, whose):
                _enter(lines.setdefault(whose, {}), family, key, rows.x[mask], errors)
            if len(rows.measured) >= FEW and whose not in ALONE:
                kin.setdefault(f"{name} {silicon_of(whose, name)}", []).append(
                    (load_set(whose).families[name][TYPICAL], run)
                )
    out = {whose: "\n".join([HEAD, *_lines(cells, _quantiles)]) + "\n" for whose, cells in sorted(lines.items())}
    apart: dict[tuple[str, str, str, str], list[F8]] = {}
    for silicon, devices in kin.items():
        name = silicon.partition(" ")[0]
        apart.setdefault((name, KIN, ANY, "0"), []).extend(_between(families()[name], devices))
    near = _lines({key: errors for key, errors in apart.items() if errors}, _quantiles)
    far = _lines(moved, spread)
    return {**out, TRANSFER: "\n".join([HEAD, *sorted([*near, *far])]) + "\n"}


def _errors(
    spec: DeviceSpec, family: Family, rows: FamilyRows, owner: str
) -> Iterable[tuple[str, F8, npt.NDArray[np.bool_]]]:
    """Yield a framework, the errors ln(measured / predicted) of its kernel parameters, and the mask of their rows.

    The last entry, `MEASURED`, has all rows, each predicted with the kernels of its framework.
    """
    stretch = _unseen(spec, family.name)
    drawn = stretch if len(rows.measured) >= FEW else 1.0  # few rows only draw at what others' say: they are not fitted
    away, branch = unserved(rows), family.kernel_of(rows.x)
    masks = {key: np.asarray(rows.labels == label) for key, label in LABELS.items()}
    any_own = np.isin(rows.labels, list(LABELS.values()))
    for key, entry in load_set(owner).families.get(family.name, {}).items():
        if entry.basis == "transferred":
            continue
        mask = np.ones(len(rows.x), dtype=np.bool_)
        if entry.basis == "own":
            mask = masks.get(key, any_own)
        mask = ~away & (mask | np.isin(branch, branch[away & mask]))  # of a kernel without rows others' speak
        if mask.any():
            yield key, drawn * _logs(family, entry, rows)[mask], mask
    known = parameters(spec, family)
    alone = predict(family, known.fit, rows.h, rows.x, rows.labels)
    yield MEASURED, stretch * np.log(rows.measured / alone), np.ones(len(rows.x), dtype=bool)


def _logs(family: Family, entry: SetEntry, rows: FamilyRows) -> F8:
    """Return log(measured / predicted) of rows, predicted with a kernel set's parameters."""
    values = entry.values(family)
    out: F8 = np.log(rows.measured / family.seconds(values, rows.h, rows.x))
    return out


def _unseen(spec: DeviceSpec, family: str) -> float:
    """Return the error of unseen shapes over the error of fitted shapes in a device's calibration; at least 1."""
    fits = spec.calibration.get(family)
    if fits is None or {"fit", "by_shape"} - fits.errors.keys():
        return 1.0
    fit, unseen = fits.errors["fit"], fits.errors["by_shape"]
    known, new = fit.median_ape, unseen.median_ape
    if fits.rows < FEW:  # a fit passes through half of a few rows: their median says nothing
        known, new = fit.p90_ape, unseen.p90_ape
    return max(new / known, 1.0) if known > 0 else 1.0


def _between(family: Family, devices: Sequence[tuple[SetEntry, FamilyRows]]) -> Iterable[F8]:
    """Yield the bias of each device's set on the rows of another device, minus the bias on rows of the set's device.

    A bias is the median of ln(measured / predicted). All devices are of one silicon.
    """
    for one, (_, rows) in enumerate(devices):
        for other, (entry, other_rows) in enumerate(devices):
            if one != other:
                yield np.atleast_1d(np.median(_logs(family, entry, rows)) - np.median(_logs(family, entry, other_rows)))


def _enter(cells: dict[tuple[str, str, str, str], list[F8]], family: Family, key: str, x: F8, errors: F8) -> None:
    """Add errors to `cells`, keyed by family, framework `key`, number format and rounded size of the calls."""
    at = np.rint(places(family, x)).astype(np.int64)
    for format_, place, error in zip(formats_of(family, x), at.tolist(), errors, strict=True):
        sizes = "/".join(map(str, place))
        cells.setdefault((family.name, key, format_, sizes), []).append(np.atleast_1d(error))


def _quantiles(parts: Sequence[F8]) -> tuple[float, float, float]:
    """Return the 10th, 50th and 90th percentile of measured over predicted time, given its logarithms."""
    low, middle, high = np.exp(np.quantile(np.concatenate(parts), [0.1, 0.5, 0.9]))
    return float(low), float(middle), float(high)


def _lines(
    cells: Mapping[tuple[str, str, str, str], Sequence[F8]],
    quantiles: Callable[[Sequence[F8]], tuple[float, float, float]],
) -> list[str]:
    lines = []
    for key, parts in sorted(cells.items()):
        shown = np.rint(100.0 * np.log(quantiles(parts))).astype(int)
        lines.append(",".join([*key, str(sum(map(len, parts))), *map(str, shown.tolist())]))
    return lines
