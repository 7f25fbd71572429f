"""``opbyte layout``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .app import app
from .io import answer
from .options import Json, Model, Out, System, count


@app.command("layout")
def layout_command(
    model: Model,
    system: System,
    batch: Annotated[int, count("Decoding sequences in the system.")] = 64,
    context: Annotated[int, count("Tokens each has cached.")] = 2048,
    memory: Annotated[
        str | None, typer.Option(metavar="NAME", help="DRAM standard of the devices, or its file.")
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """The best address mapping and KV blocks for a model, and what they are worth."""
    from ..answers.layouts import layouts

    make = partial(layouts, model, system, standard=memory, batch=batch, context=context)
    answer(make, out, as_json)
