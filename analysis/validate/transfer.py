"""Errors of predictions for a device without rows in the fit, and the coverage of their intervals.

Each device in turn is left out, with its kernel set: its parameters come from all other sets (`kernel_sets.borrowed`),
as for a device without rows. The interval is the 10th to 90th percentile of measured over predicted of the other
devices, each left out, by family, of devices with another set of their silicon or without (`kernel_sets.alike`). It is
correct if 80 % of a device's rows are inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from ...devices.calibrated.calibrate import FamilyRows
from ...devices.calibrated.family import F8, families
from ...devices.calibrated.kernel_sets import LABELS, TYPICAL, alike, borrowed, owner
from ...devices.calibrated.layer_kernels import LAYER_FAMILIES
from ...devices.calibrated.rules import ALONE
from ...devices.calibrated.set_rows import some_of, unserved
from ...devices.catalog import load_device
from ...devices.spec import DeviceSpec
from .check import Check

LEAST = 20
"""Rows of a device from which it tells of others, each device as much as any."""
INSIDE = (0.1, 0.5, 0.9)


def from_others(spec: DeviceSpec, rows: FamilyRows) -> F8:
    """Seconds of a device's rows, each by its framework's kernels, as if the device's set had none."""
    family, out = rows.family, np.empty(len(rows.x))
    owner_name = "" if spec.kernels is None else owner(spec.kernels, family.name)
    names = {label: name for name, label in LABELS.items()}
    for label in dict.fromkeys(rows.labels.tolist()):
        at = rows.labels == label
        known = borrowed(spec, family, names.get(label, TYPICAL), owner_name)
        out[at] = family.seconds(known.fit.values, rows.h, np.ascontiguousarray(rows.x[at]))
    return out


def by_others(device: str, spec: DeviceSpec, rows: FamilyRows) -> Check:
    """What the sets of others say of those rows of a device that frameworks run."""
    family, run = rows.family, some_of(rows, ~unserved(rows))
    said = from_others(spec, run)
    return Check(family.name, family.title, device, "transferred", run.table, said, run.measured, rows=run)


@cache
def left_alike(device: str, name: str) -> bool:
    """Whether a device of the catalog, left out with its set, is of the silicon of a set that is left."""
    spec = load_device(device)[0]
    owner_name = "" if spec.kernels is None else owner(spec.kernels, name)
    return alike(spec, families().get(name) or LAYER_FAMILIES[name], owner_name)


def with_intervals(checks: Sequence[Check]) -> list[Check]:
    """Checks of devices left out, with the interval that the others' give them and what of it holds.

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
    """Quantiles of measured over predicted from their logarithms, devices of equal weight."""
    values = np.concatenate(logs)
    weight = np.concatenate([np.full(len(part), 1.0 / len(part)) for part in logs])
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weight[order]) - weight[order] / 2
    low, middle, high = np.exp(np.interp(INSIDE, below / weight.sum(), values[order]))
    return float(low), float(middle), float(high)
