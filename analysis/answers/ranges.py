"""Ops outside the range of their cost models, and the share of a run's ops outside the kernel tables in use.

An op is out of range if one of its sizes exceeds all measured rows of its number format, if no row is within about a
factor of 8 in every size (`devices.calibrated.behind`), or if the kernel tables in use do not contain it. Models
without measurements have no range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...devices.cost import Evidence
from ...simulator.deploy.deployment import Deployment
from ...simulator.parts.experts_apart.holders import runs_on
from ...simulator.step.explicit import StageCost
from ...simulator.step.sections import placed_ops
from ...workloads.batch import Batch
from ...workloads.errors import InputError
from ...workloads.ops import Op, about
from ..show.text import Blocks, Records, Rows

if TYPE_CHECKING:
    from ...simulator.results.record import Run


def coverage(run: Run) -> Records:
    """Return for each kernel family how often its ops ran, and how often outside the tables.

    An op is outside if no table has its shape, or if its counts exceed the measured ones. The device's cost model then
    predicts its time, scaled to equal the table at the table's edge.

    Returns
    -------
    list of dict
        ``family``, ``runs`` (executions of its ops), ``outside`` (those outside the tables) and ``share`` (outside / runs);
        empty if no kernel tables are in use.
    """
    if not run.deployment.kernels:
        return []
    runs: dict[str, float] = {}
    outside: dict[str, float] = {}
    for op in run.ops:
        family = about(op.kind).table
        runs[family] = runs.get(family, 0.0) + op.runs
        outside[family] = outside.get(family, 0.0) + op.outside
    return [
        {
            "family": name, "runs": round(runs[name]), "outside": round(outside[name]),
            "share": outside[name] / runs[name],
        }
        for name in sorted(runs)
    ]  # fmt: skip


def coverage_blocks(covered: Rows) -> Blocks:
    """Return the rows of `coverage` as a sentence and a table; nothing if there are none."""
    if not covered:
        return []
    rows = [
        {
            "family": row["family"], "ops run": f"{row['runs']:,}",
            "outside the tables": f"{row['outside']:,}", "share": f"{row['share']:.2%}",
        }
        for row in covered
    ]  # fmt: skip
    return ["Outside the kernel tables the device's model says the time:", rows]


SHOWN = 3
"""Maximum number of ops that a sentence names."""
UNMEASURED = 0.5
"""Share of the time out of the range of measurements beyond which a system counts as not measured."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Op that is out of its cost model's range.

    Attributes
    ----------
    kernels : str
        Kernel family and number format of the cost model.
    calls : float
        Number of executions out of range.
    share : float
        Share of the total time that these executions take.
    beyond : str
        The size that is out of range, and the measured range.
    low, high : float or None
        80 % interval of measured over predicted time for these executions.
    """

    op: str
    processor: str
    kernels: str
    calls: float
    share: float
    beyond: str
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """Return a description."""
        trust = ""
        if self.low is not None and self.high is not None:
            trust = f"; in 8 of 10 it takes {self.low:.2f} to {self.high:.2f} times as long"
        return f"{self.op} ({self.kernels}, {self.beyond}{trust})"

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Ranges:
    """The part of a result that is out of range.

    Attributes
    ----------
    calls : float
        Number of executions of all ops.
    outside : tuple of Outside
        Ops out of range, the one with the longest time first.
    """

    system: str
    calls: float
    outside: tuple[Outside, ...]

    @property
    def share(self) -> float:
        """Return the share of time that ops out of range take."""
        return sum(entry.share for entry in self.outside)

    def to_dict(self) -> dict[str, Any]:
        return {
            "calls": self.calls, "outside_calls": sum(entry.calls for entry in self.outside),
            "outside_share": self.share, "ops": [entry.to_dict() for entry in self.outside],
        }  # fmt: skip

    def text(self) -> list[str]:
        """Return one sentence on the ops out of range; empty if all ops are in range."""
        if not self.outside:
            return []
        part = sum(entry.calls for entry in self.outside) / max(self.calls, 1.0)
        words = "; ".join(entry.text for entry in self.outside[:SHOWN])
        rest = len(self.outside) - SHOWN
        more = f"; and {rest} more" if rest > 0 else ""
        text = f"OUT OF RANGE on {self.system}: {part:.1%} of the calls, {self.share:.1%} of the time"
        return [f"{text}: {words}{more}."]

    def refuse(self, strict: bool) -> None:
        """Refuse a result that is partly out of range, if `strict`.

        Raises
        ------
        InputError
            Names the op and the range.
        """
        if strict and self.outside:
            first = self.outside[0]
            raise InputError(
                "--strict", f"{first.op} on {first.processor} of {self.system} is out of the range "
                f"of {first.kernels}: {first.beyond}",
            )  # fmt: skip


def is_measured(ranges: Ranges | None) -> bool:
    """Return whether most of a result's time is in the range of measurements, or of models without any."""
    return ranges is None or ranges.share <= UNMEASURED


