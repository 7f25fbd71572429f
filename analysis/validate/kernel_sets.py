"""Fit the kernel parameters that devices share (`devices.calibrated.kernel_sets`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from ...devices.calibrated.allreduce import OWN
from ...devices.calibrated.bounded import Probes
from ...devices.calibrated.calibrate import DeviceRows
from ...devices.calibrated.collectives import KINDS
from ...devices.calibrated.family import F8, Family, families
from ...devices.calibrated.hardware import hardware
from ...devices.calibrated.kernel_sets import PARENTS, Entries, list_sets, load_set
from ...devices.calibrated.rules import LINKS, parameters
from ...devices.calibrated.set_fit import AskedSteps
from ...devices.calibrated.set_kernels import fit_family
from ...devices.calibrated.store import set_yaml
from ...devices.spec import DeviceSpec
from ..show.kept import NOTHING, Kept
from .dominance import OTHER, StepSweep, products, sweep

FORMATS = (None, "bf16", "fp8", "nvfp4")
BATCHES = ((1, 512, 0), (1, 4096, 0), (16, 32768, 0), (64, 512, 0), (1024, 4096, 0), (0, 0, 16), (0, 0, 1024),
           (0, 0, 16384))  # fmt: skip
ASKED = partial(
    sweep,
    ("llama-3.1-8b", "llama-3-70b", "qwen2.5-7b", "gemma-2-27b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite",
     "deepseek-v3", "gpt-oss-120b", "gpt-oss-20b", "llama-4-scout", "falcon-180b", "minimax-m2"),
    dtypes=FORMATS,
    batches=BATCHES,
)  # fmt: skip
"""Builds the steps at which a better device must not be slower: the smallest set that orders all of `dominance.sweep`."""
EXPERTS = partial(ASKED, dtypes=(*FORMATS, "fp8_block"))
"""The same for experts, which have separate kernels for block-scaled fp8."""
PRODUCTS = partial(ASKED, dtypes=(*FORMATS, "fp8_block", "int8"), batches=((8, 4096, 0), *BATCHES))
"""The same for matrix products, in all formats."""
LATENT = partial(sweep, ("deepseek-v2-lite", "deepseek-v3", "kimi-k2"), FORMATS)
"""The same for latent attention, with all batches: a step has few calls of it, so the fit is fast."""
SIZES, LARGE = tuple(2.0 ** np.arange(10, 31, 2)), 4.0 * 2**20
RANKS = (2.0, 4.0, 8.0)
"""Numbers of devices of the collectives at which a better device must not be slower; `SIZES` are their bytes. If both
devices were measured, only messages from `LARGE` bytes on are ordered: data sheets order bandwidths, not latencies. Small
messages of NCCL take 6 us on H100, 10 us on B200 and 8 us over PCIe (L40S)."""


@dataclass(frozen=True, slots=True)
class SharedFit:
    """Fitted kernel sets: `sets` maps the name of a set to its entries by family and framework."""

    sets: Mapping[str, Entries]
    date: str

    def files(self) -> dict[str, str]:
        """Return the YAML text of every set, by its name."""
        return {name: set_yaml(name, self.date, entries) for name, entries in self.sets.items()}


def fit_sets(
    measured: DeviceRows, date: str,
    progress: Callable[[str], None] | None = None,
    kept: Kept = NOTHING,
) -> SharedFit:  # fmt: skip
    """Fit all families with rows, in every kernel set of the catalog; other families keep their entries.

    Parameters
    ----------
    measured : mapping of str to mapping of str to FamilyRows
        Measured rows by device and family.
    date : str
        Date to store in the sets.
    progress : callable, optional
        Called with the family that is being fitted.
    kept : Kept
        Fits that an earlier call finished; this call adds its own.
    """
    specs = products()
    over = cache(partial(_steps, specs))

    def steps(name: str) -> tuple[Probes, AskedSteps, dict[str, F8]]:
        which = {"mla": LATENT, "gemm": PRODUCTS, "moe": EXPERTS}.get(name, ASKED)
        probes, on, order = over(which)
        return probes[name], on, order

    names = dict.fromkeys([*(str(spec.kernels) for spec in specs.values()), *PARENTS.values()])
    out: dict[str, Entries] = {n: {} for n in names}
    for name, family in families().items():
        rows = {device: family_rows[name] for device, family_rows in measured.items() if name in family_rows}
        if not family.kinds:
            continue
        fitted: Entries
        if rows:
            if progress:
                progress(f"shared {name}")
            asked = _collectives(family, specs) if name in LINKS else steps(name)
            known = [name, {d: r.table.columns for d, r in rows.items()}] if kept else None
            fitted = kept.once(known, partial(fit_family, family, specs, rows, *asked))
        else:
            families_of = {n: load_set(n).families for n in list_sets()}
            fitted = {n: by_family[name] for n, by_family in families_of.items() if name in by_family}
        for key, entries in fitted.items():
            out[key][name] = entries
    return SharedFit({name: families_of for name, families_of in out.items() if families_of}, date)


def _steps(
    specs: Mapping[str, DeviceSpec], asked: Callable[[], StepSweep]
) -> tuple[Mapping[str, Probes], AskedSteps, dict[str, F8]]:
    """Return the steps' calls by family, the constraints between steps, and their times on every device [s]."""
    over = asked()
    alone = {}
    for name, spec in specs.items():
        known = {n: parameters(spec, families()[n]).fit.values for n in over.probes if n != OTHER}
        if asked is LATENT:  # A100's rows are of a kernel ten times as slow as the others'
            known["mla"] = families()["mla"].defaults
        alone[name] = over.seconds(spec, known)
    return over.probes, AskedSteps(over.where("int8"), over.linked, *over.narrowed()), alone


def _collectives(family: Family, specs: Mapping[str, DeviceSpec]) -> tuple[Probes, AskedSteps, dict[str, F8]]:
    """Return what `_steps` returns for collectives: each combination of bytes, devices and kind is a step."""
    from scipy.sparse import identity

    third = (OWN,) if family.name == "allreduce" else tuple(float(k) for k in KINDS.values())
    x = np.array([(s, n, k) for s in SIZES for n in RANKS for k in third])
    none = np.array([], dtype=np.int64)
    steps = AskedSteps(np.zeros(len(x), dtype=bool), x[:, 0] >= LARGE, none, none)
    alone = {
        name: family.seconds(parameters(spec, family).fit.values, hardware(spec), x) for name, spec in specs.items()
    }
    return Probes(x, identity(len(x), format="csr")), steps, alone
