"""``opbyte validate runs``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .io import answer
from .options import Json, Out
from .validate import validate_app


@validate_app.command("runs")
def validate_runs_command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Runs, static batches, folders of them.")],
    seeds: Annotated[int, typer.Option(help="Draws of each run's requests.")] = 3,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="How the GPUs were connected (list hosts).")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Replay measured serving runs by their load, stage by stage, and static batches."""
    from ..validate.runs import validate_runs

    answer(partial(validate_runs, paths, seeds=seeds, host=host), out, as_json, counted="runs")
