"""``opbyte validate schedules``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .io import answer
from .options import Json, Out
from .validate import validate_app


@validate_app.command("schedules")
def validate_schedules_command(
    schedules: Annotated[str, typer.Argument(metavar="FILE", help="Workloads with vLLM's plans, one a line (JSON).")],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Plans of policy vllm against those of vLLM's own scheduler; exits 1 if any differs."""
    from ..validate.schedules import validate_schedules

    make = partial(validate_schedules, schedules)
    if answer(make, out, as_json, counted="schedules").differences:
        raise typer.Exit(1)
