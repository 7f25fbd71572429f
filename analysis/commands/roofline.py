"""``opbyte roofline``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.parts.drafts.options import SpeculationOptions
from ...simulator.scenario.options import DeployOptions
from .app import app
from .io import answer
from .options import Json, Model, Out, System, count, takes


@app.command("roofline")
@takes([*options_of(DeployOptions), *options_of(SpeculationOptions)])
def roofline_command(
    model: Model,
    system: System,
    options: dict[str, Any],
    batch: Annotated[int, count("Decoding sequences in the system.")] = 64,
    context: Annotated[int, count("Tokens each has cached.")] = 2048,
    prefill: Annotated[int, count("Tokens of one prompt in the step.")] = 0,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="When each op runs, on which processor or link.")
    ] = False,
    images: Annotated[int, count("Images of that prompt; their tokens are added.")] = 0,
    image_size: Annotated[
        str | None, typer.Option("--image-size", metavar="WxH", help="Pixels of the images, such as 1920x1080.")
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Cost every op of one step: Op/B, processor, time and what bounds it."""
    from ..answers.roofline import roofline

    make = partial(
        roofline, model, system, batch=batch, context=context, prefill=prefill, timeline=timeline,
        images=images, image_size=image_size, **options,
    )  # fmt: skip
    answer(make, out, as_json)
