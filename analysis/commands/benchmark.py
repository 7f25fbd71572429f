"""``opbyte benchmark``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.scenario import Scenario
from .app import app
from .io import answer
from .options import Json, Out, real, takes

OWN = (
    "model", "system", "rate", "rate_scale", "closed_loop", "trace", "input_len", "output_len",
    "lengths", "requests",
)  # fmt: skip
"""Options of a scenario that the benchmark sets, or that this command takes in another form."""


@app.command("benchmark")
@takes([*options_of(Scenario)], without=OWN)
def benchmark_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `opbyte list benchmarks`.")],
    options: dict[str, Any],
    system: Annotated[str, typer.Option(metavar="SYSTEM", help="Catalog name, YAML or DEVICE-xN: all of it.")],
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Another model than the benchmark's.")] = None,
    tolerance: Annotated[float, real("Find a load to this fraction.")] = 0.02,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Score of a system in a quoted benchmark, next to published results."""
    from ..studies.benchmark import benchmark

    make = partial(benchmark, name, system, model=model, tolerance=tolerance, **options)
    answer(make, out, as_json, counted="scores")
