"""``opbyte pareto``."""

from __future__ import annotations

from typing import Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import folder as open_folder
from .io import show
from .options import Json, Out


@app.command("pareto")
def pareto_command(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Result folder of a sweep.")],
    objectives: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="For example output_tokens_per_s:max,e2e_s_p99:min."),
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """List the points of a sweep that no other beats in every objective."""
    from ..studies.pareto import pareto

    wanted = None if objectives is None else _pairs(objectives)
    with open_folder(out) as files:
        result = pareto(folder, wanted)
        if files:
            from ..report.files import write_pareto

            write_pareto(result, files)
    show(result, as_json)


def _pairs(text: str) -> dict[str, str]:
    pairs = [entry.strip().partition(":") for entry in text.split(",")]
    if not all(name and colon for name, colon, _ in pairs):
        raise InputError("--objectives", f"must be NAME:max or NAME:min, by commas, not {text!r}")
    return {name: goal for name, _, goal in pairs}
