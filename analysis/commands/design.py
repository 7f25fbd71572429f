"""``opbyte design``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import answer
from .options import Json, Out

DESCRIBE = "describe"
"""In place of a space: area, power and cost of a device that is there."""


@app.command("design")
def design_command(
    space: Annotated[
        str, typer.Argument(metavar="SPACE", help="YAML, name of list spaces, or describe.")
    ],
    device: Annotated[
        str | None, typer.Argument(metavar="[DEVICE]", help="What to describe; all products else.")
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Find the devices of a space that none beats, and what limits them; or what a device takes."""
    from ..studies.design import design_describe

    if space == DESCRIBE:
        answer(partial(design_describe, device), out, as_json)
        return
    raise InputError(space, "is no space")
