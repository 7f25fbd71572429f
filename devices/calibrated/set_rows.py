"""Evidence of a set's parameters: rows of a framework, of its library, or of any kernels (`set_fit`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .bounded import Sample
from .calibrate import FamilyRows
from .family import F8, Family
from .kernel_sets import LABELS
from .libraries import AITER, UNSERVED, library

SOME = 20
"""Minimum rows of a framework to have priority over others."""
FEWEST = 5
WEIGHT = {"own": 1.0, "library": 0.5, "silicon": 0.1, "transferred": 0.0}
"""Weight of a row by its basis (see `set_fit`)."""
MOST = 300
"""Maximum rows of a framework on a device in a fit, evenly spread over its tables."""


@dataclass(frozen=True, slots=True)
class SetEvidence:
    """Rows behind one set's parameters for one framework, and their basis."""

    basis: str
    samples: Sequence[Sample]
    sources: frozenset[str] = frozenset()

    @property
    def rows(self) -> int:
        return sum(len(sample.log) for sample in self.samples)


def evidence_by(family: Family, devices: Sequence[FamilyRows], label: str | None, without: int | None) -> SetEvidence:
    """Return the rows of a set's devices for a framework's kernels, without one format."""
    samples: dict[str, list[tuple[Sample, set[str]]]] = {basis: [] for basis in WEIGHT}
    for rows in devices:
        usual = family.usual(rows.x)
        for other in sorted(set(rows.labels.tolist())):
            usable = (rows.labels == other) & usual & ~unserved(rows)
            if without is not None:
                usable &= formats(family, rows.x) != without
            if not usable.any():
                continue
            at = _spread(np.flatnonzero(usable))
            x, log = np.ascontiguousarray(rows.x[at]), np.log(rows.measured[at])
            basis = _basis(family, other, label, rows.h.capability)
            sample = Sample(rows.h, x, log, WEIGHT[basis] if label else 1.0)
            samples[basis].append((sample, set(rows.table["source"][at].tolist())))
    gathered: list[tuple[Sample, set[str]]] = []
    for basis, least in (("own", SOME), ("library", SOME), ("silicon", FEWEST)):
        gathered += samples[basis]
        sources = frozenset[str]().union(*(names for _, names in gathered))
        seen = SetEvidence(basis, [sample for sample, _ in gathered], sources)
        if seen.rows >= least:
            return seen
    return SetEvidence("transferred", ())


def unserved(rows: FamilyRows) -> npt.NDArray[np.bool_]:
    """Return which rows are of calls that frameworks do not serve; see `libraries.UNSERVED`."""
    if rows.family.name != "mla":
        return np.zeros(len(rows.x), dtype=np.bool_)
    kernels = {n: UNSERVED.get(library("mla", n, rows.h.capability), ()) for n in set(rows.labels.tolist())}
    pairs = zip(rows.labels.tolist(), rows.family.kernel_of(rows.x).tolist(), strict=True)
    return np.array([rows.family.branches[branch] in kernels[label] for label, branch in pairs], dtype=np.bool_)


def some_of(rows: FamilyRows, mask: npt.NDArray[np.bool_]) -> FamilyRows:
    """Return a selection of a family's rows."""
    return replace(rows, table=rows.table.take(mask), x=np.ascontiguousarray(rows.x[mask]),
                   measured=rows.measured[mask], labels=rows.labels[mask])  # fmt: skip


def evidence_of_all(family: Family, devices: Sequence[FamilyRows]) -> SetEvidence:
    """Return the rows of the three frameworks on a set's devices; any rows if there are none."""
    candidates = (evidence_by(family, devices, label, None) for label in LABELS.values())
    measured = [one for one in candidates if one.basis == "own"]
    if not measured:
        return evidence_by(family, devices, None, None)
    sources = frozenset[str]().union(*(one.sources for one in measured))
    return SetEvidence("own", [sample for one in measured for sample in one.samples], sources)


def formats(family: Family, inputs: F8) -> F8:
    """Return the format code of each row; -1 if the family has no formats."""
    names = family.quantities
    return inputs[:, names.index("format")] if "format" in names else np.full(len(inputs), -1.0)


def _basis(family: Family, other: str, label: str | None, capability: float) -> str:
    if label is None or other == label:
        return "own" if label else "silicon"
    theirs, ours = (library(family.name, name, capability) for name in (other, label))
    called = theirs == ours or (family.name == "gemm" and other == AITER and label != LABELS["trtllm"])
    return "library" if called else "silicon"


def _spread(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return `MOST` of the rows at equal distances, or all if there are fewer."""
    if len(rows) <= MOST:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST).astype(np.int64)]
