"""``opbyte validate schedules``."""

from __future__ import annotations

from typing import Annotated

import typer

from .io import counting, folder, show
from .options import Json, Out
from .validate import validate_app


@validate_app.command("schedules")
def validate_schedules_command(
    schedules: Annotated[
        str, typer.Argument(metavar="FILE", help="Workloads with vLLM's plans, one a line (JSON).")
    ],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Plans of policy vllm against those of vLLM's own scheduler; exits 1 if any differs."""
    from ..validate.schedules import validate_schedules

    with folder(out) as files:
        with counting("schedules") as progress:
            result = validate_schedules(schedules, progress=progress)
        if files:
            files.json("schedules.json", result.to_dict())
    show(result, as_json)
    if result.differences:
        raise typer.Exit(1)
