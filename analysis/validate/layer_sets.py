"""Fit the kernels of sparse and recurrent layers (`devices.calibrated.layer_kernels`) to tables.

``python -m opbyte.analysis.validate.layer_sets DATE TABLES OUT`` writes one file per set. Sets, bases and the order of
devices are the same for all kernels (`set_fit`); a call of measured size with cold data is the step in which a better
device may not be slower.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...devices.calibrated.bounded import Probes
from ...devices.calibrated.calibrate import FamilyRows, by_device
from ...devices.calibrated.family import Family
from ...devices.calibrated.hardware import hardware
from ...devices.calibrated.kernel_sets import LABELS, TYPICAL, SetEntry, list_sets, load_layer_set, representative
from ...devices.calibrated.layer_kernels import LAYER_FAMILIES, LAYER_TABLES, split_layers
from ...devices.calibrated.set_fit import AskedSteps, SetFit
from ...devices.calibrated.set_kernels import fit_family
from ...devices.calibrated.store import set_yaml
from ...devices.calibrated.streamed import X_COPIES
from ...devices.calibrated.terms import COLD
from ...devices.catalog import load_device
from ...devices.spec import DeviceSpec
from ...workloads.kernel_tables import Skipped, read_tables
from .layer_modules import REST, rest_rows

CALLS = 120
"""Measured calls, of all devices, that the order of devices is asked at."""


class LayerFit(SetFit):
    """All sets of one family; frameworks that nobody timed have no entry, and get the typical one."""

    enough = 30
    # Few rows: from far off, the order of devices may lead astray.
    effort = ((0.0, 1.0, 3.0, 10.0), 40)

    def run(self) -> dict[str, dict[str, SetEntry]]:
        out: dict[str, dict[str, SetEntry]] = {name: {} for name in self.sets}
        fits = {}
        for name, label in LABELS.items():
            if any(
                self._evidence(s, label).rows >= self.enough and self._evidence(s, label).basis == "own"
                for s in self.sets
            ):
                fits[name], known = self._framework(label)
                self._enter(out, name, fits[name], known)
        if not fits:  # too few rows of any framework to tell a set's parameters
            return {}
        share = self._shares(fits)
        one = next(iter(fits.values()))
        typical = self._combined(fits, share) if len(fits) > 1 else one
        self._enter(out, TYPICAL, typical, self._every())
        return out


def fit_layers(
    measured: Mapping[str, tuple[DeviceSpec, Mapping[str, FamilyRows]]], only: tuple[str, ...] = ()
) -> dict[str, dict[str, dict[str, SetEntry]]]:
    """Set -> family -> framework -> entry.

    Parameters
    ----------
    measured : mapping
        Device -> (its description, family -> rows), as `calibrate.by_device` gives them.
    only : tuple of str
        Families; all without it.
    """
    specs = {spec.name: spec for spec in map(representative, list_sets())}
    specs |= {name: spec for name, (spec, _) in measured.items() if spec.kernels}
    out: dict[str, dict[str, dict[str, SetEntry]]] = {}
    for name, family in LAYER_FAMILIES.items():
        rows = {d: families[name] for d, (_, families) in measured.items() if name in families and d in specs}
        if not rows or (only and name not in only):
            continue
        for key, entries in _fit(family, specs, rows).items():
            out.setdefault(key, {})[name] = entries
    return out


def _fit(
    family: Family, specs: Mapping[str, DeviceSpec], rows: Mapping[str, FamilyRows]
) -> dict[str, dict[str, SetEntry]]:
    from scipy.sparse import identity

    x = np.unique(np.concatenate([family_rows.x for family_rows in rows.values()]), axis=0)
    x = x[np.random.default_rng(0).permutation(len(x))[:CALLS]]
    x[:, X_COPIES] = COLD
    none = np.array([], dtype=np.int64)
    flags = np.zeros(len(x), dtype=bool)
    seconds = {name: family.seconds(family.defaults, hardware(spec), x) for name, spec in specs.items()}
    probes = Probes(x, identity(len(x), format="csr"))
    return fit_family(family, specs, rows, probes, AskedSteps(flags, flags, none, none), seconds, LayerFit)


MODULES = "dsa_generation.csv"


def _write(sets: Mapping[str, Mapping[str, Mapping[str, SetEntry]]], date: str, out: str) -> None:
    for name, families in sets.items():
        (Path(out) / f"{name}.yaml").write_text(set_yaml(name, date, families), encoding="utf-8")


def main(date: str, tables: str, out: str) -> None:
    """Fit, and write one file a set."""
    paths = [p for p in sorted(Path(tables).glob("*.csv")) if p.stem in LAYER_TABLES]
    read, _ = read_tables(paths)
    split_layers(read)
    skipped: list[Skipped] = []
    measured = by_device(read, skipped)
    fits = fit_layers(measured)
    _write(fits, date, out)
    load_layer_set.cache_clear()  # what is left of modules is beyond the ops just fitted
    rest = {d: (load_device(d)[0], {REST: r}) for d, r in rest_rows(Path(tables) / MODULES).items()}
    for key, entries in fit_layers(rest).items():
        fits.setdefault(key, {}).update(entries)
    _write(fits, date, out)
    print(f"{len(skipped)} rows were not used", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
