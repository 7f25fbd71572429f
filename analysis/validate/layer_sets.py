"""Fit the kernels of sparse and recurrent layers (`devices.calibrated.layer_kernels`) to tables.

``python -m opbyte.analysis.validate.layer_sets DATE TABLES OUT`` writes one file per kernel set. The method is the same
as for other kernels (`set_fit`). A better device must not be slower in calls of measured sizes with cold caches.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...devices.calibrated.bounded import Probes
from ...devices.calibrated.calibrate import FamilyRows, by_device
from ...devices.calibrated.family import F8, Family
from ...devices.calibrated.hardware import hardware
from ...devices.calibrated.kernel_sets import LABELS, TYPICAL, Entries, list_sets, load_layer_set, representative
from ...devices.calibrated.layer_kernels import LAYER_FAMILIES, LAYER_TABLES, QUANTITIES, from_op, split_layers
from ...devices.calibrated.set_fit import AskedSteps, SetFit
from ...devices.calibrated.set_kernels import fit_family
from ...devices.calibrated.store import set_yaml
from ...devices.calibrated.terms import COLD
from ...devices.catalog import load_device
from ...devices.device import build_device
from ...devices.spec import DeviceSpec
from ...simulator.frameworks.kernels import kernels_of
from ...workloads.batch import Batch
from ...workloads.errors import InputError
from ...workloads.kernel_tables import KernelTable, Skipped, framework, read_table, read_tables
from ...workloads.layers import Indexer, LatentAttention, Run, SparseLatentAttention
from ...workloads.numerics import Numerics

REST = "index_rest"
SHORT, FEW = 2048.0, 16.0
"""Largest context and number of sequences of the rows used for `REST`: up to here it is most of a module's time."""
LEAST_S = 2e-6
COPIES = QUANTITIES.index("copies")
SHAPES = {
    "DeepSeek-V3.2": (LatentAttention(7168, 128, 1536, 512, 128, 64, 128), Indexer(64, 128, 2048)),
    "GLM-5": (LatentAttention(6144, 64, 2048, 512, 192, 64, 256), Indexer(32, 128, 2048)),
}
"""Attention and indexer of the models in tables of modules, with all heads."""


def layer_of(model: str, heads: int) -> SparseLatentAttention | None:
    """Return the layer of a model with the given number of heads; None for models not in `SHAPES` and GLM-5.2."""
    name = next((n for n in SHAPES if model.startswith(n) and not model.startswith("GLM-5.2")), None)
    if name is None:
        return None
    base, indexer = SHAPES[name]
    return SparseLatentAttention(replace(base, heads=heads), indexer)


def numerics_of(gemm: str, kv: str) -> Numerics:
    """Return the number formats of a table row from its columns gemm_dtype and kv_dtype."""
    weights = () if gemm in ("bf16", "fp16") else (("attention", gemm),)
    return Numerics("bf16", weights, "fp8" if kv == "fp8" else "bf16")


def rest_rows(path: Path) -> dict[str, FamilyRows]:
    """Return, by device, the measured time of short decodes minus the predicted time of their ops, as rows of `REST`."""
    table = read_table(path, [])
    if table is None:
        raise InputError(path, "holds no rows")
    short = (table["kv_prefix"] <= SHORT) & (table["batch"] <= FEW)
    table = table.take(short)
    out = {}
    for device in dict.fromkeys(table["device"].tolist()):
        rows = _of_device(table.take(table["device"] == device), device)
        if rows is not None:
            out[rows[0]] = rows[1]
    return out


def _of_device(table: KernelTable, device: str) -> tuple[str, FamilyRows] | None:
    """Return a device's name and its rows of `REST`; None without rows of a known model and framework.

    A row's time is the measured time of a layer minus the predicted times of its ops with separate kernels [s].
    """
    spec = load_device(device)[0]
    models = {
        label: build_device(spec, calibrated=True, frameworks=kernels_of(name, spec, apart=False))
        for name, label in LABELS.items()
    }
    rows_kept, x, rest = [], [], []
    for i in range(len(table)):
        label = framework(str(table["source"][i]))
        layer = layer_of(str(table["model"][i]), int(table["heads"][i]))
        if layer is None or label not in models:
            continue
        num = numerics_of(str(table["gemm_dtype"][i]), str(table["kv_dtype"][i]))
        batch = Batch.of([int(table["kv_prefix"][i])] * int(table["batch"][i]))
        ops = layer.ops(batch.moments((-2048, 0, 2048)), Run(num), None)
        cost = models[label].processors["xpu"].model.cost
        total = sum(cost(op).seconds for op in ops if op.kind != REST and op.flops > 0.0)
        quantities = from_op(next(op for op in ops if op.kind == REST))
        assert quantities is not None
        quantities[COPIES] = 1.0
        rows_kept.append(i)
        x.append(quantities)
        rest.append(max(float(table["measured_s"][i]) - total, LEAST_S))
    if not rows_kept:
        return None
    result: F8 = np.array(rest)
    labels = np.array([framework(str(s)) for s in table["source"][rows_kept]], dtype=object)
    family = LAYER_FAMILIES[REST]
    return spec.name, FamilyRows(family, table.take(np.array(rows_kept)), hardware(spec), np.array(x), result, labels)


CALLS = 120
"""Number of measured calls at which a better device must not be slower."""


class LayerFit(SetFit):
    """Fit of one family in all sets; frameworks without measured rows have no entry and use the typical one."""

    enough = 30
    # Few rows: from far off, the order of devices may lead astray.
    effort = ((0.0, 1.0, 3.0, 10.0), 40)

    def run(self) -> Entries:
        out: Entries = {name: {} for name in self.sets}
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
) -> dict[str, Entries]:
    """Fit all layer kernels with rows; return the entries by set, family and framework.

    Parameters
    ----------
    measured : mapping
        Description and rows by family of each device, as `calibrate.by_device` returns them.
    only : tuple of str
        Families to fit; by default all.
    """
    specs = {spec.name: spec for spec in map(representative, list_sets())}
    specs |= {name: spec for name, (spec, _) in measured.items() if spec.kernels}
    out: dict[str, Entries] = {}
    for name, family in LAYER_FAMILIES.items():
        rows = {d: families[name] for d, (_, families) in measured.items() if name in families and d in specs}
        if not rows or (only and name not in only):
            continue
        for key, entries in _fit(family, specs, rows).items():
            out.setdefault(key, {})[name] = entries
    return out


def _fit(family: Family, specs: Mapping[str, DeviceSpec], rows: Mapping[str, FamilyRows]) -> Entries:
    from scipy.sparse import identity

    x = np.unique(np.concatenate([family_rows.x for family_rows in rows.values()]), axis=0)
    x = x[np.random.default_rng(0).permutation(len(x))[:CALLS]]
    x[:, COPIES] = COLD
    none = np.array([], dtype=np.int64)
    flags = np.zeros(len(x), dtype=bool)
    seconds = {name: family.seconds(family.defaults, hardware(spec), x) for name, spec in specs.items()}
    probes = Probes(x, identity(len(x), format="csr"))
    return fit_family(family, specs, rows, probes, AskedSteps(flags, flags, none, none), seconds, LayerFit)


MODULES = "dsa_generation.csv"


def _write(sets: Mapping[str, Entries], date: str, out: str) -> None:
    for name, families in sets.items():
        (Path(out) / f"{name}.yaml").write_text(set_yaml(name, date, families), encoding="utf-8")


def main(date: str, tables: str, out: str) -> None:
    """Fit the layer kernels to the tables in a folder, and write one YAML file per kernel set."""
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
