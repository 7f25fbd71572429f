"""Write what measured rows stand behind each kernel set (`devices.calibrated.behind`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.behind import ANY, KIN, SPANS, TRANSFER, formats_of, places
from ...devices.calibrated.calibrate import FamilyRows
from ...devices.calibrated.family import F8, Family, families
from ...devices.calibrated.fit import predict
from ...devices.calibrated.kernel_sets import (
    LABELS,
    LINK_PARENTS,
    LINKS,
    MEASURED,
    PARENTS,
    TYPICAL,
    SetEntry,
    load_set,
    representative,
    silicon_of,
    stand_in,
)
from ...devices.calibrated.rules import ALONE, parameters
from ...devices.spec import DeviceSpec

HEAD = "family,framework,format,sizes,rows,low,middle,high"
FEW = 50
"""Rows of a set from which it tells what asking another's parameters costs."""

Found = Mapping[str, tuple[DeviceSpec, Mapping[str, FamilyRows]]]


def evidence_files(measured: Found) -> dict[str, str]:
    """Name of a set -> its CSV, and that of what transfers cost.

    Logarithms are of measured over predicted, in hundredths. The sets' parameters were fitted to
    these rows; errors are stretched by what seeing a shape is worth, the quotient of the errors by
    shape and of the fit in the device's own calibration.

    Parameters
    ----------
    measured : mapping
        Device -> its description and rows by family, see `calibrate.by_device`.
    """
    lines: dict[str, dict[tuple[str, str, str, str], list[F8]]] = {}
    moved: dict[str, list[F8]] = {}
    kin: dict[str, list[tuple[SetEntry, FamilyRows]]] = {}
    for _, (spec, held) in sorted(measured.items()):
        for name, rows in held.items():
            if name not in families():  # layers' kernels have tables of their own
                continue
            family = families()[name]
            if (not family.kinds and name not in SPANS) or spec.kernels is None:
                continue
            owner = _owner(spec.kernels, name)
            for key, errors, kept in _errors(spec, family, rows, owner):
                _enter(lines.setdefault(owner, {}), family, key, rows.x[kept], errors)
            if len(rows.measured) >= FEW and owner not in ALONE:
                moved.setdefault(name, []).append(_elsewhere(spec, family, rows, owner))
                kin.setdefault(f"{name} {silicon_of(owner, name)}", []).append(
                    (load_set(owner).families[name][TYPICAL], rows)
                )
    out = {owner: _csv(cells) for owner, cells in sorted(lines.items())}
    pooled = {(name, TYPICAL, ANY, "0"): errors for name, errors in moved.items()}
    for alike, devices in kin.items():
        name = alike.partition(" ")[0]
        pooled.setdefault((name, KIN, ANY, "0"), []).extend(_between(families()[name], devices))
    pooled = {key: errors for key, errors in pooled.items() if errors}
    return {**out, TRANSFER: _csv(pooled)}


def _owner(name: str, family: str) -> str:
    """The set itself, or the nearest parent that has the family."""
    parents = LINK_PARENTS if family in LINKS else PARENTS
    while family not in load_set(name).families and name in parents:
        name = parents[name]
    return name


def _errors(
    spec: DeviceSpec, family: Family, rows: FamilyRows, owner: str
) -> Iterable[tuple[str, F8, npt.NDArray[np.bool_]]]:
    """Framework, errors of its parameters, and the rows that they are of."""
    stretch = _unseen(spec, family.name)
    own = {key: np.asarray(rows.labels == label) for key, label in LABELS.items()}
    any_own = np.isin(rows.labels, list(LABELS.values()))
    for key, entry in load_set(owner).families.get(family.name, {}).items():
        if entry.basis == "transferred":
            continue
        kept = np.ones(len(rows.x), dtype=np.bool_)
        if entry.basis == "own":
            kept = own.get(key, any_own)
        if kept.any():
            yield key, stretch * _logs(family, entry, rows)[kept], kept
    known = parameters(spec, family)
    alone = predict(family, known.fit, rows.h, rows.x, rows.labels)
    yield MEASURED, stretch * np.log(rows.measured / alone), np.ones(len(rows.x), dtype=bool)


def _logs(family: Family, entry: SetEntry, rows: FamilyRows) -> F8:
    """Logarithm of measured over predicted, by a set's parameters."""
    values = entry.values(family)
    out: F8 = np.log(rows.measured / family.seconds(values, rows.h, rows.x))
    return out


def _unseen(spec: DeviceSpec, family: str) -> float:
    """How many times as far off a shape is that was not seen."""
    own = spec.calibration.get(family)
    if own is None or {"fit", "by_shape"} - own.errors.keys():
        return 1.0
    fit, unseen = own.errors["fit"].median_ape, own.errors["by_shape"].median_ape
    return max(unseen / fit, 1.0) if fit > 0 else 1.0


def _between(family: Family, devices: Sequence[tuple[SetEntry, FamilyRows]]) -> Iterable[F8]:
    """How far off the median of each is, with the parameters of each other of its silicon, against that one's own."""
    for one, (_, rows) in enumerate(devices):
        for other, (entry, own) in enumerate(devices):
            if one != other:
                yield np.atleast_1d(np.median(_logs(family, entry, rows)) - np.median(_logs(family, entry, own)))


def _elsewhere(spec: DeviceSpec, family: Family, rows: FamilyRows, owner: str) -> F8:
    """Errors with the parameters of the set that would stand in for a device's own."""
    known = {}
    for name in sorted({*PARENTS.values(), *_sets()} - {owner, *ALONE}):
        entry = load_set(name).families.get(family.name, {}).get(TYPICAL)
        if entry is not None and entry.basis != "transferred" and entry.rows >= FEW:
            known[name] = representative(name)
    if not known:
        return np.zeros(0)
    entry = load_set(stand_in(spec, known)).families[family.name][TYPICAL]
    return _logs(family, entry, rows)


def _sets() -> tuple[str, ...]:
    from ...devices.calibrated.kernel_sets import list_sets

    return list_sets()


def _enter(cells: dict[tuple[str, str, str, str], list[F8]], family: Family, key: str, x: F8, errors: F8) -> None:
    """Deal errors to the cells of their calls."""
    at = np.rint(places(family, x)).astype(np.int64)
    for format_, place, error in zip(formats_of(family, x), at.tolist(), errors, strict=True):
        sizes = "/".join(map(str, place))
        cells.setdefault((family.name, key, format_, sizes), []).append(np.atleast_1d(error))


def _csv(cells: Mapping[tuple[str, str, str, str], list[F8]]) -> str:
    lines = [HEAD]
    for key, parts in sorted(cells.items()):
        errors = np.concatenate(parts)
        quantiles = np.rint(100.0 * np.quantile(errors, [0.1, 0.5, 0.9])).astype(int)
        lines.append(",".join([*key, str(len(errors)), *map(str, quantiles.tolist())]))
    return "\n".join(lines) + "\n"
