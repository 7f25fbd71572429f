"""``opbyte compare``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.scenario.options import DeployOptions
from .app import app
from .io import answer
from .options import Json, Model, Out, Why, count, takes


@app.command("compare")
@takes([*options_of(DeployOptions)], without=("kernels",))
def compare_command(
    model: Model,
    options: dict[str, Any],
    systems: Annotated[str, typer.Option(help="Systems of any kind, commas between.", metavar="A,B,C")],
    batch: Annotated[int, count("Decoding sequences of a language model.")] = 1,
    context: Annotated[int, count("Tokens each has cached.")] = 2048,
    images: Annotated[int | None, count("Images of an encoder; 1 without it.")] = None,
    layers: Annotated[int | None, count("Only this many layers, without the head.")] = None,
    schedule: Annotated[str, typer.Option(help="FPGA: reordered, cache or on-chip.", metavar="NAME")] = "reordered",
    seed: Annotated[int | None, count("Seed of an FPGA's expert samples; 0 without it.")] = None,
    why: Why = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """One model on GPUs, processing in memory and FPGAs: time, energy, memory, bounds."""
    from ..answers.compare import compare

    names = [name.strip() for name in systems.split(",") if name.strip()]
    make = partial(
        compare, model, names, batch=batch, context=context, images=images, layers=layers,
        schedule=schedule, seed=seed, **options,
    )  # fmt: skip
    answer(lambda: replace(make(), why=why), out, as_json)
