"""``opbyte serve``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.scenario import Scenario
from .app import app
from .io import answer
from .options import Json, Model, Out, System, count, real, takes

OWN = ("model", "system", "host", "warmup", "stop", "fail", "mtbf", "repair", "grid_gCO2_per_kWh", "strict")
"""Options of a scenario that this command takes otherwise, or that mean nothing here."""
DEPLOYED = [p for p in options_of(Scenario) if p.group not in ("workload", "kv-tiers", "two-pools", "experts-apart")]


@app.command("serve")
@takes(DEPLOYED, without=OWN)
def serve_command(
    model: Model,
    system: System,
    options: dict[str, Any],
    time_scale: Annotated[float, real("Simulated seconds a second of the clock.")] = 1.0,
    host: Annotated[str, typer.Option(metavar="NAME", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, count("Port; 0 takes a free one.")] = 8000,
    served_model_name: Annotated[str, typer.Option(metavar="NAME", help="The model's name for clients.")] = "",
    gpu_host: Annotated[
        str | None, typer.Option(metavar="HOST", help="As --host of other commands: the GPUs' links.")
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Serve a simulated deployment as an OpenAI-compatible server, until Ctrl-C."""
    from ..live.serve import serve

    make = partial(
        serve, model, system, host=host, port=port, time_scale=time_scale,
        served_model_name=served_model_name, gpu_host=gpu_host, **options,
    )  # fmt: skip
    answer(make, out, as_json, waits=False)