Key = tuple[str, str]
"""Name of an op, and the processor or link that runs it."""


def ranges_of_stage(deployment: Deployment, stage: StageCost) -> Ranges:
    """Return the part of one step that is out of range."""
    entries: dict[Key, Evidence | None] = {}
    calls: dict[Key, float] = {}
    took: dict[Key, float] = {}
    tables: dict[Key, float] = {}
    for placed in stage.ops:
        key = placed.op.name, placed.processor
        if key not in entries:
            entries[key] = _left(deployment, placed.op, placed.processor)
        calls[key] = calls.get(key, 0.0) + placed.count * placed.devices
        processor = runs_on(deployment, placed.op).device.processors.get(placed.processor)
        covers = getattr(processor and processor.model, "covers", None)
        if not entries[key] and covers is not None and not covers(placed.op):  # like a row `NOT_THERE`
            tables[key] = calls[key]
        if placed.critical:
            seconds = placed.cost.seconds * placed.count * placed.exposed
            took[key] = took.get(key, 0.0) + seconds
    return _ranges(deployment.system.name, {k: e for k, e in entries.items() if e}, calls, took, tables)


def ranges_of_run(run: Run, batches: Iterable[Batch]) -> Ranges:
    """Return the part of a run that is out of range: ops of typical steps, weighted by their counts.

    Parameters
    ----------
    batches : iterable of Batch
        Typical steps of a rank.
    """
    d = run.deployment
    entries: dict[Key, Evidence] = {}
    for side in d.pools or (d,):
        for batch in batches:
            for op, where in placed_ops(side, batch):
                left = None if (op.name, where) in entries else _left(side, op, where)
                if left is not None:
                    entries[op.name, where] = left
    calls: dict[Key, float] = {}
    took: dict[Key, float] = {}
    tables: dict[Key, float] = {}
    for total in run.ops:
        key = total.name, total.processor
        calls[key] = calls.get(key, 0.0) + total.runs
        took[key] = took.get(key, 0.0) + total.wall_s
        if total.outside and key not in entries:
            tables[key] = tables.get(key, 0.0) + total.outside
    return _ranges(d.system.name, entries, calls, took, tables)


def _left(deployment: Deployment, op: Op, where: str) -> Evidence | None:
    """Return the evidence of an op's time, if the op is out of its model's range."""
    inside = runs_on(deployment, op).device.processors.get(where)
    model = deployment.link(op) if inside is None else inside.model
    evidence: Sequence[Evidence] = model.evidence([op])
    return next((e for e in evidence if e.beyond), None)


def _ranges(
    system: str, entries: Mapping[Key, Evidence], calls: Mapping[Key, float],
    took: Mapping[Key, float], tables: Mapping[Key, float],
) -> Ranges:  # fmt: skip
    """Return the ops out of range, those with the largest share of the time first."""
    total = sum(took.values()) or 1.0
    out = [
        Outside(
            name, where, e.applies_to + (f" in {e.format}" if e.format else ""),
            calls[name, where], took.get((name, where), 0.0) / total, e.beyond,
            None if e.ratios is None else float(np.exp(e.ratios.low)),
            None if e.ratios is None else float(np.exp(e.ratios.high)),
        )
        for (name, where), e in entries.items()
        if calls.get((name, where))
    ]  # fmt: skip
    out += [
        Outside(
            name, where, "kernel tables", count,
            took[name, where] / total * count / calls[name, where],
            f"{count:,.0f} of {calls[name, where]:,.0f} calls are beyond the tables", None, None,
        )
        for (name, where), count in tables.items()
    ]  # fmt: skip
    ordered = sorted(out, key=lambda entry: (-entry.share, entry.op, entry.processor))
    return Ranges(system, sum(calls.values()), tuple(ordered))
