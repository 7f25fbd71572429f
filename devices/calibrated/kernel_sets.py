"""Kernel parameters shared by devices of one silicon, for each serving framework.

A device names its set (``kernels:`` in its description), and one that ``extends`` it keeps the set: other clocks,
caches and bandwidths use the same kernels. H100, H200 and H800 are one set, as are the variants of A100, of B200 and of
MI300X. A set with a parent has only families with own rows; the rest is the parent's. Every set has parameters for each
of `FRAMEWORKS`, fitted together so that no device is slower than one with lower peaks (`bounded`). Results use them.
The fits of each single device (`rules`) are used by ``measured-blend`` and compared with rows by ``opbyte validate
kernels``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import permutations
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...workloads.errors import InputError, check_known
from ...workloads.records import Records
from ...workloads.specfile import Spec
from ...workloads.yamlfile import read_yaml
from ..catalog import load_device
from ..spec import DeviceSpec
from .errors import Errors
from .family import F8, Family, families
from .fit import Fit
from .hardware import hardware
from .layer_kernels import LAYER_FAMILIES
from .order import at_least_as_good
from .rules import ALONE, GENERATION, LINKS, Donor, Parameters, at_clock, distance, parameters, transfer

TYPICAL, MEASURED = "typical", "measured-blend"
LABELS: Mapping[str, str] = {
    "vllm": "aiconfigurator/vllm",
    "sglang": "aiconfigurator/sglang",
    "trtllm": "aiconfigurator/trtllm",
}
"""Label of each serving framework in the kernel tables."""
FRAMEWORKS = (TYPICAL, *LABELS, MEASURED)
"""Possible kernels: the geometric mean of the three frameworks by their rows, one framework, or the mean of all kernels
measured on that device."""
PARENTS: Mapping[str, str] = {
    "a100-pcie": "a100-80gb", "gb200": "b200", "h20": "h100", "mi308x": "mi300x",
    "rtx-4090": "l40s",
}  # fmt: skip
"""Set of the whole chip for each set of a part of that chip, or of the same chip with another clock or package."""
LINK_PARENTS: Mapping[str, str] = {**PARENTS, "a100-pcie": "l40s", "a40": "l40s"}
"""Parents for collectives, for which cards without a switch are similar."""
ATTENTION_PARENTS: Mapping[str, str] = {**PARENTS, "a40": "l40s"}
"""Parents for the families of `ATTENTION`, whose libraries choose tiles for the cores of GA102 and AD102 alike (compute
capabilities 8.6 and 8.9, 100 KiB of shared memory) and others for an A100's (8.0, 164 KiB):
``is_sm8x`` in ``flash_fwd_launch_template.h`` of Dao-AILab/flash-attention."""
ATTENTION = ("attention_prefill", "attention_decode")
"""Families of attention with keys and values for each head."""
DEVICES: Mapping[str, str] = {"a100-pcie": "a100-pcie-80gb"}
"""Device that represents a set, if its name differs."""
OTHER, ALIKE = 0.003, 0.5
"""Weight of a row of another framework for devices without a set, and the distance below which devices count as one
silicon."""
Positive = Annotated[float, Field(gt=0)]


def named(framework: str) -> tuple[str, str]:
    """Return the name and the version of a text such as ``vllm@0.24``; the version is empty if there is none.

    Raises
    ------
    InputError
        No such framework, or a version of a framework without versions.
    """
    name, mark, version = framework.partition("@")
    check_known(f"--framework {framework}", name, FRAMEWORKS, "is not one")
    if mark and (name not in LABELS or not re.fullmatch(r"\d+(\.\w+)*", version)):
        known = ", ".join(LABELS)
        raise InputError(f"--framework {framework}", f"needs a version such as 0.24 of {known}")
    return name, version


def versions(entry: SetEntry, name: str) -> tuple[str, ...]:
    """Return the framework versions of an entry's rows, such as ``0.24.0``."""
    label = LABELS.get(name, "?")
    return tuple(s.removeprefix(f"{label}-") for s in entry.sources if s.startswith(f"{label}-"))


def of_version(known: Iterable[str], asked: str) -> bool:
    """Return whether a known version equals the requested one or is a release of it."""
    return any(one == asked or one.startswith(f"{asked}.") for one in known)


def parents_of(family: str) -> Mapping[str, str]:
    """Return the parent of each set, from which it takes a family without rows."""
    if family in LINKS:
        return LINK_PARENTS
    return ATTENTION_PARENTS if family in ATTENTION else PARENTS


def silicon_of(name: str, family: str = "") -> str:
    """Return the set of the whole chip that a set belongs to, or of the cards with similar links."""
    parents = LINK_PARENTS if family in LINKS else PARENTS
    while name in parents:
        name = parents[name]
    return name


LAYERS = "layer_kernels"
"""Folder of the entries of `layer_kernels.LAYER_FAMILIES`."""


