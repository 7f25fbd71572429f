"""``opbyte frames``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .app import app
from .io import answer
from .options import Json, Out, Routing, count, real


@app.command("frames")
def frames_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An image encoder.")],
    system: Annotated[str, typer.Option(help="An FPGA: catalog name, YAML or DEVICE-xN.", metavar="SYSTEM")],
    images: Annotated[int, count("Images.")] = 16,
    rate: Annotated[float | None, real("Images per second.")] = None,
    in_flight: Annotated[int, count("Without a rate: images kept in flight.")] = 1,
    tasks: Annotated[
        str, typer.Option(help="single, round-robin, random or numbers: 0,1,1.", metavar="ORDER")
    ] = "single",
    schedule: Annotated[str, typer.Option(help="reordered, cache or on-chip.", metavar="NAME")] = "reordered",
    routing: Routing = "uniform",
    seed: Annotated[int, count("Seed of tasks and routing.")] = 0,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Serve images on an FPGA: latency, energy, memory, expert cache, task switches."""
    from ..answers.frames import frames

    make = partial(
        frames, model, system, images=images, rate=rate, in_flight=in_flight, tasks=tasks,
        schedule=schedule, routing=routing, seed=seed,
    )  # fmt: skip
    answer(make, out, as_json, counted="images")
