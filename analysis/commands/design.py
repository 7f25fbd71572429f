"""``opbyte design``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import answer
from .options import Json, Out, count

DESCRIBE = "describe"
"""In place of a space: area, power and cost of a device that is there."""


@app.command("design")
def design_command(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="YAML, name of list spaces, or describe.")],
    device: Annotated[
        str | None, typer.Argument(metavar="[DEVICE]", help="What to describe; all products else.")
    ] = None,
    models: Annotated[str | None, typer.Option(metavar="A,B", help="What is served; the space's own else.")] = None,
    workload: Annotated[
        str | None, typer.Option(metavar="LIST", help="closed_loop=32,input_len=512,...; several by ;")
    ] = None,
    budget: Annotated[str | None, typer.Option(metavar="LIST", help="Limits: area_mm2<=900,watts<=700,...")] = None,
    goal: Annotated[
        str | None, typer.Option(metavar="LIST", help="Metrics, as output_tokens_per_s:max,usd:min.")
    ] = None,
    across: Annotated[str | None, typer.Option(metavar="HOW", help="Models together: mean, worst, or A=2,B=1.")] = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="bounds, exhaustive or random.")] = "bounds",
    simulations: Annotated[int | None, count("Most designs simulated; a tenth else.")] = None,
    seed: Annotated[int, count("Of random designs.")] = 0,
    workers: Annotated[int | None, count("Processes that simulate; 1 without it.")] = None,
    dask: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster.")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Find the devices of a space that none beats, and what limits them; or what a device takes."""
    from ..studies.design import design, design_describe

    if space == DESCRIBE:
        answer(partial(design_describe, device), out, as_json)
        return
    if device is not None:
        raise InputError(device, f"goes with {DESCRIBE}: opbyte design {DESCRIBE} {device}")
    make = partial(
        design, space, models=models, workload=workload, goal=goal, budget=budget, across=across,
        method=method, simulations=simulations, seed=seed, workers=workers, dask=dask, folder=out,
    )  # fmt: skip
    answer(make, out, as_json, counted="designs")
