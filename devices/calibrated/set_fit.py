"""Fit of the parameters that devices of one silicon share, framework by framework.

Evidence of every set of `kernel_sets`, best first: rows of that framework on the set's devices ("own"); rows of other
frameworks with the same kernel library ("library"); rows of any kernels ("silicon"), with a tenth of their weight,
unless another silicon has rows of the framework's library; none ("transferred"): the mean of other sets' parameters
(`rules.transfer`). Sets of the first two kinds are fitted together under the inequalities of `bounded`, then parts of a
chip with the whole as prior, then the others with the first fixed, so that measured rows have priority. 8-bit rows that
are slower than 16-bit ones are left out: they are untuned kernels, which no inequality could meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..spec import DeviceSpec
from .bounded import STEPS, WEIGHTS, Order, ParameterSet, Probes, Sample, solve
from .calibrate import FamilyRows
from .errors import errors
from .family import F8, Family
from .fit import Fit, fit
from .hardware import C_FP8, C_INT8, hardware
from .kernel_sets import LABELS, TYPICAL, Entries, SetEntry, kindred, parents_of, representative
from .libraries import LIBRARIES, library
from .order import at_least_as_good, has_unit
from .rules import ALONE, LINKS, Donor, transfer
from .set_rows import FEWEST, SetEvidence, evidence_by, evidence_of_all, formats
from .terms import COLD

ENOUGH = 50
"""Minimum rows for a set's parameters; with fewer, another set's parameters are the prior."""
PULL = {True: 1.0, False: 4.0}
"""Weight of the centre: for sets with at least `ENOUGH` rows, and for sets with fewer."""
STILL = 30.0
"""Weight of the centre for sets without rows."""
ENOUGH_OF_ONE = 25
"""Minimum rows for one kernel, whose prior is the set's parameters for all kernels."""
POINTS = 1500
"""Number of calls to which the mean of the frameworks is fitted."""
CALLS = 300
"""Number of measured calls in which no device may be slower than a lesser one of its silicon by more than `KIN_SLACK`."""
KIN_SLACK = 0.05
"""Share of a call: what the rows of one product and another differ by, as its kernels start."""


@dataclass(frozen=True, slots=True)
class AskedSteps:
    """Steps of models for which the inequalities are required.

    Attributes
    ----------
    whole_numbers, linked : bool arrays
        Steps in 8-bit integers, and steps on several devices.
    narrow, wide : integer arrays
        Steps in fp8 and the same ones in bf16.
    """

    whole_numbers: npt.NDArray[np.bool_]
    linked: npt.NDArray[np.bool_]
    narrow: npt.NDArray[np.int64]
    wide: npt.NDArray[np.int64]


