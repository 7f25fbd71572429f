"""Calibration of one device: fit every family with rows, and compute the errors of its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...workloads.kernel_tables import KernelTable, Skipped, framework
from ...workloads.records import Records
from ..catalog import load_device
from ..spec import DeviceSpec
from .errors import Errors, by_shape, by_source, errors
from .family import F8, Family, families
from .fit import Fit, Labels, fit, predict, with_kernels
from .hardware import hardware
from .layer_kernels import LAYER_FAMILIES

ABOVE_PEAK = 1.25
"""Largest rate over the nominal peak: allows for clocks above the nominal one, and rounding."""
CACHE_SPEED = 12.0
"""Largest ratio of last-level cache to memory bandwidth of the catalog's devices, with margin."""
SHORTEST_S = 2e-7
"""Shortest possible time of a kernel launch [s]."""
SLOWEST, LONGEST_S = 100.0, 1e-2
"""Maximum time of a kernel in rooflines, plus an additional latency: the slowest rows of the tables (latent attention
without splits over keys) end 6 ms above 100 rooflines."""


def implausible(family: Family, hardware: Records, inputs: F8, measured: F8) -> npt.NDArray[np.object_]:
    """Return for each row the reason why it cannot be a time of that device, else "".

    Both tell a unit slipped by a thousand: all rows one way, rows of at least some 20 us the other. Traffic may come
    from the last-level cache as far as it fits there several times over; arithmetic and traffic over the link may not.
    """
    compute, memory, link = family.floors(hardware, inputs)
    cached = np.where(memory * hardware.bandwidth < 4.0 * hardware.cache, CACHE_SPEED, 2.0)
    rigid = np.maximum(compute, link) / ABOVE_PEAK
    reasons = np.full(len(measured), "", dtype=object)
    for i in np.flatnonzero((measured < SHORTEST_S) | (rigid > measured) | (memory > cached * measured)):
        floor = max(rigid[i], memory[i] / cached[i], SHORTEST_S)
        reasons[i] = (
            f"measured_s {measured[i]:.3g} beats the device's roofline ({floor:.3g} s) by "
            f"{floor / max(measured[i], 1e-9 * floor):.3g} times; is the unit seconds?"
        )
    floor = np.maximum(np.maximum(compute, memory), link)
    for i in np.flatnonzero(measured > SLOWEST * floor + LONGEST_S):
        reasons[i] = (
            f"measured_s {measured[i]:.3g} is far above the device's roofline "
            f"({floor[i]:.3g} s) and any latency; is the unit seconds?"
        )
    return reasons


MIN_ROWS = 5
"""Minimum rows of a family for a fit; with fewer the device takes the parameters of similar devices."""
UNFITTED = {"attention_skew": "is not fitted to: opbyte validate kernels compares it"}
"""Tables that are only compared with predictions, and the message about them."""


@dataclass(frozen=True, slots=True)
class FamilyRows:
    """Usable rows of one family on one device."""

    family: Family
    table: KernelTable
    h: Records
    x: F8
    measured: F8
    labels: Labels


DeviceRows = Mapping[str, Mapping[str, FamilyRows]]
"""Rows by device and family."""
MeasuredRows = dict[str, tuple[DeviceSpec, dict[str, FamilyRows]]]
"""Devices by name, each with its rows by family."""


@dataclass(frozen=True, slots=True)
class FamilyFit:
    """A fit with its errors, as stored in the device's YAML."""

    family: Family
    rows: int
    fit: Fit
    errors: Mapping[str, Errors]
    tables: tuple[str, ...]
    date: str

    def bounds(self) -> dict[str, float]:
        """Return the limits of errors for later checks: the cross-validated errors with a margin.

        A quarter and one point (few rows: half and five points) on the median, 2.5 times that
        and 15 points at the 90th percentile, 5 % of bias (few rows: 15 %).
        """
        seen = self.errors["by_shape"]
        many = self.rows >= 50
        median = seen.median_ape * 1.25 + 0.01 if many else seen.median_ape * 1.5 + 0.05
        tail = max(2.5 * median + 0.15, 1.1 * seen.p90_ape)
        bias = max(0.05, 2.0 * abs(seen.median_bias)) if many else 0.15
        return {"median_ape": median, "p90_ape": tail, "median_bias": bias}


