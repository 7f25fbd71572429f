"""Sections of results with many simulations, of steps, and of kernels against measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...devices.catalog import describe_system
from ..answers.evidence import evidence, used_sources
from ..answers.evidence_table import evidence_rows
from ..answers.roofline import Roofline
from ..answers.simulate import simulate
from ..answers.train import Training
from ..plots import throughput_latency
from ..show.result import Drawing, ReportSection
from ..show.text import Records, Rows
from ..studies.capacity_result import Capacity
from ..studies.plan.result import Plan
from ..studies.sweep.axes import KERNEL
from ..studies.sweep.point import scenario_of, sources_of
from ..studies.sweep.run import Sweep
from ..validate.kernels import KernelValidation
from .sections import constants_section, sections

if TYPE_CHECKING:
    import pandas as pd


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
    feasible = [row for row in result.table if row["feasible"]]
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
        *_drafts_by_load(result, feasible),
        ReportSection("Study", lines),
        ReportSection("Points", [[{name: row[name] for name in order} for row in result.table]]),
        *_evidence(result),
    ]


def _drafts_by_load(result: Sweep, rows: Rows) -> list[ReportSection]:
    """How many drafts pay at which load, where a study varies both."""
    drafts = drafts_by_load(result.study.columns, rows)
    if drafts is None:
        return []
    load, curves, best = drafts
    figure = throughput_latency(curves, LATENCIES_OF_DRAFTS, result.study.title, load=load)
    caption = "Latency against load, one curve a number of drafts: drafts pay where theirs is lowest."
    return [ReportSection("Drafts by load", [best, Drawing(figure, caption)])]


NO_DRAFTS = "no drafts"
LATENCIES_OF_DRAFTS = ("tpot_s_mean", "e2e_s_mean")
"""Latencies that are compared; the first tells the best."""


def drafts_by_load(columns: Sequence[str], rows: Rows) -> tuple[str, pd.DataFrame, Records] | None:
    """Compare drafts at every load of a sweep; None where it does not vary both, and nothing else.

    Parameters
    ----------
    columns : sequence of str
        What the sweep varies; `acceptance` goes along with the drafts.
    rows : sequence of mapping
        Points that worked.

    Returns
    -------
    load : str
        Column of the load.
    curves : DataFrame
        Columns run (the drafts), the load and the latencies.
    best : list of dict
        One row per load: its best drafts, with their latencies and these over the run without drafts.
    """
    import pandas as pd

    load = next((name for name in ("rate", "closed_loop", "rate_scale") if name in columns), None)
    if load is None or {"speculative"} != {*columns} - {"acceptance", load}:
        return None
    latencies = [*LATENCIES_OF_DRAFTS]
    curves = pd.DataFrame(list(rows), columns=["speculative", load, *latencies]).dropna(subset=[load, *latencies])
    if curves.empty:
        return None
    curves = curves.rename(columns={"speculative": "run"})
    curves["run"] = curves["run"].fillna("").astype(str).replace({r"^$|^.*:0$": NO_DRAFTS}, regex=True)
    best = curves.loc[curves.groupby(load)[latencies[0]].idxmin()].rename(columns={"run": "best"})
    plain = curves[curves["run"] == NO_DRAFTS].set_index(load)[latencies].reindex(best[load])
    over = best[latencies].to_numpy() / plain.to_numpy()
    for name, quotient in zip(latencies, over.T, strict=True):
        best[f"{name} over {NO_DRAFTS}"] = quotient
    order = [load, "best", *(column for name in latencies for column in (name, f"{name} over {NO_DRAFTS}"))]
    return load, curves, [{str(k): v for k, v in row.items() if pd.notna(v)} for row in best[order].to_dict("records")]


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