class SetEntry(Spec):
    """Parameters of one family for one framework's kernels.

    Attributes
    ----------
    basis : str
        "own": rows of that framework on devices of the set; "library": rows of the kernel library
        that the framework calls; "silicon": rows of other kernels on devices of the set;
        "transferred": the mean of other sets' parameters, moved as far as physics demands.
    rows : int
        Measured rows behind it.
    errors : tuple of float, optional
        Median and 90th percentile of |predicted / measured - 1|, median of the bias.
    parameters : mapping of str to float
        By name, in SI units.
    kernels : mapping of str to mapping of str to float
        Branch of the family (a number format mostly) -> separate parameters.
    told : tuple of str, optional
        Branches with enough rows in the set, if kernels have separate parameters.
    sources : tuple of str
        Frameworks with their versions that the rows are of.
    """

    basis: str
    rows: Annotated[int, Field(ge=0)]
    errors: tuple[float, float, float] | None = None
    parameters: dict[str, Positive]
    kernels: dict[str, dict[str, Positive]] = Field(default_factory=dict)
    told: tuple[str, ...] | None = None
    sources: tuple[str, ...] = ()

    def values(self, family: Family) -> F8:
        """Return the parameters as an array for the family: one row per branch if kernels have separate parameters."""
        out = family.vector(self.parameters)
        if self.kernels:
            out = family.per_branch(out)
        for branch, of_branch in self.kernels.items():
            out[family.branches.index(branch)] = family.vector(of_branch)
        return out


Entries = dict[str, dict[str, SetEntry]]
"""Entries by two names: kernel family (or set), then framework."""


class _File(Spec):
    name: str
    date: str
    families: Entries


@dataclass(frozen=True, slots=True)
class KernelSet:
    """All entries of one set, by family and framework."""

    name: str
    families: Entries

    def find(self, family: str, framework: str) -> SetEntry | None:
        """Return the entry of a framework; the typical entry if the family has no entries by framework."""
        families = load_set(owner(self.name, family)).families.get(family, {})
        return families.get(framework) or families.get(TYPICAL)


def _folder(kind: str = "kernels") -> Path:
    return Path(str(files("opbyte.devices") / "specs" / kind))


@cache
def list_sets() -> tuple[str, ...]:
    """Return the names of the catalog's sets."""
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


@cache
def load_set(name: str) -> KernelSet:
    """Return a set of the catalog.

    Raises
    ------
    SpecError
        A file that is not a set.
    InputError
        No such set.
    """
    check_known(f"kernels: {name}", name, list_sets(), "is not a known set")
    read = _File.model_validate(read_yaml(_folder() / f"{name}.yaml"), strict=False)
    return KernelSet(name, read.families)


@cache
def load_layer_set(name: str) -> KernelSet:
    """Return a set's entries for the kernels of sparse and recurrent layers; empty if it has none."""
    path = _folder(LAYERS) / f"{name}.yaml"
    if not path.exists():
        return KernelSet(name, {})
    return KernelSet(name, _File.model_validate(read_yaml(path), strict=False).families)


def layer_parameters(spec: DeviceSpec, family: Family, framework: str = TYPICAL) -> Parameters:
    """Return the parameters of a family of layer kernels on a device; other frameworks' by name and label.

    If the device's set has no rows of the family, the result is the mean of other sets (`borrowed`).
    """
    entry_held = {} if spec.kernels is None else entries(owner(spec.kernels, family.name), family.name)
    under: dict[str, Parameters] = {}
    if TYPICAL not in entry_held:
        under = {key: borrowed(spec, family, key) for key in (TYPICAL, *LABELS)}
    labels = {label: entry_held[key].values(family) for key, label in LABELS.items() if key in entry_held}
    for key, entry in entry_held.items():
        seen = {} if entry.errors is None else {"fit": Errors(entry.rows, *entry.errors)}
        basis = "fitted" if entry.basis in ("own", "library") else "transferred"
        under[key] = Parameters(Fit(entry.values(family), {}, labels), basis, entry.rows, seen)
    under = {key: under.get(key, under[TYPICAL]) for key in FRAMEWORKS}
    under |= {label: under[key] for key, label in LABELS.items()}
    return replace(under[framework], under=under)


def borrowed(spec: DeviceSpec, family: Family, framework: str, without: str = "") -> Parameters:
    """Return a family's parameters on a device as the mean of the sets with rows, by the rule of `rules`.

    The set `without` is left out.
    """
    h, donors = hardware(spec), _donors(family, framework, without)
    known = {name: at_clock(h, family, donor) for name, donor in donors.items()}
    return replace(transfer(h, family, known), framework=framework)


def alike(spec: DeviceSpec, family: Family, without: str = "") -> bool:
    """Return whether the sets that a device borrows from include one of its silicon."""
    h, donors = hardware(spec), _donors(family, TYPICAL, without).values()
    return any(distance(h, d.h) < ALIKE and abs(h.capability - d.h.capability) < GENERATION for d in donors)


def entries(name: str, family: str) -> Mapping[str, SetEntry]:
    """Return the entries of a family in a set by framework, layer kernels included; empty if there are none."""
    return load_set(name).families.get(family) or load_layer_set(name).families.get(family, {})


