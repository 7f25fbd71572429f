"""``opbyte sweep``."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .io import counting, show
from .options import Json, count


@app.command("sweep")
def sweep_command(
    file: Annotated[str, typer.Argument(metavar="FILE.yaml", help="Base, axes, objectives.")],
    workers: Annotated[int | None, count("Processes; one a core by default.")] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster.")
    ] = None,
    as_json: Json = False,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Folder of the results; named as the file."),
    ] = None,
) -> None:
    """Simulate every point of a study; a second call does only what is missing."""
    from ..report.files import write_report
    from ..studies.sweep import sweep

    with counting("points", rate=True) as told:
        result = sweep(file, out, workers=workers, dask=dask, told=told, also=write_report)
    show(result, as_json)
    if result.failed == len(result.table):
        raise typer.Exit(1)
