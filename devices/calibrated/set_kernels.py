"""Separate parameters for the kernels of a family: mostly one per number format.

A family's parameters in a set represent all of its kernels under a framework. A kernel (`Family.branches`) with enough
rows gets separate parameters with those as prior; its steps obey the inequalities of `bounded` separately, so that the
sum over kernels does too. Steps in fp8 may take the time that the other kernels leave of the same steps in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..spec import DeviceSpec
from .bounded import Probes
from .calibrate import FamilyRows
from .family import F8, Family
from .hardware import hardware
from .kernel_sets import Entries, SetEntry
from .order import has_unit
from .set_fit import ENOUGH_OF_ONE, AskedSteps, SetFit
from .set_rows import some_of

APART = 150
"""Minimum rows over all devices for a separate fit of a format's kernel."""


def fit_family(
    family: Family, specs: Mapping[str, DeviceSpec], measured: Mapping[str, FamilyRows], probes: Probes,
    steps: AskedSteps, step_s: Mapping[str, F8], of: type[SetFit] = SetFit,
) -> Entries:  # fmt: skip
    """Return the entries of all sets of a family, including its kernels; arguments as in `SetFit`, `of` is the fit."""
    first = of(family, specs, measured, probes, steps, step_s)
    out = first.run()
    if not (family.branches and family.framework_time):
        return out
    for wanted, branches in _kernels(family, measured):
        rows = {d: some_of(r, np.isin(family.kernel_of(r.x), wanted)) for d, r in measured.items()}
        part = _share(family, probes, wanted)
        base = {s: {k: _as_base(e, branches[0]) for k, e in entries.items()} for s, entries in out.items()}
        limits = _limits(family, specs, probes, part, steps, first.set, out)
        some = {d: r for d, r in rows.items() if len(r.measured)}
        fits = of(family, specs, some, part, steps, step_s, base, limits).run()
        for name, entries in fits.items():
            for key, entry in entries.items():
                told = branches if entry.rows >= ENOUGH_OF_ONE else ()
                start = dict.fromkeys(branches, entry.parameters)
                out[name][key] = replace_kernels(out[name][key], start, told)
    return {name: {key: _judged(first, name, key, e) for key, e in entries.items()} for name, entries in out.items()}


def _kernels(family: Family, measured: Mapping[str, FamilyRows]) -> Iterator[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Yield groups of branches that are fitted together, by index and name: first all of a format, then single ones."""
    count = np.zeros(len(family.branches))
    for rows in measured.values():
        count += np.bincount(family.kernel_of(rows.x), minlength=len(count))
    groups = dict.fromkeys(name.partition("+")[0] for name in family.branches)
    for group in groups:
        inside = [i for i, name in enumerate(family.branches) if name.partition("+")[0] == group]
        if count[inside].sum() < ENOUGH_OF_ONE:
            continue
        usual = [i for i in inside if not family.branches[i].endswith(family.aside)]
        yield tuple(usual), tuple(family.branches[i] for i in usual)
        lines = [i for i in inside if count[i] >= APART]
        if len(lines) > 1 and not family.by_size:
            yield from (((i,), (family.branches[i],)) for i in lines)


def _share(family: Family, probes: Probes, wanted: tuple[int, ...]) -> Probes:
    """Return the probes with only the calls of some branches."""
    rows = np.flatnonzero(np.isin(family.kernel_of(probes.x), wanted))
    return Probes(np.ascontiguousarray(probes.x[rows]), probes.calls[:, rows])


def _as_base(entry: SetEntry, branch: str) -> SetEntry:
    """Return an entry whose parameters are the present ones of a branch, or else of its format."""
    first = entry.kernels.get(branch.partition("+")[0], entry.parameters)
    return entry.model_copy(update={"parameters": entry.kernels.get(branch, first)})


def replace_kernels(entry: SetEntry, of_branch: Mapping[str, dict[str, float]], told: tuple[str, ...] = ()) -> SetEntry:
    """Return an entry with the parameters of some kernels replaced; `told` are the kernels with enough rows."""
    known = tuple(dict.fromkeys((*(entry.told or ()), *told)))
    return entry.model_copy(update={"kernels": {**entry.kernels, **of_branch}, "told": known})


def _limits(
    family: Family, specs: Mapping[str, DeviceSpec], probes: Probes, part: Probes, steps: AskedSteps,
    sets: Mapping[str, str], out: Entries,
) -> dict[str, dict[str, F8]]:  # fmt: skip
    """Return the maximum seconds of some calls in fp8 steps: the bf16 time less the others."""
    if not len(steps.narrow) or not part.calls[steps.narrow].nnz:
        return {}
    limits: dict[str, dict[str, F8]] = {}
    for device, spec in specs.items():
        if not has_unit(spec, "fp8"):
            continue
        for key, entry in out[sets[device]].items():
            values, h = entry.values(family), hardware(spec)
            all_s_all, all_s = probes.times(family, values, h), part.times(family, values, h)
            rest = all_s_all[steps.narrow] - all_s[steps.narrow]
            # Calls in bf16 of both steps are the same ones: what they take is on either side.
            same = all_s[steps.wide]
            limit = all_s_all[steps.wide] - rest
            limits.setdefault(key, {})[device] = np.where(same > 0.0, np.inf, limit)
    return limits


def _judged(first: SetFit, name: str, key: str, entry: SetEntry) -> SetEntry:
    """Return an entry with the errors of all its kernels on its rows."""
    samples = first.samples[name, key]
    seen = first.errors(entry.values(first.family), samples)
    return entry.model_copy(update={"errors": seen})
