"""``opbyte validate dram``."""

from __future__ import annotations

from typing import Annotated

import typer

from .io import folder, show
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

    with folder(out) as files:
        result = validate_dram(file)
        if files:
            from ..report.files import write_dram_validation

            write_dram_validation(result, files)
    show(result, as_json)
    if not result.passed:
        raise typer.Exit(1)
