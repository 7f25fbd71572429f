"""``opbyte reproduce``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import answer, resumed
from .options import Fresh, Json, Out, Routing, count, names_of


@app.command("reproduce")
def reproduce_command(
    experiment: Annotated[
        str, typer.Argument(help="A name of `opbyte list experiments`.", autocompletion=names_of("experiments"))
    ],
    seeds: Annotated[int, count("Mean over this many seeds.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Use one seed; ignores --seeds.")] = False,
    routing: Routing = "uniform",
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="A device of yours to see on the same table.")
    ] = None,
    fresh: Fresh = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Compare a paper's printed numbers with simulated ones."""
    from ..reproduce import reproduce

    if not 1 <= seeds <= 1000:
        raise InputError("--seeds", f"must be in [1, 1000], not {seeds}")
    parts = resumed("reproduce", fresh)
    make = partial(
        reproduce, experiment, seeds=range(1 if quick else seeds), routing=routing, device=device,
        figures=out is not None, kept=parts,
    )  # fmt: skip
    if answer(make, out, as_json, counted="points", kept=parts).failed:
        raise typer.Exit(1)
