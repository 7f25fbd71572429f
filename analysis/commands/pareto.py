"""``opbyte pareto``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import answer
from .options import Json, Out


@app.command("pareto")
def pareto_command(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Result folder of a sweep.")],
    objectives: Annotated[
        str | None, typer.Option(metavar="LIST", help="For example output_tokens_per_s:max,e2e_s_p99:min.")
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """List the points of a sweep that no other beats in every objective."""
    from ..studies.pareto import pareto

    wanted = None if objectives is None else _pairs(objectives)
    answer(partial(pareto, folder, wanted), out, as_json)


def _pairs(text: str) -> dict[str, str]:
    pairs = [entry.strip().partition(":") for entry in text.split(",")]
    if not all(name and colon for name, colon, _ in pairs):
        raise InputError("--objectives", f"must be a comma-separated list of NAME:max or NAME:min, not {text!r}")
    return {name: goal for name, _, goal in pairs}
