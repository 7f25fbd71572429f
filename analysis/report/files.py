"""Output folders of results: the report and, for simulations, separate folders with a report for each run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...simulator.parts.experts_apart.holders import devices_apart
from ...simulator.parts.two_pools.run import pools_of
from ...simulator.results.record import Run
from ...workloads.requests.block import ColumnArrays
from ..answers.autoscale import replica_frame, replicas_drawn, scaled
from ..answers.demo import Comparison
from ..answers.run_steps import Steps
from ..answers.seeds import Seeds
from ..answers.simulate import Simulation
from ..answers.step_timeline import frame_of
from ..show.output import OutputFolder
from ..show.result import Result
from ..show.timeline import EngineProcess, Sent, write_bars, write_timeline
from ..studies.sweep.run import Sweep
from . import report, scripts


def write_files(result: Result, folder: OutputFolder) -> None:
    """Write the files of a result; several runs go to separate folders."""
    runs: dict[str, Simulation] = {}
    if isinstance(result, Simulation):
        runs = {"": result}
    elif isinstance(result, Seeds):
        runs = {f"seed-{run.run.seed}/": run for run in result.runs}
    elif isinstance(result, Comparison):
        runs = {f"{run.run.deployment.system.name}/": run for run in result.runs}
    for below, run in runs.items():
        _write_run(run, folder, below)
    if not isinstance(result, Simulation):
        result.write(folder)


def write_sweep(result: Sweep, folder: OutputFolder) -> None:
    """Write the command's files in a sweep's folder: the trade-off plot and report.html."""
    for name, drawing in zip(("sweep.png", "latencies.png"), result.drawings(), strict=False):
        folder.figure(name, drawing.figure)
    write_report(result, folder)


def write_report(result: Result, folder: OutputFolder) -> None:
    """Write report.html: with the plot library in it, or in the same folder if runs have separate reports."""
    shared = scripts.SHARED if isinstance(result, Seeds | Comparison) else ""
    if shared:
        folder.text(shared, scripts.library())
    folder.text("report.html", report(result, shared))


def _write_run(simulation: Simulation, folder: OutputFolder, below: str) -> None:
    """Write the files of one run: requests, steps, timeline, plots, report and summary."""
    from ..plots import latency

    run = simulation.run
    if simulation.emit is not None:
        folder.text(f"{below}{simulation.emit}.yaml", simulation.manifest())
    folder.blocks(f"{below}requests.csv", run.request_blocks())
    folder.csv(f"{below}stages.csv", _stage_columns(run.stages))
    folder.write(f"{below}timeline.json", lambda path: write_timeline(run.stages, _shown(run), path, _sent(run)))
    title = f"{run.deployment.model.name} on {run.deployment.system.name}, {run.policy.name}"
    figure = latency(simulation.requests(), title)
    folder.figure(f"{below}latency.png", figure)
    every = [(f"{pool}-" if pool else "", scaling) for pool, scaling in scaled(run)]
    changing = [pool for pool, scaling in every if scaling.spec.decides]
    for pool, drawing in zip(changing, replicas_drawn(run, title), strict=True):
        folder.figure(f"{below}{pool}replicas.png", drawing.figure)
    for pool, scaling in every:
        folder.table(f"{below}{pool}replicas.csv", replica_frame(scaling), "%.12g")
    if simulation.steps is not None:
        _write_steps(simulation.steps, f"{title}", folder)
    if below:
        folder.text(f"{below}report.html", report(simulation, f"../{scripts.SHARED}"))
    folder.answer(f"{below}summary.json", simulation)


def _shown(run: Run) -> list[EngineProcess]:
    """Return the engines of a run's timeline: one, or with prefill and decode pools every replica of each pool."""
    if "two-pools" not in run.parts:
        system = run.deployment.system
        devices = system.devices_per_node * system.nodes // run.deployment.replicas
        if "experts-apart" in run.parts:
            devices += devices_apart(run.deployment)
        return [EngineProcess("engine", devices, run.deployment.layout.pp)]
    return [
        EngineProcess(f"{p.name} {i}", p.devices // p.replicas, p.deployment.layout.pp)
        for p in pools_of(run)
        for i in range(p.replicas)
    ]


def _sent(run: Run) -> Sent | None:
    """Return the transfers of KV caches between prefill and decode pools; None without pools."""
    left = run.parts.get("two-pools")
    return left and Sent(run.requests.request_id, left.moves.start_s, left.moves.end_s)


def _write_steps(seen: Steps, title: str, folder: OutputFolder) -> None:
    """Write the ops and requests of some steps, their plots and a trace for Perfetto."""
    from .simulation import step_drawings

    folder.table("steps.csv", frame_of(seen.bars), "%.12g")
    folder.table("spans.csv", seen.span_frame(), "%.12g")
    folder.write("steps.json", lambda path: write_bars(seen.bars, path, seen.spans))
    for name, drawing in zip(("steps", "lanes"), step_drawings(seen, title), strict=True):
        folder.figure(f"{name}.png", drawing.figure)


def _stage_columns(stages: dict[str, npt.NDArray[np.float64]]) -> ColumnArrays:
    """Return the columns of stages.csv, with counts as whole numbers."""
    real = ("_s", "_bytes")
    return {name: column if name.endswith(real) else column.astype(np.int64) for name, column in stages.items()}
