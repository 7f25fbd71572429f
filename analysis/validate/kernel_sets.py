"""Fit the kernel parameters that devices share (`devices.calibrated.kernel_sets`), so that better devices are not slower.

Constraints are steps of the catalog's models. A step's ops depend on the model and its layout, not on the device: they
are built once and costed on every device. Tests compare all pairs of devices whose peaks are ordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.allreduce import OWN
from ...devices.calibrated.bounded import Probes
from ...devices.calibrated.calibrate import DeviceRows
from ...devices.calibrated.collectives import KINDS
from ...devices.calibrated.family import F8, Family, families
from ...devices.calibrated.hardware import hardware
from ...devices.calibrated.kernel_sets import PARENTS, Entries, list_sets, load_set
from ...devices.calibrated.model import INCLUDED
from ...devices.calibrated.rules import LINKS, parameters
from ...devices.calibrated.set_fit import AskedSteps
from ...devices.calibrated.set_kernels import fit_family
from ...devices.calibrated.store import set_yaml
from ...devices.catalog import list_devices, load_device
from ...devices.spec import DeviceSpec
from ...simulator.deploy.deployment import deploy
from ...simulator.scenario.load import load
from ...simulator.step.explicit import explicit_stage
from ...workloads.batch import Batch
from ...workloads.errors import InputError
from ...workloads.ops import Op
from ..show.kept import NOTHING, Kept

MODELS = (
    "llama-3.1-8b", "llama-3-70b", "llama-2-7b", "llama-2-13b", "mistral-7b", "qwen2.5-7b",
    "qwen2.5-32b", "qwen3-32b", "gemma-2-27b", "gemma-3-27b", "mixtral-8x7b", "qwen3-30b-a3b",
    "qwen3-235b-a22b", "deepseek-v2-lite", "deepseek-v3", "gpt-oss-20b", "gpt-oss-120b", "glm-4.5",
    "olmoe-1b-7b", "phi-3.5-moe", "llama-4-scout", "llama-4-maverick", "dbrx", "minimax-m2",
    "jamba-mini", "qwen3-next-80b-a3b", "opt-66b", "falcon-180b", "kimi-k2", "grok-1",
)  # fmt: skip
DTYPES = (None, "bf16", "fp8", "fp8_block", "nvfp4", "int8")
"""Formats of the weights; None: the checkpoint's format."""
DEGREES = (1, 8)
"""Tensor-parallel degrees: devices of one node that share every layer."""
BATCHES = ((1, 512, 0), (1, 4096, 0), (1, 32768, 0), (8, 4096, 0), (16, 32768, 0), (64, 512, 0),
           (64, 4096, 0), (512, 512, 0), (1024, 4096, 0), (0, 0, 16), (0, 0, 128), (0, 0, 1024),
           (0, 0, 4096), (0, 0, 16384))  # fmt: skip
"""Batches: number of decodes, context of each, and tokens of one prompt (0: no prompt)."""
OTHER = "other"
"""Name of the ops without a kernel model; their time is their traffic over the nominal bandwidth."""
HOST = "b200"
"""Device on whose systems the ops of a step are built, because it supports every format."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: model, weight format, tensor-parallel degree, number of decodes, their context, and prompt tokens."""

    model: str
    dtype: str | None
    degree: int
    decodes: int
    context: int
    prompt: int


