"""Sections of results with many simulations, of steps, and of kernels against measurements."""

from __future__ import annotations

from typing import Any

from ...devices.catalog import describe_system
from ..answers.evidence import evidence, evidence_rows, used_sources
from ..answers.roofline import Roofline
from ..answers.simulate import simulate
from ..answers.train import Training
from ..show.result import ReportSection
from ..studies.capacity_result import Capacity
from ..studies.plan.result import Plan
from ..studies.sweep.axes import KERNEL
from ..studies.sweep.point import scenario_of, sources_of
from ..studies.sweep.run import Sweep
from ..validate.kernels import KernelValidation
from .sections import constants_section, sections


@sections.register
def capacity_sections(result: Capacity) -> list[ReportSection]:
    """Return the result, latency against load, the front, every simulated load, and the evidence."""
    loads, front = result.drawings()
    out = [
        ReportSection("Result", result.blocks()),
        ReportSection("Throughput against pace", [front]),
        ReportSection("Latency against load", [loads, result.curve()]),
    ]
    rests = [row for f in result.found for row in evidence_rows(f.evidence, f.system, f.ranges)]
    out.append(ReportSection("Evidence", [rests]))
    for system_capacity in result.found:
        out.append(
            constants_section(system_capacity.spec, system_capacity.sources, f"{system_capacity.system}: constants")
        )
    return out


@sections.register
def plan_sections(result: Plan) -> list[ReportSection]:
    """Return the result, the cost of candidates, and every candidate with its verdict."""
    drawn = [ReportSection("Candidates that serve", result.drawings())] if result.drawings() else []
    rests = [row for s in result.searched if (p := s.chosen) for row in evidence_rows(p.evidence, p.system, p.ranges)]
    kinds = {t.system.device.name: t for s in result.searched for t in s.tried}
    constants = [
        constants_section(t.system, describe_system(t.candidate.system)[1], f"{name}: constants")
        for name, t in kinds.items()
    ]
    return [
        ReportSection("Result", result.blocks()), *drawn, ReportSection("Candidates", [result.records()]),
        ReportSection("Evidence", [rests]), *constants,
    ]  # fmt: skip


@sections.register
def roofline_sections(result: Roofline) -> list[ReportSection]:
    """Return the ops, their plot under the roofs, and the evidence of their costs."""
    d = result.deployment
    rests = evidence_rows(evidence(d, result.sources), d.system.name)
    return [
        ReportSection("Roofline", [*result.warnings, *result.drawings()]),
        ReportSection("Ops", result.blocks()),
        ReportSection("Evidence", [rests]),
        constants_section(d.system, result.sources, "Constants"),
    ]


@sections.register
def training_sections(result: Training) -> list[ReportSection]:
    """Return the step, its time by part, and the evidence of its costs."""
    d = result.deployment
    return [
        ReportSection("Result", [*result.drawings(), *result.blocks()]),
        ReportSection("Evidence", [evidence_rows(result.basis, d.system.name)]),
        constants_section(d.system, used_sources(result.sources, d.model.numerics), "Constants"),
    ]


@sections.register
def sweep_sections(result: Sweep) -> list[ReportSection]:
    """Return the result, the trade-off, the study, every point, and the evidence."""
    study = result.study
    axes = [
        {"axis": column, "sets": parameter, "values": "drawn at random" if axis.random else len(axis.values)}
        for axis in study.axes
        for column, parameter in zip(axis.columns, axis.parameters, strict=True)
    ]
    base = [{"base": name, "value": str(value)} for name, value in study.base.items()]
    lines: list[Any] = [axes, base]
    order = dict.fromkeys((*study.columns, *study.objectives, "feasible", *result.table[0]))
    if study.constraints:
        lines.append("Constraints: " + "; ".join(c.text for c in study.constraints) + ".")
    if study.samples > 1:
        lines.append(f"{study.samples:,} samples of the random axes from seed {study.seed}.")
    drawn = result.drawings()
    return [
        ReportSection("Result", result.blocks()),
        *([ReportSection("Trade-off", drawn)] if drawn else []),
        ReportSection("Study", lines),
        ReportSection("Points", [[{name: row[name] for name in order} for row in result.table]]),
        *_evidence(result),
    ]


def _evidence(result: Sweep) -> list[ReportSection]:
    """Return the evidence of the first successful point; the others differ only in the axes."""
    keys = {row["point"] for row in result.table if row["error"] is None}
    first = next((p for key, p in result.points.items() if key in keys), None)
    if first is None or KERNEL in first.settings:
        return []
    made = simulate(scenario_of(first.settings), requests=1, warmup=None)  # needs no long run
    deployment, sources = made.run.deployment, sources_of(first.settings)
    models = made.evidence if deployment.pools or "experts-apart" in made.run.parts else evidence(deployment, sources)
    columns = ", ".join(f"{name} {value}" for name, value in first.columns.items())
    rests = evidence_rows(models, deployment.system.name, made.ranges)
    return [
        ReportSection("Evidence", [f"Of the point with {columns}.", rests]),
        constants_section(deployment.system, sources, "Constants"),
    ]


@sections.register
def kernel_sections(result: KernelValidation) -> list[ReportSection]:
    """Return the errors, a plot for each family, and skipped rows."""
    out = [ReportSection("Result", result.blocks()), ReportSection("By family", result.drawings())]
    if result.skipped:
        out.append(ReportSection("Rows and files left out", [result.to_dict()["skipped"]]))
    return out
