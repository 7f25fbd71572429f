"""Sections of simulations: values, time and energy, and every constant used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from ...devices.cost import PATHS
from ...simulator.deploy.placement import processors_of
from ...simulator.results.record import OpTotal, Run
from ...workloads.textfile import digest_of
from ..answers.autoscale import replicas_drawn
from ..answers.demo import Comparison
from ..answers.evidence import evidence_rows, used_sources
from ..answers.inspect import inspect
from ..answers.part_answers import blocks_of
from ..answers.roofs import formats, formats_of_ops, roof_name, roof_rows, roofs
from ..answers.run_steps import Steps
from ..answers.seeds import Seeds
from ..answers.simulate import Simulation, op_row
from ..answers.step_timeline import frame_of, middle_of
from ..answers.summary import figure_rows, heading, latency_rows, where_rows, window_text
from ..plots import breakdown, latency, roofline, timeline
from ..show.result import Drawing, ReportSection
from ..show.text import Records, show
from .sections import constants_section, sections

MOST_DRAWN = 3000
"""Maximum ops in a plot of steps."""
SHARES = "Share of time by layer and processor, and dynamic energy by path."
WHERE = (
    "Clock is an op's share of all steps; busy is the share for which a processor of an average "
    "device worked on it; energy is its share of the dynamic energy; bound is what took longest."
)


@sections.register
def run_sections(result: Simulation) -> list[ReportSection]:
    """Return all sections of the report on one simulation."""
    run = result.run
    name = f"{run.deployment.model.name} on {run.deployment.system.name}"
    return [
        ReportSection("Result", [
            heading(run), *result.warnings, figure_rows(run), window_text(run.window),
            *blocks_of(run.parts, late=False), result.sure(), latency_rows(run, result.shown), *blocks_of(run.parts, late=True),
        ]),
        ReportSection("Where time and energy go", [
            Drawing(breakdown(ops_by_share([run]), name), SHARES), WHERE, where_rows(run),
            "By layer and processor:", layer_rows(run),
        ]),
        ReportSection("Roofline", _roofline(run, name)),
        ReportSection("Requests over time", _over_time(result, name)),
        *_steps(result, name), *evidence_sections(result),
    ]  # fmt: skip


@sections.register
def comparison_sections(result: Comparison) -> list[ReportSection]:
    """Return the differences between systems, then the evidence of each."""
    runs = [result_run.run for result_run in result.runs]
    model = runs[0].deployment.model.name
    out = [
        ReportSection("Verdict", [result.verdict(), *result.warnings, result.rows()]),
        ReportSection("Where time and energy go", [Drawing(breakdown(ops_by_share(runs), model), SHARES)]),
    ]
    for result_run in result.runs:
        where = result_run.run.deployment.system.name
        name = f"{model} on {where}"
        out.append(ReportSection(f"{where}: ops", [heading(result_run.run), where_rows(result_run.run)]))
        out.append(ReportSection(f"{where}: roofline", _roofline(result_run.run, name)))
        out.append(ReportSection(f"{where}: requests over time", _over_time(result_run, name)))
        out += evidence_sections(result_run, f"{where}: ")
    return out


@sections.register
def seeds_sections(result: Seeds) -> list[ReportSection]:
    """Return the means over seeds with intervals, then all sections of the first seed."""
    first = result.runs[0]
    mean = ReportSection("Means over seeds", [result.blocks()[0], *result.warnings, result.rows()])
    inner = run_sections(first)
    return [mean, *(ReportSection(f"Seed {first.run.seed}: {s.title}", s.blocks) for s in inner)]


def ops_by_share(runs: Sequence[Run]) -> pd.DataFrame:
    """Return op totals for the breakdown; the time of an op on several processors is split by their busy time.

    Returns
    -------
    DataFrame
        As `plots.breakdown` takes it: each op's wall_s [s] adds up over its rows.
    """
    rows = []
    for run in runs:
        busy: dict[tuple[str, str, str], float] = {}
        for op in run.ops:
            key = (op.layer, op.name, op.kind)
            busy[key] = busy.get(key, 0.0) + op.busy_s
        for op in run.ops:
            total = busy[op.layer, op.name, op.kind]
            wall = op.wall_s * (op.busy_s / total if total else 0.0)
            rows.append({"run": run.deployment.system.name, **op_row(op), "wall_s": wall})
    return pd.DataFrame(rows)


def layer_rows(run: Run) -> Records:
    """Return the shares of time and energy by layer kind and processor, the largest time first."""
    table = ops_by_share([run])
    table["joules"] = table[[f"{path}_joules" for path in PATHS]].sum(axis=1)
    groups = table.groupby(["layer", "processor"], sort=False)[["wall_s", "joules"]].sum()
    clock, joules = (max(float(groups[c].sum()), 1e-30) for c in ("wall_s", "joules"))
    rows = [
        {"layer": layer, "runs on": processor, "of time": wall / clock, "energy": spent / joules}
        for (layer, processor), wall, spent in zip(groups.index, groups["wall_s"], groups["joules"], strict=True)
    ]
    rows.sort(key=lambda row: -row["of time"])
    return [{**row, "of time": f"{row['of time']:.1%}", "energy": f"{row['energy']:.1%}"} for row in rows]


def _roofline(run: Run, name: str) -> list[Any]:
    """Plot every op of the run under the rooflines, at the FLOP/s that it achieved while it ran."""
    processors = list(processors_of(run.deployment.device))
    dtype = run.deployment.model.numerics.default
    known = {p.name for p in processors}
    share = ops_by_share([run])
    known_formats = formats_of_ops(run.deployment)
    matmuls = [op for op in run.ops if op.flops > 0 and op.processor in known and op.op_per_byte]
    used = formats((op.processor, _format(op, known_formats, dtype)) for op in matmuls)
    points = pd.DataFrame(
        [
            {
                "name": op.name, "layer": op.layer,
                "processor": roof_name(op.processor, _format(op, known_formats, dtype), used),
                "op_per_byte": op.op_per_byte, "achieved_flops": op.flops / op.busy_s,
                "seconds_total": wall, "bound": op.bound,
            }
            for op, wall in zip(run.ops, share["wall_s"], strict=True)
            if op.flops > 0 and op.busy_s > 0 and op.processor in known
        ],
        columns=["name", "layer", "processor", "op_per_byte", "achieved_flops", "seconds_total",
                 "bound"],
    )  # fmt: skip
    table = roofs(processors, used, dtype)
    figure = roofline(pd.DataFrame(table), points, name)
    caption = "Every op over the whole run under the roofs of the processors it ran on."
    return [Drawing(figure, caption), roof_rows(table)]


def _format(total: OpTotal, known: Mapping[tuple[str, str], str], default: str) -> str:
    return known.get((total.layer, total.name), default)


def _over_time(result: Simulation, name: str) -> list[Any]:
    run = result.run
    text = "Latency of requests as cumulative shares; output and arrivals over time."
    out: list[Any] = [Drawing(latency(result.requests(), name), text)]
    out += replicas_drawn(run, name)
    if len(run.stages):
        idle = run.deployment.device.board.idle_W
        figure = timeline(result.stages(), run.kv_capacity, name, idle, _engines(run))
        text = "Running and waiting sequences, tokens of steps, KV cache and power over time."
        out.append(Drawing(figure, text))
    return out


def _steps(result: Simulation, name: str) -> list[ReportSection]:
    """Return the section on single steps, if the command asked for them."""
    if result.steps is None:
        return []
    return [ReportSection("Steps", [*step_drawings(result.steps, name), result.steps.records()])]


def step_drawings(seen: Steps, name: str) -> list[Drawing]:
    """Plot the ops of the first steps of a window by processor and link, and the states of the requests."""
    from ..plots.gantt import gantt, lanes

    first, last = seen.steps[0], seen.steps[-1]
    shown = seen.steps[: max(1, MOST_DRAWN * len(seen.steps) // len(seen.bars))]
    bars = [bar for bar in seen.bars if bar.step <= shown[-1].number]
    window = middle_of([bar for bar in bars if bar.step == first.number])
    note = (
        f"Layers in the middle of step {first.number}; the report's plot has steps up to "
        f"{shown[-1].number}, steps.csv and steps.json hold all {len(seen.steps):,}."
    )
    title = f"{name}: steps {first.number} to {last.number}"
    figure = gantt(frame_of(bars), window, title, note, "the first arrival")
    return [
        Drawing(figure, "Which op runs on which processor or link, when; zoom out for whole steps."),
        Drawing(lanes(seen.span_frame(), title), "State of each request at the same time."),
    ]


def _engines(run: Run) -> int:
    """Return the number of engines whose devices make up the system, over all replicas."""
    d = run.deployment
    return max(round(run.devices * d.replicas / d.layout.all_devices), 1)


def evidence_sections(result: Simulation, before: str = "") -> list[ReportSection]:
    """Return the run's inputs, the cost models behind it, and every constant with its source."""
    run = result.run
    d = run.deployment
    what: Records = [
        {"what": "model", "value": d.model.name, "digest": digest_of(asdict(d.model))},
        {"what": "system", "value": d.system.name, "digest": digest_of(d.system.model_dump())},
        {"what": "policy", "value": run.policy.name, "digest": digest_of(repr(run.policy))},
        {"what": "placement", "value": d.placement, "digest": None},
        {"what": "workload", "value": run.workload, "digest": None},
        {"what": "seed", "value": str(run.seed), "digest": None},
    ]
    given = [
        {"option": name.name, "value": show(value), "unit": name.option.unit or None}
        for name, value in result.scenario.given()
        if name.name not in ("model", "system", "seed")
    ]
    models = evidence_rows(result.evidence, d.system.name, result.ranges)
    constants = constants_section(d.system, used_sources(result.sources, d.model.numerics), f"{before}Constants")
    return [
        ReportSection(f"{before}What was run", [what, given, inspect(d.model).rows()]),
        ReportSection(f"{before}Evidence", [models, *result.outside_tables()]),
        constants,
    ]
