"""Result folders: the files of a result, chosen by its type."""

from __future__ import annotations

from contextlib import suppress
from functools import singledispatch

import numpy as np
import numpy.typing as npt

from ...simulator.parts.experts_apart.holders import devices_apart
from ...simulator.parts.two_pools.run import pools_of
from ...simulator.serving.record import Run
from ...workloads.errors import InputError
from ..answers.autoscale import replica_frame, replicas_drawn, scaled
from ..answers.comparison import SystemComparison
from ..answers.demo import Comparison
from ..answers.dram import DramAnswer, PimAnswer
from ..answers.frames import FrameRun
from ..answers.inspect import Inspection
from ..answers.layouts import Layouts
from ..answers.placement import Placement
from ..answers.roofline import Roofline
from ..answers.run_steps import Steps
from ..answers.seeds import Seeds
from ..answers.simulate import Simulation
from ..answers.step_timeline import frame_of
from ..answers.train import Training
from ..live.recording import Recording
from ..live.run_folder import write_recording
from ..reproduce.base import Reproduction
from ..reproduce.write import write_reproduction
from ..show.output import SIGNIFICANT, OutputFolder
from ..show.result import Result
from ..show.timeline import EngineProcess, Sent, write_streams, write_timeline
from ..studies.capacity_result import Capacity
from ..studies.design import DesignAnswer, EngineAnswer
from ..studies.engine_search import EngineSearch
from ..studies.pareto import Pareto
from ..studies.plan.result import Plan
from ..studies.sweep.run import Sweep
from ..validate.deployments import PointsValidation
from ..validate.dram import DramValidation
from ..validate.kernels import KernelValidation
from ..validate.runs import RunsValidation
from ..validate.schedules import SchedulesValidation
from ..validate.serving import ServingValidation
from . import report, scripts
from .memory import write_dram
from .step_files import write_bars


def simulations_of(result: Simulation | Seeds | Comparison) -> tuple[Simulation, ...]:
    """The single runs of a result."""
    return (result,) if isinstance(result, Simulation) else result.runs


@singledispatch
def write_files(result: Result, folder: OutputFolder) -> None:
    """Write the files of a result: its summary under its name, unless registered otherwise."""
    folder.answer(f"{type(result).__name__.lower()}.json", result)


@write_files.register
def _inspection(result: Inspection, folder: OutputFolder) -> None:
    folder.answer("inspect.json", result)


@write_files.register
def _frames(result: FrameRun, folder: OutputFolder) -> None:
    """Write a row an image, and summary.json."""
    folder.csv("frames.csv", result.columns())
    folder.answer("summary.json", result)


@write_files.register
def _comparison(result: SystemComparison, folder: OutputFolder) -> None:
    """Write the plot and compare.json."""
    folder.figure("compare.png", result.drawings()[0].figure)
    folder.answer("compare.json", result)


@write_files.register
def _layouts(result: Layouts, folder: OutputFolder) -> None:
    """Write layout.json and, of a catalog device, one with the best layout."""
    folder.answer("layout.json", result)
    device = result.device_file()
    if device is not None:
        folder.text("device.yaml", device)


@write_files.register
def _search(result: EngineSearch, folder: OutputFolder) -> None:
    """Write the plot of the front and search.json."""
    folder.figure("front.png", result.drawings()[0].figure)
    folder.answer("search.json", result)


@write_files.register
def _design(result: DesignAnswer, folder: OutputFolder) -> None:
    """Write the plot of the front, the simulated designs, the best as a system, and design.json."""
    for drawing in result.drawings():
        folder.figure("front.png", drawing.figure)
    folder.frame("designs.csv", result.frame())
    folder.text("best.yaml", result.text)
    folder.answer("design.json", result)


@write_files.register
def _engines(result: EngineAnswer, folder: OutputFolder) -> None:
    """Write the plot of the front, its engines, and design.json."""
    folder.figure("front.png", result.drawings()[0].figure)
    folder.frame("designs.csv", result.frame())
    folder.answer("design.json", result)


@write_files.register
def _reproduction(result: Reproduction, folder: OutputFolder) -> None:
    """Write what `reproduce.write` does."""
    write_reproduction(result, folder)


@write_files.register
def _dram(result: DramAnswer | PimAnswer, folder: OutputFolder) -> None:
    write_dram(result, folder)


