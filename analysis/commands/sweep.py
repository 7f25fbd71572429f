"""``opbyte sweep``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import answer, counting, show
from .options import Json, count


@app.command("sweep")
def sweep_command(
    file: Annotated[str, typer.Argument(metavar="FILE.yaml", help="Base, axes, objectives.")],
    workers: Annotated[int | None, count("Processes; one a core by default.")] = None,
    dask: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster.")] = None,
    as_json: Json = False,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Folder of the results; named as the file.")
    ] = None,
) -> None:
    """Simulate every point of a study; a second call does only what is missing."""
    from ..studies.kernel_file import chooses_kernels

    if chooses_kernels(file):
        _of_kernels(file, out, as_json, workers, dask)
        return
    from ..report.files import write_sweep
    from ..studies.sweep import sweep

    with counting("points") as progress:
        result = sweep(file, out, workers=workers, dask=dask, progress=progress, also=write_sweep)
    show(result, as_json)
    if result.failed == len(result.table):
        raise typer.Exit(1)


def _of_kernels(file: str, out: str | None, as_json: bool, workers: int | None, dask: str | None) -> None:
    """Sweep with the best kernels of every variant."""
    from ..studies.kernel_sweep import KernelSweep, sweep_kernels

    if workers is not None or dask is not None:
        option = "--workers" if dask is None else "--dask"
        raise InputError(option, "has no part in a sweep of kernels, which takes seconds")
    folder = out or Path(file).stem
    result = answer(partial(sweep_kernels, file), folder, as_json, write=KernelSweep.write)
    if result.failed == len(result.points):
        raise typer.Exit(1)