def owner(name: str, family: str) -> str:
    """Return the set, or its nearest parent with rows of the family."""
    parents = parents_of(family)
    while not entries(name, family) and name in parents:
        name = parents[name]
    return name


def _donors(family: Family, framework: str, without: str) -> dict[str, Donor]:
    """Return the sets with rows of a family; rows of other frameworks count with the weight `OTHER`."""
    out = {}
    for name in list_sets():
        entry_held = {} if name in (*ALONE, without) else entries(name, family.name)
        asked = framework if framework in entry_held else TYPICAL
        for key, entry in entry_held.items():
            other = framework in LABELS and key in LABELS and entry.basis == "own"
            share = 1.0 if key == asked else OTHER if other else 0.0
            if share and entry.basis != "transferred":
                donor = Donor(entry.rows, Fit(entry.values(family), {}), _constants(name), entry.told, share)
                out[name if key == asked else f"{name} {key}"] = donor
    return out


@cache
def _constants(name: str) -> Records:
    """Return the constants of the device that a set is named after."""
    return hardware(representative(name))


def kindred(specs: Mapping[str, DeviceSpec], *, linked: bool) -> Iterator[tuple[str, str]]:
    """Return pairs of devices of one silicon; the first is at least as good as the other, also per core."""
    silicon = {name: silicon_of(str(spec.kernels)) for name, spec in specs.items()}
    h = {name: hardware(spec) for name, spec in specs.items()}
    core = {name: (row.bandwidth, row.cache, row.cores, row.clock, row.peak[0] / row.cores) for name, row in h.items()}
    for one, other in permutations(specs, 2):
        alike = silicon[one] == silicon[other]
        alike &= all(a >= b for a, b in zip(core[one], core[other], strict=True))
        alike &= not linked or specs[one].link.medium == specs[other].link.medium
        if alike and at_least_as_good(specs[one], specs[other], linked=linked):
            yield one, other


def representative(name: str) -> DeviceSpec:
    """Return the catalog device that a set is named after."""
    return load_device(DEVICES.get(name, name))[0]


def shared_parameters(spec: DeviceSpec, family: Family, framework: str = TYPICAL) -> Parameters:
    """Return the parameters of a family on a device under a framework; other frameworks' by name and label.

    A family that no set knows, and a device whose own fit is not the catalog's (a user's tables), have that fit;
    a device of no set has the mean of all (`borrowed`).
    """
    framework, version = named(framework)
    measured = parameters(spec, family)
    name = spec.kernels
    if _own_tables(spec, family.name):
        return measured
    under: dict[str, Parameters] = {MEASURED: replace(measured, framework=MEASURED)}
    for key in (TYPICAL, *LABELS):
        entry = None if name is None else load_set(name).find(family.name, key)
        if name is not None and entry is not None:
            under[key] = _known(spec, family, entry, name, key)
        elif name is None and (known := borrowed(spec, family, key)).near:
            under[key] = known
    under |= {label: under[key] for key, label in LABELS.items() if key in under}
    return replace(asked_for(under.get(framework, measured), version), under=under)


def _known(spec: DeviceSpec, family: Family, entry: SetEntry, name: str, key: str) -> Parameters:
    seen = {} if entry.errors is None else {"fit": Errors(entry.rows, *entry.errors)}
    fitted = entry.basis != "transferred" and family.name in spec.calibration
    basis = "fitted" if fitted else "transferred"
    return Parameters(
        Fit(entry.values(family), {}), basis, entry.rows, seen, ((name, 1.0),), framework=key,
        versions=versions(entry, key),
    )  # fmt: skip


def asked_for(known: Parameters, version: str) -> Parameters:
    """Return the parameters with a note if their rows are of other versions than the requested one."""
    if not version or of_version(known.versions, version):
        return known
    versions = ", ".join(known.versions)
    rows = f"rows of {known.framework} {versions}" if versions else f"no rows of {known.framework} itself"
    return replace(known, other_version=f"{rows}, not of {version}")


def _own_tables(spec: DeviceSpec, family: str) -> bool:
    """Return whether a device's fit of a family comes from tables outside the catalog."""
    fits = spec.calibration.get(family)
    return fits is not None and not any(other.calibration.get(family) == fits for other in _from(spec.name))


def _from(name: str) -> Iterator[DeviceSpec]:
    """Return the devices of the catalog, starting with this one, so that others are rarely read."""
    from ..catalog import list_devices

    names = sorted(list_devices(), key=lambda other: other != name)
    return (load_device(other)[0] for other in names)


def everywhere(framework: str) -> dict[str, str]:
    """Return the same framework for all kinds of ops, in the form of `device.build_device` and `deploy`.

    Parameters
    ----------
    framework : str
        One of `kernel_sets.FRAMEWORKS`, optionally with a version (``vllm@0.24``). Without rows on a device a framework
        uses, in this order: devices of the same silicon, other frameworks with the same kernel library, the device's
        other kernels, another silicon's parameters (`set_fit`).

    Raises
    ------
    InputError
        No such framework.
    """
    named(framework)
    return {kind: framework for family in (*families().values(), *LAYER_FAMILIES.values()) for kind in family.kinds}
