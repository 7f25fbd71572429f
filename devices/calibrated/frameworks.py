"""A framework that a device has no rows of, from what other devices and frameworks say.

What one framework's kernels do, and what the device's silicon does, are two sets of parameters
(`Family.silicon`). The silicon is the device's own, whichever frameworks its rows are of. The rest
comes with the kernels, so it is taken from every (device, framework) that has rows, weighted by

    affinity * exp(-d**2 / 2)                 another library's kernels
    affinity * (exp(-d**2 / 2) + FAR)         the same library's, which carry over to any device

with `d` the distance between the two devices (`rules.distance`) and the affinity 1 where framework
and library are the same, else one of those below (`libraries` tells which library a framework calls
on which device); a fit to few rows counts less. Each gives one prediction, its kernels on this
device's silicon; their weighted geometric mean is the answer. A mean over predictions and not over
parameters, as the parameters of one fit go together: what one leaves out another makes good.

The weights are rough on purpose: the mean error of a family on frameworks held out changes by up to
6 % of itself (once 10 %) where one of them is a third as large or three times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .family import F8, Family
from .fit import BlendPart, Fit
from .hardware import H_CAPABILITY
from .libraries import library

OTHER_FRAMEWORK, OTHER_LIBRARY, STRANGER = 0.5, 0.1, 0.03
"""Affinity of the same library called by another framework, of the same framework that calls
another library, and of neither."""
FAR = 0.1
FEW = 50
"""Rows of a device at which its fit counts half: with few it is mostly the defaults."""
TOLD = 1e-3
"""A parameter closer to its default, in the logarithm, was told by no row."""
LEAST = 1e-3
"""Parts with a smaller share are left out."""
FLOOR = 1e-9
"""Weight of what is unlike in everything: a device that no other is like gets their mean."""
Informed = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Donor:
    """A fitted device that others take parameters from.

    Attributes
    ----------
    labels : tuple of str
        Frameworks its rows are of.
    told : tuple of str, optional
        Branches of the family that its rows tell; all without it.
    share : float
        Part of a row that each of its rows counts.
    """

    rows: int
    fit: Fit
    h: F8
    labels: tuple[str, ...] = ()
    told: tuple[str, ...] | None = None
    share: float = 1.0

    def known(self) -> tuple[str, ...]:
        """Frameworks with enough rows to tell them apart, or all where there is only one base."""
        return tuple(self.fit.scales) or self.labels


def blends(
    h: F8, family: Family, silicon: F8, own: Donor | None, donors: Mapping[str, Donor],
    distance: Callable[[F8, F8], float],
) -> dict[str, tuple[BlendPart, ...]]:  # fmt: skip
    """What each framework that only other devices know is predicted from.

    Parameters
    ----------
    h : float64 array
        The device.
    silicon : float64 array
        Parameters of the device; those that come with kernels are not read.
    own : Donor, optional
        The device itself; without it nothing of it is known.
    donors : mapping of str to Donor
        The other devices.
    distance : callable
        Of two devices.
    """
    known = [(name, donor, label) for name, donor in donors.items() for label in donor.known()]
    wanted = {label for _, _, label in known} - set(own.labels if own else ())
    if not family.framework_time or not wanted:
        return {}
    if own is not None:
        known += [("this device", own, label) for label in own.known()]
    parts = [donor.fit.of(family, label) for _, donor, label in known]
    if any(part.values.ndim > 1 for part in parts):
        parts = [replace(part, values=family.per_branch(part.values)) for part in parts]
    logs = np.log([part.values for part in parts])
    informed = np.abs(logs - np.log(family.defaults)) > TOLD
    fixed = np.array([p.name in family.silicon for p in family.parameters])
    out = {}
    for label in sorted(wanted):
        weight = np.array([_weight(family, label, other, h, donor, distance) for _, donor, other in known])
        share = weight / weight.sum()
        values = np.where(informed, logs, mean_logs(weight, logs, informed, family))
        values = np.exp(np.where(fixed, np.log(silicon), values))
        left = share[share >= LEAST].sum()
        out[label] = tuple(
            BlendPart(float(s / left), v, part.time, f"{name} {other}", _one_library(family, label, other, h, donor))
            for s, v, part, (name, donor, other) in zip(share, values, parts, known, strict=True)
            if s >= LEAST
        )
    return out


def _weight(family: Family, label: str, other: str, h: F8, donor: Donor, distance: Callable[[F8, F8], float]) -> float:
    """Weight of a donor's framework `other` for the framework `label` on this device."""
    near = float(np.exp(-(distance(h, donor.h) ** 2) / 2)) + FLOOR
    trust = donor.rows / (donor.rows + FEW)
    if _one_library(family, label, other, h, donor):
        return trust * (near + FAR) * (1.0 if other == label else OTHER_FRAMEWORK)
    return trust * near * (OTHER_LIBRARY if other == label else STRANGER)


def _one_library(family: Family, label: str, other: str, h: F8, donor: Donor) -> bool:
    """Whether a framework here and another, or the same, there call the same library."""
    here = library(family.name, label, h[H_CAPABILITY])
    return library(family.name, other, donor.h[H_CAPABILITY]) == here


def mean_logs(weight: F8, logs: F8, informed: Informed, family: Family) -> F8:
    """Weighted mean of each parameter over the sets that tell it; its default where none does."""
    share = weight.reshape(-1, *[1] * (logs.ndim - 1)) * informed
    total = share.sum(axis=0)
    mean = (share * logs).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.log(family.defaults))