class SetFit:
    """Fit of all sets of one family.

    Parameters
    ----------
    specs : mapping of str to DeviceSpec
        Devices that the inequalities are asked of.
    measured : mapping of str to FamilyRows
        Rows of the family, by device.
    step_s : mapping of str to float64 array
        Device -> seconds of each whole step, which an excess is a share of.
    base : mapping of str to mapping of str to SetEntry
        Set -> framework -> the prior of a kernel's separate parameters, if rows, probes and the result are for one
        kernel of the family.
    limits : mapping of str to mapping of str to float64 array
        Framework -> device -> seconds that such a kernel may take in steps in fp8.
    """

    enough = ENOUGH
    effort: tuple[Sequence[float], int] = (WEIGHTS, STEPS)

    def __init__(
        self, family: Family, specs: Mapping[str, DeviceSpec], measured: Mapping[str, FamilyRows],
        probes: Probes, steps: AskedSteps, step_s: Mapping[str, F8], base: Entries | None = None,
        limits: Mapping[str, Mapping[str, F8]] | None = None,
    ) -> None:  # fmt: skip
        self.base, self.limits, self.steps, self.whole = base, limits or {}, steps, step_s
        self.enough = self.enough if base is None else ENOUGH_OF_ONE
        self.family, self.specs, self.measured = family, specs, measured
        self.parents = parents_of(family.name)
        self.h = {name: hardware(spec) for name, spec in specs.items()}
        self.set = {name: self._owner(str(spec.kernels)) for name, spec in specs.items()}
        self.samples: dict[tuple[str, str], Sequence[Sample]] = {}
        self.sets = tuple(dict.fromkeys(self.set.values()))
        self.lead = {name: representative(name) for name in self.sets}
        rows = {n: sum(len(r.measured) for r in self._rows(n)) for n in self.sets}
        timed = frozenset(d for d, set_name in self.set.items() if rows[set_name] >= ENOUGH)
        self.orders = _orders(family, specs, steps, step_s, timed)
        self.probes = self._with_calls(probes)

    def _with_calls(self, probes: Probes) -> Probes:
        """Return the steps, and then single calls with cold data, in which no device may be slower than its kin."""
        from scipy.sparse import block_diag, identity

        x = np.unique(np.concatenate([r.x for r in self.measured.values()]), axis=0)
        x = x[formats(self.family, x) != C_INT8]
        x = np.ascontiguousarray(x[np.random.default_rng(0).permutation(len(x))[:CALLS]])
        if "copies" in self.family.quantities:
            x[:, self.family.quantities.index("copies")] = COLD
        at = probes.calls.shape[0] + np.arange(len(x))
        for one, other in kindred(self.specs, linked=self.family.name in LINKS):
            step_s = self.family.seconds(self.family.defaults, self.h[other], x)
            self.orders.append(Order(one, at, other, at, step_s, slack=KIN_SLACK))
        calls = block_diag([probes.calls, identity(len(x))], format="csr")
        return Probes(np.ascontiguousarray(np.concatenate([probes.x, x])), calls)

    def _owner(self, name: str) -> str:
        """Return the set itself if its devices have rows of the family, else its nearest parent."""
        if self.base is not None:
            return name if name in self.base else self._owner(self.parents[name])
        timed = any(
            len(self.measured[d].measured) >= FEWEST
            for d, spec in self.specs.items()
            if spec.kernels == name and d in self.measured
        )
        parent = self.parents.get(name)
        return name if timed or parent is None else self._owner(parent)

    def run(self) -> Entries:
        """Return the entries of every set and framework."""
        out: Entries = {name: {} for name in self.sets}
        if not self.family.framework_time or self.family.name == "norm":
            self._enter(out, TYPICAL, *self._framework(None))
            return out
        entries = {}
        for name, label in LABELS.items():
            entries[name], evidence = self._framework(label)
            self._enter(out, name, entries[name], evidence)
        rows = self._every()
        share = self._shares(entries)
        self._enter(out, TYPICAL, self._combined(entries, share), rows)
        return out

    def _shares(self, frameworks: Iterable[str]) -> F8:
        """Return each framework's share of the family's rows on all devices, for the typical framework."""
        labels = np.concatenate([rows.labels for rows in self.measured.values()])
        count = np.array([np.count_nonzero(labels == LABELS[name]) for name in frameworks])
        if not count.any():
            return np.full(len(count), 1.0 / len(count))
        share: F8 = count / count.sum()
        return share

    def _enter(
        self, out: Entries, framework: str, values: Mapping[str, F8], evidence: Mapping[str, SetEvidence]
    ) -> None:
        names = [p.name for p in self.family.parameters]
        for key in self.sets:
            parameters = dict(zip(names, values[key].tolist(), strict=True))
            seen = self.errors(values[key], evidence[key].samples)
            self.samples[key, framework] = evidence[key].samples
            out[key][framework] = SetEntry(
                basis=evidence[key].basis, rows=evidence[key].rows, errors=seen, parameters=parameters,
                sources=tuple(sorted(evidence[key].sources)),
            )  # fmt: skip

    def errors(self, values: F8, samples: Sequence[Sample]) -> tuple[float, float, float] | None:
        if not samples:
            return None
        predicted = [self.family.seconds(values, s.h, s.x) for s in samples]
        e = errors(np.concatenate(predicted), np.exp(np.concatenate([s.log for s in samples])))
        return e.median_ape, e.p90_ape, e.median_bias

    def _framework(self, label: str | None) -> tuple[dict[str, F8], dict[str, SetEvidence]]:
        """Return the parameters of every set for one framework's kernels; for all kernels without a label."""
        evidence = {name: self._evidence(name, label) for name in self.sets}
        firm = [n for n in self.sets if evidence[n].rows >= self.enough
                and (label is None or evidence[n].basis in ("own", "library"))]  # fmt: skip
        key = next((name for name, known in LABELS.items() if known == label), TYPICAL)
        start = {name: self._start(name, key) for name in self.sets}
        alone = {name: self._alone(evidence[name], start[name]) for name in firm}
        for name in firm:
            if not self._plausible(name, alone[name]):
                evidence[name] = self._evidence(name, label, without=C_FP8)
                alone[name] = self._alone(evidence[name], start[name])
        elder = {name: self._elder(name, evidence, firm) for name in self.sets}
        sets: dict[str, ParameterSet] = {}
        values: dict[str, F8] = {}
        center: dict[str, F8] = {}
        for names in ([n for n in firm if not elder[n]], [n for n in firm if elder[n]]):
            for name in names:
                center[name] = self._inherited(name, elder[name], center, start)
                sets[name] = ParameterSet(center[name], PULL[True], evidence[name].samples, alone[name])
            values = self._solve(sets, values, key)
            center |= {name: np.log(fitted) for name, fitted in values.items()}
        rest = [n for n in self.sets if n not in firm]
        while rest:
            name = next(n for n in rest if not elder[n] or elder[n] in center)
            rest.remove(name)
            measured = self.base is not None and self.base[name][key].basis != "transferred"
            source = elder[name]
            center[name] = self._inherited(name, source, center, start)
            others = [other for other in firm if other not in ALONE]
            kin = [other for other in others if self._kin(name, other, label)]
            if not source and others and not measured:
                center[name] = self._borrowed(name, {n: evidence[n].rows for n in kin or others}, center)
            if evidence[name].basis == "silicon" and (
                self._kin(name, source, label) if source else kin and not measured
            ):
                evidence[name] = SetEvidence("transferred", ())
            if evidence[name].samples and not self._plausible(name, center[name]):
                evidence[name] = self._evidence(name, label, without=C_FP8)
            pull = PULL[False] if evidence[name].samples else STILL
            sets[name] = ParameterSet(center[name], pull, evidence[name].samples)
        return self._solve(sets, values, key), evidence

    def _elder(self, name: str, evidence: Mapping[str, SetEvidence], firm: Sequence[str]) -> str:
        """Return the prior set of the same silicon: its parent, or a child with rows if the parent has few."""
        parent = self.parents.get(name, "")
        few, rows = name not in firm, evidence[name].rows
        if parent in evidence and (parent in firm or (few and evidence[parent].rows >= rows)):
            return parent
        children = [n for n in self.sets if self.parents.get(n) == name and evidence[n].rows > rows]
        return max(children, key=lambda n: evidence[n].rows) if few and children else ""

    def _inherited(self, name: str, elder: str, center: Mapping[str, F8], start: Mapping[str, F8]) -> F8:
        """Return the logarithms of the elder's parameters, shifted like the set's others from the elder's."""
        return center[elder] + start[name] - start[elder] if elder else start[name]

    def _start(self, name: str, key: str) -> F8:
        """Return the logarithms of a set's prior: the family's defaults, or its own for all kernels."""
        if self.base is None:
            return np.log(self.family.defaults)
        return np.log(self.family.vector(self.base[name][key].parameters))

    def _solve(self, sets: Mapping[str, ParameterSet], fixed: Mapping[str, F8], key: str) -> dict[str, F8]:
        if not sets.keys() - fixed.keys():
            return dict(fixed)
        devices = {d: (self.h[d], s) for d, s in self.set.items() if s in sets}
        orders = [o for o in self.orders if o.device in devices and o.than in devices]
        if self.base is not None:
            orders = [o for o in orders if o.device != o.than]
            orders += [
                Order(d, self.steps.narrow, d, self.steps.wide, self.whole[d][self.steps.wide], limit)
                for d, limit in self.limits.get(key, {}).items()
                if d in devices
            ]
        return solve(self.family, devices, sets, self.probes, orders, fixed, *self.effort)

    def _rows(self, name: str) -> list[FamilyRows]:
        return [self.measured[d] for d, used in self.set.items() if used == name and d in self.measured]

    def _every(self) -> dict[str, SetEvidence]:
        return {name: evidence_of_all(self.family, self._rows(name)) for name in self.sets}

    def _evidence(self, name: str, label: str | None, without: int | None = None) -> SetEvidence:
        return evidence_by(self.family, self._rows(name), label, without)

    def _alone(self, evidence: SetEvidence, center: F8) -> F8:
        """Return the logarithms of a fit to only the largest sample: the start of the solution."""
        most = max(evidence.samples, key=lambda sample: len(sample.log))
        labels = np.full(len(most.log), "all", dtype=object)
        fitted = fit(self.family, most.h, most.x, np.exp(most.log), labels, prior=np.exp(center))
        return np.log(fitted.values)

    def _plausible(self, name: str, logs: F8) -> bool:
        """Return whether nine of ten steps in fp8 are not slower than in bf16."""
        for device, used in self.set.items():
            if used != name or not has_unit(self.specs[device], "fp8") or self.base is not None:
                continue
            (order,) = (o for o in self.orders if o.device == o.than == device)
            times = self.probes.times(self.family, np.exp(logs), self.h[device])
            wide = times[order.others]
            some = wide > 0.0
            more = times[order.steps][some] / wide[some]
            return not some.any() or float(np.quantile(more, 0.9)) <= 1.0
        return True

    def _borrowed(self, name: str, rows: Mapping[str, int], center: Mapping[str, F8]) -> F8:
        """Return the logarithms of the mean of other sets' parameters, by the rule of `rules`.

        `rows` are their weights.
        """
        donors = {
            other: Donor(count, Fit(np.exp(center[other]), {}), hardware(self.lead[other]))
            for other, count in rows.items()
        }
        return np.log(transfer(hardware(self.lead[name]), self.family, donors).fit.values)

    def _kin(self, name: str, other: str, label: str | None) -> bool:
        """Return whether a framework calls the same named library on the devices of two sets."""
        if label is None or label not in LIBRARIES.get(self.family.name, {}):
            return False
        one, two = (hardware(representative(n)).capability for n in (name, other))
        if not one or not two:
            return False
        here = library(self.family.name, label, one)
        return here == library(self.family.name, label, two)

    def _combined(self, by_framework: Mapping[str, Mapping[str, F8]], share: F8) -> dict[str, F8]:
        """Return parameters of all frameworks, fitted to the mean of their predictions."""
        rng = np.random.default_rng(0)
        x = self.probes.x
        if len(x) > POINTS:
            x = np.ascontiguousarray(x[np.sort(rng.choice(len(x), POINTS, replace=False))])
        sets = {}
        for name in self.sets:
            center = np.mean([np.log(values[name]) for values in by_framework.values()], axis=0)
            samples = []
            for h in self._extremes(name):
                logs = [np.log(self.family.seconds(by_framework[f][name], h, x)) for f in by_framework]
                samples.append(Sample(h, x, share @ np.array(logs), 1.0))
            sets[name] = ParameterSet(center, PULL[True], samples)
        return self._solve(sets, {}, TYPICAL)

    def _extremes(self, name: str) -> list[F8]:
        """Return the constants of a set's devices with the least and the most bandwidth."""
        ordered = sorted((self.h[d] for d, s in self.set.items() if s == name), key=lambda h: h.bandwidth)
        return ordered[:1] if ordered[0].bandwidth == ordered[-1].bandwidth else [ordered[0], ordered[-1]]


def _orders(
    family: Family, specs: Mapping[str, DeviceSpec], steps: AskedSteps, step_s: Mapping[str, F8], timed: frozenset[str]
) -> list[Order]:
    """Return the inequalities between devices; links that were `timed` only in steps that bandwidth decides."""
    links = family.name in LINKS
    every = np.arange(len(steps.linked))
    fewer = np.flatnonzero(steps.linked if links else ~steps.whole_numbers)
    out = []
    for one, spec in specs.items():
        for other, than in specs.items():
            if one == other or not at_least_as_good(spec, than, linked=links):
                continue
            if family.name == "collectives" and than.kernels in ALONE:  # rows of another library
                continue
            known = {one, other} <= timed
            all_ = not known if links else at_least_as_good(spec, than, whole_numbers=True)
            asked = every if all_ else fewer
            out.append(Order(one, asked, other, asked, step_s[other][asked]))
        if has_unit(spec, "fp8"):
            out.append(Order(one, steps.narrow, one, steps.wide, step_s[one][steps.wide]))
    return out
