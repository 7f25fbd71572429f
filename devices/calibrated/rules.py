"""Parameters of a family on any device: fitted, or from the devices most like it.

A device without a fit takes the weighted geometric mean of the fitted devices, parameter by
parameter. The weight of a device is ``rows * exp(-d**2 / 2)`` with `d` the distance between
the two in three logarithms, in units of `UNITS`: FLOP per clock of one core (the generation of
its matrix unit), FLOP per byte of memory bandwidth, and size of the last-level cache. All
parameters are fractions, multiples and latencies, so that the device's own peaks, bandwidth and
cores carry the rest. A parameter that no row of a device depends on (it is at the
family's default) has no weight.

A framework that a device has no rows of, but similar devices have, is scaled as it is there
(`framework_scales`): one that no device has rows of gets the base. Families whose frameworks call
one library (collectives) are left out: their scales tell of the machine, not of the framework.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from ...workloads.kernel_tables import framework
from ..catalog import list_devices, load_device
from ..spec import DeviceSpec, FamilyFitSpec
from .errors import Errors
from .family import F8, Family, families
from .fit import TIME, Fit, Scales
from .hardware import H_BANDWIDTH, H_CACHE, H_CLOCK, H_CORES, H_PEAK, hardware

UNITS = np.array([0.35, 0.7, 0.7])
SHRINK = 0.3
"""Pull of frameworks to the base, in devices: with one device alike, 1 / 1.3 of its scale stays."""
FLOOR = 1e-6
"""Weight that every fitted device keeps, so that a device unlike all others gets their mean."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the model uses on one device and why.

    Attributes
    ----------
    fit : Fit
    basis : str
        "fitted", "transferred" (from other devices' fits) or "default".
    errors : mapping of str to Errors
        Of the device's own fit; empty where there is none.
    near : tuple of (str, float)
        Devices the parameters came from with their share, largest first.
    """

    fit: Fit
    basis: str
    rows: int
    errors: dict[str, Errors]
    near: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Donor:
    """A fitted device that others take parameters from."""

    rows: int
    fit: Fit
    h: F8


def parameters(spec: DeviceSpec, family: Family, without: Collection[str] = ()) -> Parameters:
    """Parameters of a family on a device.

    Parameters
    ----------
    spec : DeviceSpec
    family : Family
    without : collection of str
        Devices whose fits are not used, for leave-one-device-out; the device's own fit too.
    """
    donors = {
        name: donor
        for name, donor in _catalog(family.name).items()
        if name not in without and name != spec.name
    }
    own = spec.calibration.get(family.name)
    if own is not None and spec.name not in without:
        errors = {
            str(name): Errors(e.rows, e.median_ape, e.p90_ape, e.median_bias)
            for name, e in own.errors.items()
        }
        fit = _fit(family, own)
        alone: dict[str, Mapping[str, float]] = {framework(source): {} for source in own.tables}
        scales = framework_scales(hardware(spec), family, {**alone, **fit.scales}, donors)
        return Parameters(Fit(fit.values, scales), "fitted", own.rows, errors)
    return transfer(hardware(spec), family, donors)


def transfer(h: F8, family: Family, donors: Mapping[str, Donor]) -> Parameters:
    """Parameters of a device from other devices' fits, by the rule of this module."""
    if not donors:
        return Parameters(Fit(family.defaults, {}), "default", 0, {})
    distance = np.array([_distance(h, donor.h) for donor in donors.values()])
    weight = np.array([d.rows for d in donors.values()])
    weight = weight * (np.exp(-(distance**2) / 2) + FLOOR)
    weight /= weight.sum()
    logs = np.log([d.fit.values for d in donors.values()])
    told = weight[:, None] * (np.abs(logs - np.log(family.defaults)) > 1e-3)
    total = told.sum(axis=0)
    mean = np.where(total > 0, (told * logs).sum(axis=0), np.log(family.defaults))
    mean = np.exp(mean / np.where(total > 0, total, 1.0))
    shares = dict(zip(donors, weight.tolist(), strict=True))
    near = sorted(shares.items(), key=lambda pair: -pair[1])[:3]
    rows = sum(d.rows for d in donors.values())
    return Parameters(
        Fit(mean, framework_scales(h, family, {}, donors)), "transferred", rows, {}, tuple(near)
    )


def _distance(one: F8, other: F8) -> float:
    return float(np.linalg.norm((features(one) - features(other)) / UNITS))


def features(h: F8) -> F8:
    """Three logarithms by which devices are compared."""
    peak = h[H_PEAK]
    return np.log([peak / (h[H_CORES] * h[H_CLOCK]), peak / h[H_BANDWIDTH], max(h[H_CACHE], 1e6)])


@cache
def _catalog(family: str) -> dict[str, Donor]:
    """Full fits of one family in the catalog, by device."""
    specs = (load_device(name)[0] for name in list_devices())
    return {
        s.name: Donor(
            s.calibration[family].rows, _fit(families()[family], s.calibration[family]),
            hardware(s),
        )
        for s in specs
        if family in s.calibration and s.calibration[family].form == "full"
    }  # fmt: skip


def _fit(family: Family, spec: FamilyFitSpec) -> Fit:
    return Fit(family.vector(spec.parameters), {k: dict(v) for k, v in spec.frameworks.items()})


def framework_scales(h: F8, family: Family, own: Scales, donors: Mapping[str, Donor]) -> Scales:
    """Scales of a device's own frameworks and of those known only from similar devices.

    The scales of one device are relative to each other, so the devices tell the differences
    between frameworks: their logarithms are the least squares solution of ``log scale = a_framework
    - mean of a over the device``, every device with the weight of its distance (see the module),
    and `SHRINK` drawing the ``a`` to 0. A new framework then stands to those of the device that
    others have too as its ``a`` to theirs; a source that timed only this device tells nothing of
    serving frameworks, whatever it pulls the device's base to.

    Parameters
    ----------
    own : mapping
        Framework -> scales of the device itself; a framework without scales is still one of its.
    """
    if not family.framework_time:
        return own
    weight = {name: float(np.exp(-(_distance(h, donor.h) ** 2) / 2))
              for name, donor in donors.items()}  # fmt: skip
    out = {label: dict(scales) for label, scales in own.items()}
    for name in (TIME, *family.by_framework):
        effect = _effects(name, donors, weight)
        known = [
            effect[label] - np.log(scales.get(name, 1.0))
            for label, scales in own.items()
            if label in effect
        ]
        base = sum(known) / len(known) if known else 0.0
        for label, value in effect.items():
            if label not in own:
                out.setdefault(label, {})[name] = float(np.exp(value - base))
    return out


def _effects(
    name: str, donors: Mapping[str, Donor], weight: Mapping[str, float]
) -> dict[str, float]:
    """Logarithm of each framework's scale `name` against the others, over all donors."""
    told = {
        device: {
            label: float(np.log(s[name])) for label, s in donor.fit.scales.items() if name in s
        }
        for device, donor in donors.items()
    }
    names = sorted({label for scales in told.values() for label in scales})
    square, right = SHRINK * np.eye(len(names)), np.zeros(len(names))
    for device, scales in told.items():
        for label, value in scales.items():
            row = np.array([(n == label) - (n in scales) / len(scales) for n in names])
            square += weight[device] * np.outer(row, row)
            right += weight[device] * row * value
    return dict(zip(names, np.linalg.solve(square, right).tolist(), strict=True)) if names else {}
