"""``opbyte search``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .app import app
from .io import answer
from .options import Json, Model, Out, count, real


@app.command("search")
def search_command(
    model: Model,
    board: Annotated[str, typer.Option(help="FPGA device, by name or YAML.", metavar="DEVICE")],
    objective: Annotated[str, typer.Option(help="latency or energy.", metavar="NAME")] = "latency",
    fill: Annotated[float, real("Share of DSPs and on-chip memory to use.")] = 1.0,
    batch: Annotated[int, count("Decoding sequences of a language model.")] = 1,
    context: Annotated[int, count("Tokens each has cached.")] = 2048,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Find array sizes, parallel queries and buffers of an FPGA for a model."""
    from ..studies.search import search

    make = partial(
        search, model, board, objective=objective, fill=fill, batch=batch, context=context
    )
    answer(make, out, as_json, counted="designs")
