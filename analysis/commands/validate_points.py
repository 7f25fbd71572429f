"""``opbyte validate points``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .io import answer, resumed
from .options import Fresh, Json, Out
from .validate import validate_app


@validate_app.command("points")
def validate_points_command(
    points: Annotated[str, typer.Argument(metavar="FILE", help="Table of serving points (CSV).")],
    fresh: Fresh = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Simulate deployments whose TTFT and TPOT were measured, one a row."""
    from ..validate.deployments import validate_points

    kept = resumed("validate-points", fresh)
    make = partial(validate_points, points, kept=kept)
    answer(make, out, as_json, counted="points", kept=kept)
