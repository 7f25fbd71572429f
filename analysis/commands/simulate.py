"""``opbyte simulate``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.scenario import Scenario
from ...workloads.errors import InputError
from .app import app
from .io import answer, progress
from .options import Emit, Json, Out, Why, check_emit, count, takes


@app.command("simulate")
@takes([*options_of(Scenario)])
def simulate_command(
    options: dict[str, Any],
    seeds: Annotated[int | None, count("Run this many seeds.")] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="N|A:B", help="Show the first N steps, or some, one by one.")
    ] = None,
    groups: Annotated[int | None, count("Simulate the replicas in N separate groups.")] = None,
    workers: Annotated[int | None, count("Processes that groups run on; one a core by default.")] = None,
    dask: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster for them.")] = None,
    why: Why = False,
    emit: Emit = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Serve requests; without arguments: Mixtral-8x7B on 4 Duplex against 4 GPUs."""
    from ..answers.demo import Comparison, compare_demo
    from ..answers.seeds import Seeds, simulate_seeds
    from ..answers.simulate import Simulation, simulate
    from ..answers.started import started

    scenario, keep = Scenario.of(**options), out is not None
    check_emit(emit)
    if emit is not None:
        if seeds is not None:
            raise InputError("--emit", "needs one run: remove --seeds")
        started(emit, scenario)  # what it cannot start is refused before it is served
    for option, given in (("--groups", groups), ("--workers", workers), ("--dask", dask), ("--steps", steps)):
        if given is not None and (seeds is not None or scenario.model is None):
            raise InputError(option, "is for one run: name a model and system, remove --seeds")

    def make() -> Simulation | Seeds | Comparison:
        with progress() as watch:
            if seeds is not None:
                return simulate_seeds(scenario, seeds=seeds, keep_stages=keep, progress=watch)
            if scenario.model is None and scenario.system is None:
                return compare_demo(scenario, keep_stages=keep, progress=watch)
            result = simulate(
                scenario, keep_stages=keep, steps=steps, progress=watch, groups=groups, workers=workers, dask=dask
            )
            return replace(result, why=why, emit=emit)

    answer(make, out, as_json, waits=False)  # `progress` says how far it is