@write_files.register
def _schedules(result: SchedulesValidation, folder: OutputFolder) -> None:
    folder.json("schedules.json", result.to_dict())


def write_sweep(result: Sweep, folder: OutputFolder) -> None:
    """Write the command's files in a sweep's folder: the trade-off plot and report.html."""
    for drawing in result.drawings():
        folder.figure("sweep.png", drawing.figure)
    write_report(result, folder)


def write_report(result: Result, folder: OutputFolder) -> None:
    """Write report.html: with the plot library in it, or in the same folder if runs have separate reports."""
    shared = scripts.SHARED if isinstance(result, Seeds | Comparison) else ""
    if shared:
        folder.text(shared, scripts.library())
    folder.text("report.html", report(result, shared))


@write_files.register
def _roofline(result: Roofline, folder: OutputFolder) -> None:
    """Write ops.csv, the plot and roofline.json."""
    rows = [op.to_dict() for op in result.ops]
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    columns["op_per_byte"] = columns["op_per_byte"].astype(np.float64)  # None: an empty cell
    folder.csv("ops.csv", columns, floats="%.9g")
    drawn = result.drawings()
    folder.figure("roofline.png", drawn[0].figure)
    if result.bars:
        folder.figure("timeline.png", drawn[1].figure)
        folder.frame("timeline.csv", frame_of(result.bars), "%.12g")
        folder.write("timeline.json", lambda path: write_bars(result.bars, path))
    if result.timelines:
        folder.figure("streams.png", drawn[-1].figure)
        folder.write("streams.json", lambda path: write_streams(result.timelines, path))
    folder.answer("roofline.json", result)


@write_files.register
def _placement(result: Placement, folder: OutputFolder) -> None:
    """Write loads by layer and device, the chosen map, the plot and placement.json."""
    for name, rows in (("loads.csv", result.layers()), ("map.csv", result.map_rows())):
        folder.csv(name, {key: np.array([row[key] for row in rows]) for key in rows[0]})
    folder.figure("placement.png", result.drawings()[0].figure)
    folder.answer("placement.json", result)


@write_files.register
def _training(result: Training, folder: OutputFolder) -> None:
    """Write the parts of a micro-batch, the plot of the step and training.json."""
    rows = result.records()
    folder.csv("parts.csv", {key: np.array([row[key] for row in rows]) for key in rows[0]})
    folder.figure("training.png", result.drawings()[0].figure)
    folder.answer("training.json", result)


@write_files.register
def _simulation(result: Simulation | Seeds | Comparison, folder: OutputFolder) -> None:
    """Write each run's tables and plots; several runs go to separate folders."""
    runs = simulations_of(result)
    for run in runs:
        name = ""
        if isinstance(result, Seeds):
            name = f"seed-{run.run.seed}/"
        elif isinstance(result, Comparison):
            name = f"{run.run.deployment.system.name}/"
        _write_run(run, folder, name)
    if not isinstance(result, Simulation):
        folder.answer("summary.json", result)


@write_files.register
def _pareto(result: Pareto, folder: OutputFolder) -> None:
    """Write the best rows, their plot if there are two objectives, and pareto.json."""
    columns = {name: np.array([row[name] for row in result.best]) for name in result.best[0]}
    folder.csv("pareto.csv", columns, floats="%.17g")
    for drawing in result.drawings():
        folder.figure("pareto.png", drawing.figure)
    folder.answer("pareto.json", result)


@write_files.register
def _capacity(result: Capacity, folder: OutputFolder) -> None:
    """Write every simulated load, latency against load, the front, and capacity.json."""
    import pandas as pd

    table = pd.DataFrame(result.curve())
    folder.frame("loads.csv", table, "%.17g")
    folder.figure("capacity.png", result.figure())
    folder.figure("front.png", result.front())
    folder.answer("capacity.json", result)


@write_files.register
def _plan(result: Plan, folder: OutputFolder) -> None:
    """Write every candidate, the plots, the start command of the best, and plan.json."""
    import pandas as pd

    folder.frame("candidates.csv", pd.DataFrame(list(result.records())), "%.17g")
    figure = result.figure()
    if figure is not None:
        folder.figure("plan.png", figure)
    if len(result.drawings()) > 1:
        folder.figure("front.png", result.front())
    if result.winner is not None and result.winner.candidate.engine is not None:
        folder.json("engine.json", result.winner.candidate.engine)
    if result.emit is not None:
        with suppress(InputError):  # the answer says why there is none
            folder.text(f"{result.emit}.yaml", result.manifest())
    folder.answer("plan.json", result)


