"""``opbyte validate points``."""

from __future__ import annotations

from typing import Annotated

import typer

from .io import counting, folder, show, warn_skipped
from .options import Json, Out
from .validate import validate_app


@validate_app.command("points")
def validate_points_command(
    points: Annotated[str, typer.Argument(metavar="FILE", help="Table of serving points (CSV).")],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Simulate deployments whose TTFT and TPOT were measured, one a row."""
    from ..validate.deployments import validate_points

    with folder(out) as files:
        with counting("points") as progress:
            result = validate_points(points, progress=progress)
        if files:
            from ..report.files import write_points

            write_points(result, files)
    warn_skipped(result.skipped)
    show(result, as_json)
