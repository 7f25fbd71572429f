"""Fit the kernel parameters that devices share (`devices.calibrated.kernel_sets`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...devices.calibrated.allreduce import OWN
from ...devices.calibrated.bounded import Probes
from ...devices.calibrated.calibrate import Rows
from ...devices.calibrated.collectives import KINDS
from ...devices.calibrated.family import F8, Family, families
from ...devices.calibrated.hardware import hardware
from ...devices.calibrated.kernel_sets import LINKS, PARENTS, Entry
from ...devices.calibrated.rules import parameters
from ...devices.calibrated.set_fit import Steps
from ...devices.calibrated.set_kernels import fit_family
from ...devices.calibrated.store import set_yaml
from ...devices.spec import DeviceSpec
from ..show.kept import NOTHING, Kept
from .dominance import OTHER, products, sweep

SIZES = tuple(2.0 ** np.arange(10, 31, 2))
RANKS = (2.0, 4.0, 8.0)
"""Collectives that the inequalities are asked of, each a step of its own: bytes and devices."""


@dataclass(frozen=True, slots=True)
class SharedFit:
    """Sets -> family -> framework -> entry."""

    sets: Mapping[str, Mapping[str, Mapping[str, Entry]]]
    date: str

    def files(self) -> dict[str, str]:
        """Name of a set -> its YAML."""
        return {name: set_yaml(name, self.date, held) for name, held in self.sets.items()}


def fit_sets(
    measured: Mapping[str, Mapping[str, Rows]], date: str,
    progress: Callable[[str], None] | None = None,
    kept: Kept = NOTHING,
) -> SharedFit:  # fmt: skip
    """Fit every family of every set of the catalog.

    Parameters
    ----------
    measured : mapping of str to mapping of str to Rows
        Device -> family -> rows.
    date : str
        To store.
    kept : Kept
        Families that an earlier call finished; those of this one are added.
    """
    over, specs = sweep(), products()
    steps = Steps(over.where("int8"), over.linked, *over.narrowed())
    alone = {
        name: over.seconds(spec, {f: parameters(spec, families()[f]).fit.values
                                  for f in over.probes if f != OTHER})
        for name, spec in specs.items()
    }  # fmt: skip
    names = dict.fromkeys(str(spec.kernels) for spec in specs.values())
    out: dict[str, dict[str, dict[str, Entry]]] = {n: {} for n in (*names, *PARENTS.values())}
    for name, family in families().items():
        if not family.kinds:
            continue
        if progress:
            progress(f"shared {name}")
        rows = {device: found[name] for device, found in measured.items() if name in found}
        linked = name in LINKS
        asked = _collectives(family, specs) if linked else (over.probes[name], steps, alone)
        known = [name, {d: r.table.columns for d, r in rows.items()}] if kept else None
        for key, entries in kept.once(
            known, partial(fit_family, family, specs, rows, *asked)
        ).items():
            out[key][name] = entries
    return SharedFit({name: held for name, held in out.items() if held}, date)


def _collectives(
    family: Family, specs: Mapping[str, DeviceSpec]
) -> tuple[Probes, Steps, dict[str, F8]]:
    """Collectives of many sizes, each a step of its own."""
    from scipy.sparse import identity

    third = (OWN,) if family.name == "allreduce" else tuple(float(k) for k in KINDS.values())
    x = np.array([(s, n, k) for s in SIZES for n in RANKS for k in third])
    none = np.array([], dtype=np.int64)
    steps = Steps(np.zeros(len(x), dtype=bool), np.ones(len(x), dtype=bool), none, none)
    alone = {
        name: family.seconds(parameters(spec, family).fit.values, hardware(spec), x)
        for name, spec in specs.items()
    }
    return Probes(x, identity(len(x), format="csr")), steps, alone
