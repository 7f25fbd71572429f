"""Parameters of a family on any device: fitted, or from similar devices.

A device without a fit has the weighted geometric mean of the fitted devices, per parameter, with weights ``rows *
exp(-d**2 / 2)``. `d` is the distance in two logarithms, in units of `UNITS`: FLOP per clock of one core and FLOP per
byte of memory bandwidth; different makers add one unit. The size of a cache is none of them, so that a larger cache
changes no parameter and makes no kernel slower. The attained share of a peak
scales with the board's power (`power` of `HARDWARE`), kernel latency with the clock (`at_clock`). All parameters are
fractions, multiples and latencies, so that the device's own peaks, bandwidth and cores determine the rest. A parameter
that no row of a device depends on (at the default, or of a kernel without rows) has no weight. A framework without rows
in a device's fit gets the base; shared sets (`kernel_sets`) use other kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import numpy.typing as npt

from ...workloads.records import Records
from ..catalog import fitted_devices, load_device
from ..lines import FamilyFitSpec
from ..spec import DeviceSpec
from .allreduce import PCIE_BPS
from .errors import Errors
from .family import F8, Family, families
from .fit import Fit
from .hardware import C_INT8, hardware

UNITS = np.array([0.3, 0.6, 0.35])
ALONE = ("b60",)
"""Devices and sets that are not used for others: their kernels were launched one by one, so their rows include host
time."""
LIMITED = ("peak", "peak_16", "peak_8")
"""Parameters of matrix products that the board's power limits."""
STARTS, GENERATION = ("launch_s", "gap_s", "quantise_s"), 0.5
"""Latencies that are counted in a core's clocks, and the difference of compute capabilities within one generation."""
CHUNKED = ("delta_prefill", "kda_prefill")
"""Families of dependent products of 64 rows (flash-linear-attention's chunks): a core's FLOP per clock do not depend on
the size of its matrix units."""
TOLD = 1e-3
"""Distance of a parameter from its default, in the logarithm, below which it counts as not identified."""
FLOOR = 1e-6
"""Minimum weight of every fitted device, so that a device unlike all others gets their mean."""


