"""Fit the parameters that devices of one silicon share, framework by framework.

For each family and framework every set of `kernel_sets` is told by the best rows there are:

1. rows of that framework on the set's devices ("own");
2. rows there of other frameworks that call the same kernel library ("library");
3. rows there of any kernels ("silicon"), for a tenth of their weight, unless another silicon has
   rows of the named library that the framework calls;
4. none ("transferred"): the parameters of the set that `kernel_sets.stand_in` names.

Sets of the first two kinds are fitted together under the inequalities of `bounded`; then the others
under the inequalities among all, with the first held still, so that no row of a framework gives way
to a guess. Rows in 8 bits whose kernels take longer than those in 16 bits, weights half as long,
are left out: kernels that nobody has tuned, which no inequality could meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..spec import DeviceSpec
from .bounded import STEPS, WEIGHTS, Order, ParameterSet, Probes, Sample, solve
from .calibrate import Rows
from .errors import errors
from .family import F8, Family
from .fit import fit
from .hardware import C_FP8, H_CAPABILITY, hardware
from .kernel_sets import LABELS, LINKS, TYPICAL, Entry, parents_of, representative, stand_in
from .libraries import LIBRARIES, library
from .order import at_least_as_good, has_unit

ENOUGH = 50
"""Rows that tell a set's parameters; with fewer they are drawn to another set's."""
SOME = 20
"""Rows of a framework that go before those of others."""
FEWEST = 5
WEIGHT = {"own": 1.0, "library": 0.5, "silicon": 0.1, "transferred": 0.0}
"""Weight of a row by what it tells."""
PULL = {True: 1.0, False: 4.0}
"""Weight of the centre for sets with `ENOUGH` rows, and for others with some."""
STILL = 30.0
"""The same without any row."""
ENOUGH_OF_ONE = 25
"""The same of one kernel, which is drawn to the set's parameters for all kernels."""
MOST = 300
"""Rows of a framework on a device that a fit reads at most, evenly spread over its tables."""
POINTS = 1500
"""Calls at which a mean of frameworks is fitted."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of models that the inequalities are asked of.

    Attributes
    ----------
    whole_numbers, linked : bool arrays
        Steps in 8-bit integers, and those of several devices.
    narrow, wide : integer arrays
        Steps in fp8 and the same ones in bf16.
    """

    whole_numbers: npt.NDArray[np.bool_]
    linked: npt.NDArray[np.bool_]
    narrow: npt.NDArray[np.int64]
    wide: npt.NDArray[np.int64]


Entries = Mapping[str, Mapping[str, Entry]]
"""Set -> framework -> entry."""


@dataclass(frozen=True, slots=True)
class Told:
    """What speaks for one set under one framework."""

    basis: str
    samples: Sequence[Sample]
    sources: frozenset[str] = frozenset()

    @property
    def rows(self) -> int:
        return sum(len(sample.log) for sample in self.samples)