def _write_run(simulation: Simulation, folder: OutputFolder, below: str) -> None:
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
        folder.frame(f"{below}{pool}replicas.csv", replica_frame(scaling), "%.12g")
    if simulation.steps is not None:
        _write_steps(simulation.steps, f"{title}", folder)
    if below:
        folder.text(f"{below}report.html", report(simulation, f"../{scripts.SHARED}"))
    folder.answer(f"{below}summary.json", simulation)


def _shown(run: Run) -> list[EngineProcess]:
    """Engines of a run's timeline: one for all of a kind, but each of two pools."""
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
    """Caches on their way between two pools."""
    left = run.parts.get("two-pools")
    return left and Sent(run.requests.request_id, left.moves.start_s, left.moves.end_s)


def _write_steps(seen: Steps, title: str, folder: OutputFolder) -> None:
    """Write the ops and requests of some steps, their plots and a trace for Perfetto."""
    from .simulation import step_drawings

    folder.frame("steps.csv", frame_of(seen.bars), "%.12g")
    folder.frame("spans.csv", seen.span_frame(), "%.12g")
    folder.write("steps.json", lambda path: write_bars(seen.bars, path, seen.spans))
    for name, drawing in zip(("steps", "lanes"), step_drawings(seen, title), strict=True):
        folder.figure(f"{name}.png", drawing.figure)


def _stage_columns(stages: dict[str, npt.NDArray[np.float64]]) -> dict[str, npt.NDArray[np.generic]]:
    """Counts of stages.csv as whole numbers."""
    real = ("_s", "_bytes")
    return {name: column if name.endswith(real) else column.astype(np.int64) for name, column in stages.items()}


@write_files.register
def _kernels(result: KernelValidation, folder: OutputFolder) -> None:
    """Write kernels.json, predictions, plots and the report; regenerate `devices/specs/evidence`."""
    from ..validate.behind import evidence_files

    folder.answer("kernels.json", result)
    folder.csv("predictions.csv", result.predictions(), SIGNIFICANT)
    drawings = result.drawings()  # one a family, and where some are shown so, by Op/B
    for name, drawing in zip((*result.families(), "fractions"), drawings, strict=False):
        folder.figure(f"{name}.png", drawing.figure)
    for name, text in evidence_files(result.found()).items():
        folder.text(f"evidence-{name}.csv", text)


@write_files.register
def _serving(result: ServingValidation, folder: OutputFolder) -> None:
    """Write serving.json, each run's requests and its plot."""
    for run, drawing in zip(result.runs, result.drawings(), strict=True):
        table = run.requests()
        folder.frame(f"{run.name}/requests.csv", table)
        folder.figure(f"{run.name}/latencies.png", drawing.figure)
    folder.answer("serving.json", result)


@write_files.register
def _points(result: PointsValidation, folder: OutputFolder) -> None:
    """Write every point's prediction, the plot and points.json."""
    folder.frame("predictions.csv", result.predictions(), SIGNIFICANT)
    folder.figure("points.png", result.drawings()[0].figure)
    folder.answer("points.json", result)


@write_files.register
def _runs(result: RunsValidation, folder: OutputFolder) -> None:
    """Write every metric of every stage and batch, the plot, the report and runs.json."""
    table = result.frame()
    table["stage"] = ["" if row["stage"] is None else str(row["stage"]) for row in result.records()]
    folder.frame("runs.csv", table, SIGNIFICANT)
    folder.figure("runs.png", result.drawings()[0].figure)
    folder.answer("runs.json", result)


@write_files.register
def _dram_validation(result: DramValidation, folder: OutputFolder) -> None:
    """Write every row's numbers and dram.json."""
    table = result.frame()
    folder.frame("rows.csv", table, SIGNIFICANT)
    folder.answer("dram.json", result)


@write_files.register
def _recorded(result: Recording, folder: OutputFolder) -> None:
    """Write the folder of a run."""
    write_recording(result, folder)