@dataclass(frozen=True, slots=True)
class Donor:
    """A fitted device whose parameters others use.

    Attributes
    ----------
    told : tuple of str, optional
        Branches of the family that its rows tell; all without it.
    share : float
        Part of a row that each of its rows counts.
    """

    rows: int
    fit: Fit
    h: Records
    told: tuple[str, ...] | None = None
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of a family on one device, and their origin.

    Attributes
    ----------
    basis : str
        "fitted", "transferred" (from other devices' fits) or "default".
    errors : mapping of str to Errors
        Errors of the device's own fit; empty if there is none.
    near : tuple of (str, float)
        Devices the parameters came from with their share, largest first.
    under : mapping of str to Parameters
        The same under other frameworks, by name and label.
    framework : str
        Framework of the kernels, one of `kernel_sets.FRAMEWORKS`; empty if they are of no kernel set.
    versions : tuple of str
        Versions of that framework that the rows are of.
    other_version : str
        Note that the rows are of other versions of the framework than the requested one.
    """

    fit: Fit
    basis: str
    rows: int
    errors: dict[str, Errors]
    near: tuple[tuple[str, float], ...] = ()
    under: Mapping[str, Parameters] = field(default_factory=dict)
    framework: str = ""
    versions: tuple[str, ...] = ()
    other_version: str = ""


def parameters(spec: DeviceSpec, family: Family) -> Parameters:
    """Return a family's parameters on a device: its fit, or else the transfer of other devices' fits."""
    fitted_own = spec.calibration.get(family.name)
    if fitted_own is None:
        donors = {name: donor for name, donor in _catalog(family.name).items() if name != spec.name}
        return transfer(hardware(spec), family, donors)
    errors = {
        str(name): Errors(e.rows, e.median_ape, e.p90_ape, e.median_bias) for name, e in fitted_own.errors.items()
    }
    return Parameters(_donor(family, spec, fitted_own).fit, "fitted", fitted_own.rows, errors)


LINKS = ("allreduce", "collectives")
"""Families of kernels on the links between devices."""
SPLITTING = (9.0, 12.0)
"""Compute capabilities, the last excluded, whose latent attention splits the keys of a sequence over cores: FlashMLA, FlashAttention's and
CUTLASS's kernels on 9.0 and 10.x; others run Triton's, with a few splits (vLLM 0.14 to 0.33, `_get_backend_priorities`)."""


def kernel_class(hardware: Records, family: Family) -> bool | None:
    """Return the class of a device's kernels; None if it is unknown, so that all donors count.

    Kernels of other classes give no information about them. Links: cards on PCIe, or direct links. Latent attention on
    NVIDIA's devices: whether the kernels split a sequence's keys.
    """
    if family.name in LINKS:
        return bool(hardware.link_bandwidth > PCIE_BPS)
    if family.name == "mla" and hardware.capability > 0.0:
        return bool(SPLITTING[0] <= hardware.capability < SPLITTING[1])
    return None


def transfer(hardware: Records, family: Family, donors: Mapping[str, Donor]) -> Parameters:
    """Derive a device's parameters from those of other devices or kernel sets."""
    if not donors:
        return Parameters(Fit(family.defaults, {}), "default", 0, {})
    if (of_class := kernel_class(hardware, family)) is not None:
        donors = {n: d for n, d in donors.items() if kernel_class(d.h, family) == of_class} or donors
    donors = {name: _at_power(hardware, family, donor) for name, donor in donors.items()}
    mean, shares = _mean(hardware, family, donors)
    near = sorted(shares.items(), key=lambda pair: -pair[1])[:3]
    rows = sum(d.rows for d in donors.values())
    return Parameters(Fit(mean, {}), "transferred", rows, {}, tuple(near))


def _at_power(hardware: Records, family: Family, donor: Donor) -> Donor:
    """Scale the donor's power-limited matmul rates to the device's power."""
    names = [p.name for p in family.parameters]
    if "sustained" not in names:
        return donor
    more = np.array([hardware.power / donor.h.power if name in LIMITED else 1.0 for name in names])
    most = np.array([p.high for p in family.parameters])
    kernels = {
        label: {branch: np.minimum(values * more, most) for branch, values in branches.items()}
        for label, branches in donor.fit.kernels.items()
    }
    return replace(donor, fit=replace(donor.fit, values=np.minimum(donor.fit.values * more, most), kernels=kernels))


def at_clock(hardware: Records, family: Family, donor: Donor) -> Donor:
    """Scale the donor's kernel latencies to a device's clock, for NVIDIA's devices of different generations.

    Within a generation only the stated clocks differ. Kernels of `CHUNKED` keep their FLOP per core and clock instead
    of the share of the peak.
    """
    one, other = donor.h.capability, hardware.capability
    if min(one, other) <= 0.0 or abs(one - other) < GENERATION:
        return donor
    times = dict.fromkeys(STARTS, donor.h.clock / hardware.clock)
    if family.name in CHUNKED:
        times["peak"] = np.exp((features(donor.h) - features(hardware))[0])
    values = donor.fit.values * np.array([times.get(p.name, 1.0) for p in family.parameters])
    limits = np.array([(p.low, p.high) for p in family.parameters]).T
    return replace(donor, fit=replace(donor.fit, values=np.clip(values, *limits)))


def _mean(hardware: Records, family: Family, donors: Mapping[str, Donor]) -> tuple[F8, dict[str, float]]:
    """Return the weighted geometric mean of the donors' parameters, and each donor's share."""
    far = np.array([distance(hardware, donor.h) for donor in donors.values()])
    weight = np.array([d.rows * d.share for d in donors.values()])
    weight = weight * (np.exp(-(far**2) / 2) + FLOOR)
    weight /= weight.sum()
    values = [donor.fit.values for donor in donors.values()]
    if any(parameters.ndim > 1 for parameters in values):
        values = [family.per_branch(parameters) for parameters in values]
    logs = np.log(values)
    informed = np.abs(logs - np.log(family.defaults)) > TOLD
    if logs.ndim > 2:
        told = np.array([[d.told is None or b in d.told for b in family.branches] for d in donors.values()])
        informed &= (told | ~told.any(axis=0))[:, :, None]
    mean = np.exp(_mean_logs(weight, logs, informed, family))
    return mean, dict(zip(donors, weight.tolist(), strict=True))


def _mean_logs(weight: F8, logs: F8, informed: npt.NDArray[np.bool_], family: Family) -> F8:
    """Return the weighted mean of each parameter over the donors that determine it; its default if none does."""
    share = weight.reshape(-1, *[1] * (logs.ndim - 1)) * informed
    total = share.sum(axis=0)
    mean = (share * logs).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.log(family.defaults))


def distance(one: F8, other: F8) -> float:
    """Return the distance of two devices, in the units of this module."""
    return float(np.linalg.norm((features(one) - features(other)) / UNITS))


def features(hardware: Records) -> F8:
    """Return the two logarithms by which devices are compared, and whether NVIDIA is the maker."""
    # As stated, not as built: a held H20's grouped products reach 0.54 of its bandwidth, an H800's 0.86.
    peak = max(hardware.peak[0], 0.5 * hardware.peak[C_INT8])
    rates = np.log([peak / (hardware.cores * hardware.clock), peak / hardware.bandwidth])
    return np.append(rates, hardware.capability > 0.0)


@cache
def _catalog(family: str) -> dict[str, Donor]:
    """Return the full fits of one family in the catalog, by device."""
    model = families()[family]
    fitted = (load_device(n)[0] for n in fitted_devices() if n not in ALONE)
    fits = ((s, s.calibration.get(family)) for s in fitted)
    return {s.name: _donor(model, s, fit_spec) for s, fit_spec in fits if fit_spec is not None}


def _donor(family: Family, spec: DeviceSpec, fit_spec: FamilyFitSpec) -> Donor:
    kernels = {
        label: {branch: family.vector(v) for branch, v in branches.items()}
        for label, branches in fit_spec.kernels.items()
    }
    scales = {k: dict(v) for k, v in fit_spec.frameworks.items()}
    fit = Fit(family.vector(fit_spec.parameters), scales, kernels=kernels)
    return Donor(fit_spec.rows, fit, hardware(spec))