class SetFit:
    """All sets of one family.

    Parameters
    ----------
    family : Family
    specs : mapping of str to DeviceSpec
        Devices that the inequalities are asked of.
    measured : mapping of str to Rows
        Rows of the family, by device.
    probes : Probes
    steps : Steps
    whole : mapping of str to float64 array
        Device -> seconds of each whole step, which an excess is a share of.
    base : mapping of str to mapping of str to Entry
        Set -> framework -> the entry that a kernel's own parameters are drawn to, where rows, probes and
        the answer are of one kernel of the family alone.
    limits : mapping of str to mapping of str to float64 array
        Framework -> device -> seconds that such a kernel may take in steps in fp8.
    """

    enough = ENOUGH
    effort: tuple[Sequence[float], int] = (WEIGHTS, STEPS)

    def __init__(
        self, family: Family, specs: Mapping[str, DeviceSpec], measured: Mapping[str, Rows],
        probes: Probes, steps: Steps, whole: Mapping[str, F8], base: Entries | None = None,
        limits: Mapping[str, Mapping[str, F8]] | None = None,
    ) -> None:  # fmt: skip
        self.base, self.limits, self.steps, self.whole = base, limits or {}, steps, whole
        if base is not None:
            self.enough = ENOUGH_OF_ONE
        self.family, self.specs, self.measured, self.probes = family, specs, measured, probes
        self.parents = parents_of(family.name)
        self.h = {name: hardware(spec) for name, spec in specs.items()}
        self.set = {name: self._owner(str(spec.kernels)) for name, spec in specs.items()}
        self.samples: dict[tuple[str, str], Sequence[Sample]] = {}
        self.sets = tuple(dict.fromkeys(self.set.values()))
        self.lead = {name: representative(name) for name in self.sets}
        self.orders = _orders(family, specs, steps, whole)

    def _owner(self, name: str) -> str:
        """The set itself where its devices have rows of the family, else its parent."""
        if self.base is not None:
            return name if name in self.base else self._owner(self.parents[name])
        timed = any(
            len(self.measured[d].measured) >= FEWEST
            for d, spec in self.specs.items()
            if spec.kernels == name and d in self.measured
        )
        parent = self.parents.get(name)
        return name if timed or parent is None else self._owner(parent)

    def run(self) -> dict[str, dict[str, Entry]]:
        """Entries of every set and framework."""
        out: dict[str, dict[str, Entry]] = {name: {} for name in self.sets}
        if not self.family.framework_time or self.family.name == "norm":
            self._enter(out, TYPICAL, *self._framework(None))
            return out
        found = {}
        for name, label in LABELS.items():
            found[name], told = self._framework(label)
            self._enter(out, name, found[name], told)
        rows = {s: self._all(s) for s in self.sets}
        share = self._shares(found)
        self._enter(out, TYPICAL, self._combined(found, share), rows)
        return out

    def _shares(self, frameworks: Iterable[str]) -> F8:
        """Shares of the frameworks in the typical one: of the family's rows, on any device."""
        labels = np.concatenate([rows.labels for rows in self.measured.values()])
        count = np.array([np.count_nonzero(labels == LABELS[name]) for name in frameworks])
        if not count.any():
            return np.full(len(count), 1.0 / len(count))
        share: F8 = count / count.sum()
        return share

    def _enter(
        self, out: dict[str, dict[str, Entry]], framework: str, values: Mapping[str, F8],
        told: Mapping[str, Told],
    ) -> None:  # fmt: skip
        names = [p.name for p in self.family.parameters]
        for key in self.sets:
            parameters = dict(zip(names, values[key].tolist(), strict=True))
            seen = self.errors(values[key], told[key].samples)
            self.samples[key, framework] = told[key].samples
            out[key][framework] = Entry(
                basis=told[key].basis,
                rows=told[key].rows,
                errors=seen,
                parameters=parameters,
                sources=tuple(sorted(told[key].sources)),
            )

    def errors(self, values: F8, samples: Sequence[Sample]) -> tuple[float, float, float] | None:
        if not samples:
            return None
        predicted = [self.family.seconds(values, s.h, s.x) for s in samples]
        e = errors(np.concatenate(predicted), np.exp(np.concatenate([s.log for s in samples])))
        return e.median_ape, e.p90_ape, e.median_bias

    def _framework(self, label: str | None) -> tuple[dict[str, F8], dict[str, Told]]:
        """Parameters of every set with one framework's kernels; of all kernels without a label."""
        told = {name: self._told(name, label) for name in self.sets}
        firm = [n for n in self.sets if told[n].rows >= self.enough
                and (label is None or told[n].basis in ("own", "library"))]  # fmt: skip
        key = next((name for name, known in LABELS.items() if known == label), TYPICAL)
        start = {name: self._start(name, key) for name in self.sets}
        alone = {name: self._alone(told[name], start[name]) for name in firm}
        for name in firm:
            if not self._plausible(name, alone[name]):
                told[name] = self._told(name, label, without=C_FP8)
                alone[name] = self._alone(told[name], start[name])
        sets = {
            name: ParameterSet(start[name], PULL[True], told[name].samples, alone[name])
            for name in firm
        }
        values = self._solve(sets, {}, key)
        for name in self.sets:
            if name in firm:
                continue
            own = self.base is not None and self.base[name][key].basis != "transferred"
            if own or not firm:
                center = start[name]
            else:
                source = self._source(name, firm, label)
                if told[name].basis == "silicon" and self._kin(name, source, label):
                    told[name] = Told("transferred", ())
                center = np.log(values[source])
            if told[name].samples and not self._plausible(name, center):
                told[name] = self._told(name, label, without=C_FP8)
            pull = PULL[False] if told[name].samples else STILL
            sets[name] = ParameterSet(center, pull, told[name].samples)
        return self._solve(sets, values, key), told

    def _start(self, name: str, key: str) -> F8:
        """Logarithms that a set's parameters are drawn to: the family's defaults, or its own for all kernels."""
        if self.base is None:
            return np.log(self.family.defaults)
        return np.log(self.family.vector(self.base[name][key].parameters))

    def _solve(
        self, sets: Mapping[str, ParameterSet], fixed: Mapping[str, F8], key: str
    ) -> dict[str, F8]:
        if not sets:
            return {}
        devices = {d: (self.h[d], s) for d, s in self.set.items() if s in sets}
        orders = [o for o in self.orders if o.device in devices and o.than in devices]
        if self.base is not None:
            orders = [o for o in orders if o.device != o.than]
            orders += [
                Order(
                    d, self.steps.narrow, d, self.steps.wide, self.whole[d][self.steps.wide], limit
                )
                for d, limit in self.limits.get(key, {}).items()
                if d in devices
            ]
        return solve(self.family, devices, sets, self.probes, orders, fixed, *self.effort)

    def _told(self, name: str, label: str | None, without: int | None = None) -> Told:
        found: dict[str, list[tuple[Sample, set[str]]]] = {basis: [] for basis in WEIGHT}
        for device, used in self.set.items():
            if used != name or device not in self.measured:
                continue
            rows = self.measured[device]
            usual = self.family.usual(rows.x)
            for other in sorted(set(rows.labels.tolist())):
                kept = (rows.labels == other) & usual
                if without is not None:
                    kept &= self._formats(rows.x) != without
                if not kept.any():
                    continue
                at = _spread(np.flatnonzero(kept))
                x, log = np.ascontiguousarray(rows.x[at]), np.log(rows.measured[at])
                basis = self._basis(other, label, rows.h[H_CAPABILITY])
                sample = Sample(rows.h, x, log, WEIGHT[basis] if label else 1.0)
                found[basis].append((sample, set(rows.table["source"][at].tolist())))
        held: list[tuple[Sample, set[str]]] = []
        for basis, least in (("own", SOME), ("library", SOME), ("silicon", FEWEST)):
            held += found[basis]
            told = Told(
                basis, [s for s, _ in held], frozenset().union(*(names for _, names in held))
            )
            if told.rows >= least:
                return told
        return Told("transferred", ())

    def _formats(self, x: F8) -> F8:
        """Format code of each row; -1 where the family has no formats."""
        names = self.family.quantities
        return x[:, names.index("format")] if "format" in names else np.full(len(x), -1.0)

    def _basis(self, other: str, label: str | None, capability: float) -> str:
        if label is None or other == label:
            return "own" if label else "silicon"
        same = library(self.family.name, other, capability) == library(
            self.family.name, label, capability
        )
        return "library" if same else "silicon"

    def _all(self, name: str) -> Told:
        """Rows of the three frameworks on a set's devices, else any."""
        own = [t for label in LABELS.values() if (t := self._told(name, label)).basis == "own"]
        sources = frozenset[str]().union(*(t.sources for t in own))
        return (
            Told("own", [s for t in own for s in t.samples], sources)
            if own
            else self._told(name, None)
        )

    def _alone(self, told: Told, center: F8) -> F8:
        """Logarithms of a fit to the largest sample alone: where the solution starts."""
        most = max(told.samples, key=lambda sample: len(sample.log))
        labels = np.full(len(most.log), "all", dtype=object)
        found = fit(self.family, most.h, most.x, np.exp(most.log), labels, prior=np.exp(center))
        return np.log(found.values)

    def _plausible(self, name: str, logs: F8) -> bool:
        """Whether steps in fp8 are not slower than those in bf16, nine of ten of them."""
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

    def _source(self, name: str, firm: Sequence[str], label: str | None) -> str:
        """The set whose parameters another one is drawn to."""
        parent = self.parents.get(name)
        if parent is not None:
            return parent if parent in firm else self._source(parent, firm, label)
        alike = [other for other in firm if self._kin(name, other, label)] or firm
        lead = self.lead.get(name) or representative(name)
        return stand_in(lead, {other: self.lead[other] for other in alike})

    def _kin(self, name: str, other: str, label: str | None) -> bool:
        """Whether a framework calls the same named library on the devices of two sets."""
        if label is None or label not in LIBRARIES.get(self.family.name, {}):
            return False
        one, two = (hardware(representative(n))[H_CAPABILITY] for n in (name, other))
        if not one or not two:
            return False
        here = library(self.family.name, label, one)
        return here == library(self.family.name, label, two)

    def _combined(self, found: Mapping[str, Mapping[str, F8]], share: F8) -> dict[str, F8]:
        """Parameters that stand for all frameworks, fitted to the mean of their predictions."""
        rng = np.random.default_rng(0)
        x = self.probes.x
        if len(x) > POINTS:
            x = np.ascontiguousarray(x[np.sort(rng.choice(len(x), POINTS, replace=False))])
        sets = {}
        for name in self.sets:
            center = np.mean([np.log(values[name]) for values in found.values()], axis=0)
            samples = []
            for h in self._extremes(name):
                logs = [np.log(self.family.seconds(found[f][name], h, x)) for f in found]
                samples.append(Sample(h, x, share @ np.array(logs), 1.0))
            sets[name] = ParameterSet(center, PULL[True], samples)
        return self._solve(sets, {}, TYPICAL)

    def _extremes(self, name: str) -> list[F8]:
        """Constants of the devices of a set with the least and the most bandwidth."""
        held = sorted((self.h[d] for d, s in self.set.items() if s == name), key=lambda h: h[0])
        return held[:1] if held[0][0] == held[-1][0] else [held[0], held[-1]]


def _spread(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`MOST` of some rows at equal distances, or all."""
    if len(rows) <= MOST:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST).astype(np.int64)]


def _orders(
    family: Family, specs: Mapping[str, DeviceSpec], steps: Steps, whole: Mapping[str, F8]
) -> list[Order]:
    links = family.name in LINKS
    every = np.flatnonzero(steps.linked) if links else np.arange(len(steps.linked))
    fewer = np.flatnonzero(steps.linked if links else ~steps.whole_numbers)
    out = []
    for one, spec in specs.items():
        for other, than in specs.items():
            if one == other or not at_least_as_good(spec, than, linked=links):
                continue
            whole_numbers = at_least_as_good(spec, than, whole_numbers=True)
            asked = every if whole_numbers else fewer
            out.append(Order(one, asked, other, asked, whole[other][asked]))
        if has_unit(spec, "fp8"):
            out.append(Order(one, steps.narrow, one, steps.wide, whole[one][steps.wide]))
    return out
