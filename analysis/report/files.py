"""Result folders: which files a command writes."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from ..answers.demo import Comparison
from ..answers.roofline import Roofline
from ..answers.seeds import Seeds
from ..answers.simulate import Simulation
from ..show.output import SIGNIFICANT, OutputFolder
from ..show.result import Result
from ..show.timeline import write_timeline
from ..studies.capacity_result import Capacity
from ..studies.pareto import Pareto
from ..validate.deployments import PointsValidation
from ..validate.dram import DramValidation
from ..validate.kernels import KernelValidation
from ..validate.serving import ServingValidation
from . import report


def simulations_of(result: Simulation | Seeds | Comparison) -> tuple[Simulation, ...]:
    """The single runs of a result."""
    return (result,) if isinstance(result, Simulation) else result.runs


def write_report(result: Result, folder: OutputFolder) -> None:
    """Write report.html."""
    folder.text("report.html", report(result))


def write_roofline(result: Roofline, folder: OutputFolder) -> None:
    """Write ops.csv, the figure and roofline.json."""
    from ..plots import roofline as draw
    from ..plots import save

    rows = [op.to_dict() for op in result.ops]
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    columns["op_per_byte"] = columns["op_per_byte"].astype(np.float64)  # None: an empty cell
    folder.csv("ops.csv", columns, floats="%.9g")
    figure = draw(result.processors(), result.figure_ops(), result.title())
    folder.write("roofline.png", lambda path: save(figure, path))
    write_report(result, folder)
    folder.answer("roofline.json", result)


def write_simulation(result: Simulation | Seeds | Comparison, folder: OutputFolder) -> None:
    """Write each run's tables and figures; several runs go to folders of their own."""
    runs = simulations_of(result)
    for each in runs:
        name = ""
        if isinstance(result, Seeds):
            name = f"seed-{each.run.seed}/"
        elif isinstance(result, Comparison):
            name = f"{each.run.deployment.system.name}/"
        _write_run(each, folder, name)
    if not isinstance(result, Simulation):
        write_report(result, folder)
        folder.answer("summary.json", result)


def write_pareto(result: Pareto, folder: OutputFolder) -> None:
    """Write the best rows, their figure where there are two objectives, and pareto.json."""
    import pandas as pd

    from ..plots import save, trade_off

    columns = {name: np.array([row[name] for row in result.best]) for name in result.best[0]}
    folder.csv("pareto.csv", columns, floats="%.17g")
    if len(result.objectives) > 1:
        table = pd.DataFrame(result.table)
        figure = trade_off(table, result.objectives, result.columns, result.title)
        folder.write("pareto.png", lambda path: save(figure, path))
    write_report(result, folder)
    folder.answer("pareto.json", result)


def write_capacity(result: Capacity, folder: OutputFolder) -> None:
    """Write every simulated load, the figure of latency against load, and capacity.json."""
    import pandas as pd

    from ..plots import save

    table = pd.DataFrame(result.curve())
    folder.csv("loads.csv", {str(name): table[name].to_numpy() for name in table}, floats="%.17g")
    figure = result.figure()
    folder.write("capacity.png", lambda path: save(figure, path))
    write_report(result, folder)
    folder.answer("capacity.json", result)


def _write_run(each: Simulation, folder: OutputFolder, below: str) -> None:
    from ..plots import latency, save

    run = each.run
    folder.csv(f"{below}requests.csv", run.requests.columns())
    folder.csv(f"{below}stages.csv", _stage_columns(run.stages))
    system = run.deployment.system
    devices = system.devices_per_node * system.nodes // run.deployment.replicas
    lanes = run.deployment.layout.pp
    folder.write(
        f"{below}timeline.json", lambda path: write_timeline(run.stages, devices, path, lanes)
    )
    title = f"{run.deployment.model.name} on {run.deployment.system.name}, {run.policy.name}"
    figure = latency(each.requests(), title)
    folder.write(f"{below}latency.png", lambda path: save(figure, path))
    folder.text(f"{below}report.html", report(each))
    folder.answer(f"{below}summary.json", each)


def _stage_columns(
    stages: dict[str, npt.NDArray[np.float64]],
) -> dict[str, npt.NDArray[np.generic]]:
    """Counts of stages.csv as whole numbers."""
    real = ("_s", "_bytes")
    return {
        name: column if name.endswith(real) else column.astype(np.int64)
        for name, column in stages.items()
    }


def write_kernels(result: KernelValidation, folder: OutputFolder) -> None:
    """Write kernels.json, predictions, figures, the report, and `devices/specs/evidence` anew."""
    from ..plots import save
    from ..validate.behind import evidence_files

    write_report(result, folder)
    folder.answer("kernels.json", result)
    folder.csv("predictions.csv", result.predictions(), SIGNIFICANT)
    for name, drawing in zip(result.families(), result.drawings(), strict=True):
        folder.write(f"{name}.png", partial(save, drawing.figure))
    for name, text in evidence_files(result.found()).items():
        folder.text(f"evidence-{name}.csv", text)


def write_serving(result: ServingValidation, folder: OutputFolder) -> None:
    """Write serving.json, each run's requests and its figure."""
    from ..plots import save

    for each, drawing in zip(result.runs, result.drawings(), strict=True):
        table = each.requests()
        columns = {str(name): table[name].to_numpy() for name in table}
        folder.csv(f"{each.name}/requests.csv", columns)
        folder.write(f"{each.name}/latencies.png", partial(save, drawing.figure))
    write_report(result, folder)
    folder.answer("serving.json", result)


def write_points(result: PointsValidation, folder: OutputFolder) -> None:
    """Write every point's prediction, the figure and points.json."""
    from ..plots import points, save

    table = result.predictions()
    folder.csv("predictions.csv", {str(c): table[c].to_numpy() for c in table}, SIGNIFICANT)
    figure = points(table, f"{len(table)} measured deployments")
    folder.write("points.png", partial(save, figure))
    folder.answer("points.json", result)


def write_dram_validation(result: DramValidation, folder: OutputFolder) -> None:
    """Write every row's numbers and dram.json."""
    table = result.frame()
    folder.csv("rows.csv", {str(c): table[c].to_numpy() for c in table}, SIGNIFICANT)
    folder.answer("dram.json", result)
