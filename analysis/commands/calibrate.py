"""``opbyte calibrate``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import answer
from .options import Json, Out

if TYPE_CHECKING:
    from ..show.output import OutputFolder
    from ..validate.calibrate import Calibration


@app.command("calibrate")
def calibrate_command(
    tables: Annotated[list[str], typer.Argument(help="Kernel tables (CSV), or folders of them.")],
    device: Annotated[str, typer.Option(help="Catalog device, a YAML file, or all of the tables.")],
    date: Annotated[str | None, typer.Option(help="Date to store, YYYY-MM-DD.")] = None,
    shared: Annotated[
        bool, typer.Option(help="Fit what devices share, too (with --device all and --out; long).")
    ] = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Fit a device's kernel models to measured tables; --out writes its YAML."""
    from ..validate.calibrate import ALL, calibrate

    if shared and (device != ALL or out is None):
        raise InputError(
            "--shared", "needs --device all, as the sets are fitted together, and --out"
        )
    watched = sys.stderr.isatty()
    told = (lambda text: print(f"fitting {text}", file=sys.stderr)) if watched else None

    def write(result: Calibration, files: OutputFolder) -> None:
        for name in result.fits:
            files.text(f"{name}.yaml", result.yaml(name))
        files.text("calibration.md", result.report())
        if shared:
            for name, text in _shared(result, date, told).items():
                files.text(name, text)

    make = partial(calibrate, tables, device, date=date, progress=told)
    answer(make, out, as_json, write=write)


def _shared(
    result: Calibration, date: str | None, told: Callable[[str], None] | None
) -> dict[str, str]:
    """Files of the sets that devices share, and their page."""
    from ..validate.calibrate import stamp
    from ..validate.kernel_sets import fit_sets
    from ..validate.set_report import set_report

    fitted = fit_sets(result.measured, stamp(date), told)
    files = {f"kernels-{name}.yaml": text for name, text in fitted.files().items()}
    return {**files, "frameworks.md": set_report(fitted.sets)}
