"""Result folders: which files a command writes."""

from __future__ import annotations

import numpy as np

from .output import OutputFolder
from .roofline import Roofline
from .simulate import Comparison, Seeds, Simulation
from .timeline import write_timeline


def simulations_of(result: Simulation | Seeds | Comparison) -> tuple[Simulation, ...]:
    """The single runs of a result."""
    return (result,) if isinstance(result, Simulation) else result.runs


def write_roofline(result: Roofline, folder: OutputFolder) -> None:
    """Write ops.csv, roofline.json and the figure."""
    from .plots import roofline as draw
    from .plots import save

    rows = [op.to_dict() for op in result.ops]
    folder.csv("ops.csv", {key: np.array([row[key] for row in rows]) for key in rows[0]})
    folder.json("roofline.json", result.to_dict())
    title = (
        f"{result.deployment.model.name} on {result.deployment.system.name}: "
        f"{result.batch} decodes at context {result.context:,}"
    )
    if result.prefill:
        title += f", one prompt of {result.prefill:,} tokens"
    figure = draw(result.processors(), result.figure_ops(), title)
    folder.write("roofline.png", lambda path: save(figure, path))


def write_simulation(result: Simulation | Seeds | Comparison, folder: OutputFolder) -> None:
    """Write each run's tables and figures; several runs go to folders of their own."""
    folder.json("summary.json", result.to_dict())
    runs = simulations_of(result)
    for each in runs:
        if len(runs) == 1:
            _write_run(each, folder)
        else:
            name = each.run.deployment.system.name
            if isinstance(result, Seeds):
                name = f"seed-{each.run.seed}"
            _write_run(each, OutputFolder(folder.path / name))


def _write_run(each: Simulation, folder: OutputFolder) -> None:
    from .plots import latency, save

    run = each.run
    folder.json("summary.json", each.to_dict())
    folder.csv("requests.csv", run.requests.columns())
    folder.csv("stages.csv", run.stages)
    folder.write("timeline.json", lambda path: write_timeline(run.stages, path))
    title = f"{run.deployment.model.name} on {run.deployment.system.name}, {run.policy.name}"
    figure = latency(each.requests(), title)
    folder.write("latency.png", lambda path: save(figure, path))
