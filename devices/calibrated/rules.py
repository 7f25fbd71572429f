"""Parameters of a family on any device: fitted, or from the devices most like it.

A device without a fit takes the weighted geometric mean of the fitted devices, parameter by
parameter. The weight of a device is ``rows * exp(-d**2 / 2)`` with `d` the distance between
the two in three logarithms, in units of `UNITS`: FLOP per clock of one core (the generation of
its matrix unit), FLOP per byte of memory bandwidth, and size of the last-level cache. All
parameters are fractions, multiples and latencies, so that the device's own peaks, bandwidth and
cores carry the rest. A parameter that no row of a device depends on (it is at the
family's default) has no weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..catalog import list_devices, load_device
from ..spec import DeviceSpec, FamilyFitSpec
from .errors import Errors
from .family import F8, Family, families
from .fit import TIME, Fit, Scales
from .hardware import H_BANDWIDTH, H_CACHE, H_CLOCK, H_CORES, H_PEAK, hardware

UNITS = np.array([0.35, 0.7, 0.7])
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
    own = spec.calibration.get(family.name)
    if own is not None and spec.name not in without:
        errors = {
            str(name): Errors(e.rows, e.median_ape, e.p90_ape, e.median_bias)
            for name, e in own.errors.items()
        }
        return Parameters(_fit(family, own), "fitted", own.rows, errors)
    donors = {
        name: donor
        for name, donor in _catalog(family.name).items()
        if name not in without and name != spec.name
    }
    return transfer(hardware(spec), family, donors)


def transfer(h: F8, family: Family, donors: Mapping[str, Donor]) -> Parameters:
    """Parameters of a device from other devices' fits, by the rule of this module."""
    if not donors:
        return Parameters(Fit(family.defaults, {}), "default", 0, {})
    here = features(h)
    distance = np.array(
        [float(np.linalg.norm((here - features(d.h)) / UNITS)) for d in donors.values()]
    )
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
        Fit(mean, _shared_scales(donors, shares)), "transferred", rows, {}, tuple(near)
    )


def features(h: F8) -> F8:
    """Three logarithms by which devices are compared."""
    peak = h[H_PEAK]
    return np.log([peak / (h[H_CORES] * h[H_CLOCK]), peak / h[H_BANDWIDTH], max(h[H_CACHE], 1e6)])


@cache
def _catalog(family: str) -> dict[str, Donor]:
    """Fits of one family in the catalog, by device."""
    specs = (load_device(name)[0] for name in list_devices())
    return {
        s.name: Donor(
            s.calibration[family].rows, _fit(families()[family], s.calibration[family]),
            hardware(s),
        )
        for s in specs
        if family in s.calibration
    }  # fmt: skip


def _fit(family: Family, spec: FamilyFitSpec) -> Fit:
    return Fit(family.vector(spec.parameters), {k: dict(v) for k, v in spec.frameworks.items()})


def _shared_scales(donors: Mapping[str, Donor], shares: Mapping[str, float]) -> Scales:
    """Scales of the frameworks' own kernels carry over; factors on the whole time do not."""
    sums: dict[str, dict[str, list[float]]] = {}
    for device, donor in donors.items():
        for framework, scales in donor.fit.scales.items():
            for name, value in scales.items():
                if name != TIME:
                    entry = sums.setdefault(framework, {}).setdefault(name, [0.0, 0.0])
                    entry[0] += shares[device] * float(np.log(value))
                    entry[1] += shares[device]
    return {
        framework: {name: float(np.exp(total / w)) for name, (total, w) in entry.items()}
        for framework, entry in sums.items()
    }
