"""``opbyte reproduce``."""

from __future__ import annotations

from typing import Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import counting, folder, show
from .options import Json, Out, Routing, count


@app.command("reproduce")
def reproduce_command(
    experiment: Annotated[str, typer.Argument(help="A name of `opbyte list experiments`.")],
    seeds: Annotated[int, count("Mean over this many seeds.")] = 5,
    routing: Routing = "uniform",
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="A device of yours to see on the same table."),
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Compare a paper's printed numbers with simulated ones."""
    from ..report import report
    from ..reproduce import reproduce
    from ..reproduce.write import write_reproduction

    if not 1 <= seeds <= 1000:
        raise InputError("--seeds", f"must be in [1, 1000], not {seeds}")
    with folder(out) as files:
        with counting("points") as told:
            result = reproduce(
                experiment, seeds=range(seeds), routing=routing, told=told, device=device,
                figures=files is not None,
            )  # fmt: skip
        if files:
            files.text("report.html", report(result))
            write_reproduction(result, files)
    show(result, as_json)
    if result.failed:
        raise typer.Exit(1)
