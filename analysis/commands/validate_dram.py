"""``opbyte validate dram``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .io import answer
from .options import Json, Out
from .validate import validate_app


@validate_app.command("dram")
def validate_dram_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Table of DRAM runs (CSV).")],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """The DRAM model against runs of other simulators; exits 1 past its tolerances."""
    from ..validate.dram import validate_dram

    if not answer(partial(validate_dram, file), out, as_json).passed:
        raise typer.Exit(1)
