"""``opbyte search``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .app import app
from .io import answer
from .options import Json, Model, Out, count, info, real


@app.command("search")
def search_command(
    model: Model,
    board: Annotated[str, typer.Option(help="FPGA device, by name or YAML.", metavar="DEVICE")],
    objective: Annotated[str, typer.Option(help="latency or energy.", metavar="NAME")] = "latency",
    fill: Annotated[float, real("Share of DSPs and on-chip memory to use.")] = 1.0,
    batch: Annotated[int, count("Decoding sequences of a language model.")] = 1,
    context: Annotated[int, count("Tokens each has cached.")] = 2048,
    dtype: Annotated[str | None, info("dtype")] = None,
    kv_dtype: Annotated[str | None, info("kv_dtype")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Find arrays and buffers of an FPGA for an encoder, a streaming engine for a language model."""
    from ..studies.search import search

    make = partial(
        search, model, board, objective=objective, fill=fill, batch=batch, context=context,
        dtype=dtype, kv_dtype=kv_dtype,
    )  # fmt: skip
    answer(make, out, as_json, counted="designs")