def usable_rows(family: Family, spec: DeviceSpec, table: KernelTable, skipped: list[Skipped]) -> FamilyRows | None:
    """Return the rows that can be times of that device; append the others to `skipped`."""
    h = hardware(spec)
    x = family.from_table(table)
    labels = np.array([framework(source) for source in table["source"]], dtype=object)
    reasons = implausible(family, h, x, table["measured_s"])
    if family.name == "gemm":  # kernels of inputs alone say nothing of a framework's products
        whose = labels[table["n"] > 0.0]
        reasons[~np.isin(labels, whose) & (reasons == "") & bool(len(whose))] = (
            "no matmul of the same framework was measured"
        )
    good = reasons == ""
    for i in np.flatnonzero(~good):
        skipped.append(Skipped(str(table.file[i]), int(table.line[i]), str(reasons[i])))
    if not good.any():
        return None
    usable = table.take(good)
    return FamilyRows(family, usable, h, np.ascontiguousarray(x[good]), usable["measured_s"], labels[good])


def calibrate_family(rows: FamilyRows, date: str) -> FamilyFit:
    """Fit one family and cross-validate it by shape and by framework."""
    args = (rows.family, rows.h, rows.x, rows.measured, rows.labels)
    done, shapes = with_kernels(args[0], fit(*args), *args[1:]), rows.table.shape_keys()
    seen = predict(rows.family, done, rows.h, rows.x, rows.labels)
    groups = {
        "fit": errors(seen, rows.measured), "by_shape": errors(by_shape(*args, shapes, done), rows.measured)
    }  # fmt: skip
    foreign = by_source(*args, done)
    if foreign is not None:
        known = ~np.isnan(foreign)
        groups["by_source"] = errors(foreign[known], rows.measured[known])
    sources = tuple(sorted(set(rows.table["source"].tolist())))
    return FamilyFit(rows.family, len(rows.measured), done, groups, sources, date)


def device_named(name: str, described: DeviceSpec | None) -> DeviceSpec:
    """Return the device that a table names: the caller's, or one of the catalog.

    Raises
    ------
    SpecError
        Neither.
    """
    if described is not None and name.lower() in (n.lower() for n in (described.name, *described.aliases)):
        return described
    return load_device(name)[0]


def by_device(
    tables: Mapping[str, KernelTable], skipped: list[Skipped], described: DeviceSpec | None = None
) -> MeasuredRows:
    """Return the usable rows of all tables, by device and family, with the device's description.

    Devices are of the catalog; `described` is one more, by its name and aliases. Rows of unknown devices, of devices
    without cores, and of families without a model are appended to `skipped`.
    """
    out: MeasuredRows = {}
    for name, table in tables.items():
        family = families().get(name) or LAYER_FAMILIES.get(name)
        if family is None:
            for file in sorted(set(table.file.tolist())):
                reason = UNFITTED.get(name, f"{name} has no kernel model yet")
                skipped.append(Skipped(file, 0, reason))
            continue
        names = table["device"]
        specs: dict[str, DeviceSpec] = {}
        which = np.full(len(table), "", dtype=object)
        for device in dict.fromkeys(names.tolist()):
            rows = names == device
            try:
                spec = device_named(device, described)
                hardware(spec)
            except ValueError as error:
                skipped += [
                    Skipped(str(table.file[i]), int(table.line[i]), f"device: {error}") for i in np.flatnonzero(rows)
                ]
                continue
            specs[spec.name] = spec
            which[rows] = spec.name
        for device, spec in specs.items():
            usable = usable_rows(family, spec, table.take(which == device), skipped)
            if usable is not None:
                out.setdefault(device, (spec, {}))[1][name] = usable
    return out
