"""``opbyte capacity``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.scenario import Scenario
from .app import app
from .io import answer, resumed
from .options import Fresh, Json, Model, Out, Why, count, real, takes

OWN = ("model", "system", "rate", "rate_scale", "closed_loop", "grid_gCO2_per_kWh")
"""Options of a scenario that this command takes in another form, or that the search sets."""


@app.command("capacity")
@takes([*options_of(Scenario)], without=OWN)
def capacity_command(
    model: Model,
    slo: Annotated[str, typer.Option(metavar="LIST", help="For example ttft_p99=1,tbt_p99=0.05 [s].")],
    options: dict[str, Any],
    systems: Annotated[str | None, typer.Option(metavar="LIST", help="Comma-separated systems.")] = None,
    devices: Annotated[
        int | None, count("Of both pools together, --prefill and --decode: every ratio is tried.")
    ] = None,
    tolerance: Annotated[float, real("Find the load to this fraction.")] = 0.02,
    search: Annotated[str | None, typer.Option(metavar="NAME", help="layouts: try every layout of a system.")] = None,
    workers: Annotated[int | None, count("Processes; one a system by default.")] = None,
    why: Why = False,
    fresh: Fresh = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Highest load that meets an SLO, its energy and cost, and what limits it."""
    from ..studies.capacity import capacity

    parts = resumed("capacity", fresh)
    make = partial(
        capacity, model, systems, slo, devices=devices, tolerance=tolerance, search=search,
        workers=workers,
        kept=parts, **options,
    )  # fmt: skip
    answer(lambda **more: replace(make(**more), why=why), out, as_json, counted="systems", kept=parts)