@dataclass(frozen=True, slots=True)
class StepSweep:
    """Steps, and their distinct kernel calls by family.

    Attributes
    ----------
    probes : mapping of str to Probes
        Distinct calls of each family, and how often each step makes them. For `OTHER` a call is its bytes moved.
    """

    steps: tuple[Step, ...]
    probes: Mapping[str, Probes]

    @property
    def linked(self) -> npt.NDArray[np.bool_]:
        return np.array([step.degree > 1 for step in self.steps])

    def where(self, dtype: str) -> npt.NDArray[np.bool_]:
        return np.array([step.dtype == dtype for step in self.steps])

    def narrowed(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the indices of steps in fp8, and the indices of the same steps in bf16."""
        at = {step: i for i, step in enumerate(self.steps)}
        pairs = [(i, at[wide]) for step, i in at.items() if step.dtype == "fp8" and (wide := _wide(step)) in at]
        both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def seconds(self, spec: DeviceSpec, values: Mapping[str, F8]) -> F8:
        """Return the time of every step on one device [s]; `values` are the kernel parameters by family."""
        h, total = hardware(spec), np.zeros(len(self.steps))
        for name, probes in self.probes.items():
            if name == OTHER:
                total += np.asarray(probes.calls @ (probes.x[:, 0] / h.bandwidth))
            else:
                total += probes.times(families()[name], values[name], h)
        return total


def _wide(step: Step) -> Step:
    return Step(step.model, "bf16", step.degree, step.decodes, step.context, step.prompt)


def sweep(
    models: Sequence[str] = MODELS,
    dtypes: Sequence[str | None] = DTYPES,
    degrees: Sequence[int] = DEGREES,
    batches: Sequence[tuple[int, int, int]] = BATCHES,
) -> StepSweep:
    """Build the steps of all combinations; combinations that a model does not support are skipped."""
    from scipy.sparse import csr_matrix

    steps: list[Step] = []
    calls: dict[str, dict[tuple[float, ...], int]] = {}
    entries: dict[str, list[tuple[int, int, int]]] = {}
    for step, ops in _programs(models, dtypes, degrees, batches):
        for op, count in ops:
            name, x = _quantities(op)
            known = calls.setdefault(name, {})
            at = known.setdefault(x, len(known))
            entries.setdefault(name, []).append((len(steps), at, count))
        steps.append(step)
    probes = {}
    for name, known in calls.items():
        row, column, count = np.array(entries[name]).T
        matrix = csr_matrix((count.astype(float), (row, column)), shape=(len(steps), len(known)))
        probes[name] = Probes(np.array(list(known), dtype=float), matrix)
    return StepSweep(tuple(steps), probes)


def _programs(
    models: Sequence[str], dtypes: Sequence[str | None], degrees: Sequence[int], batches: Sequence[tuple[int, int, int]]
) -> Iterable[tuple[Step, list[tuple[Op, int]]]]:
    for model in models:
        for dtype in dtypes:
            for degree in degrees:
                try:
                    spec, where = load(model, f"{HOST}-x{degree}", dtype, None)
                    side = deploy(spec, where, tp=degree, costs="roofline")
                except InputError:
                    continue
                for decodes, context, prompt in batches:
                    batch = Batch.of([context] * decodes, [(prompt, 0)] if prompt else [])
                    stage = explicit_stage(side, [batch], expected=True)
                    ops = [(p.op, p.count) for p in stage.ops if p.critical]
                    yield Step(model, dtype, degree, decodes, context, prompt), ops


def _quantities(op: Op) -> tuple[str, tuple[float, ...]]:
    family = next((f for f in families().values() if op.kind in f.kinds), None)
    x = None if family is None or op.name in INCLUDED else family.from_op(op)
    if family is None or x is None:
        return OTHER, (op.bytes,)
    return family.name, tuple(float(value) for value in x)


@cache
def products() -> dict[str, DeviceSpec]:
    """Return the catalog's devices that have a single processor and name a kernel set."""
    specs = {name: load_device(name)[0] for name in list_devices()}
    alone = {name: spec for name, spec in specs.items() if len(spec.processors) == 1}
    return {name: spec for name, spec in alone.items() if spec.kernels is not None}


FORMATS = (None, "bf16", "fp8", "nvfp4")
ASKED_BATCHES = ((1, 512, 0), (1, 4096, 0), (16, 32768, 0), (64, 512, 0), (1024, 4096, 0), (0, 0, 16), (0, 0, 1024),
           (0, 0, 16384))  # fmt: skip
ASKED = partial(
    sweep,
    ("llama-3.1-8b", "llama-3-70b", "qwen2.5-7b", "gemma-2-27b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite",
     "deepseek-v3", "gpt-oss-120b", "gpt-oss-20b", "llama-4-scout", "falcon-180b", "minimax-m2"),
    dtypes=FORMATS,
    batches=ASKED_BATCHES,
)  # fmt: skip
"""Builds the steps at which a better device must not be slower: the smallest set that orders all of `dominance.sweep`."""
EXPERTS = partial(ASKED, dtypes=(*FORMATS, "fp8_block"))
"""The same for experts, which have separate kernels for block-scaled fp8."""
PRODUCTS = partial(ASKED, dtypes=(*FORMATS, "fp8_block", "int8"), batches=((8, 4096, 0), *ASKED_BATCHES))
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
