"""``opbyte calibrate``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import folder, show, warn_skipped
from .options import Json, Out

if TYPE_CHECKING:
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
    with folder(out) as files:
        result = calibrate(
            tables, device, date=date,
            progress=(lambda text: print(f"fitting {text}", file=sys.stderr)) if watched else None,
        )  # fmt: skip
        if files:
            for name in result.fits:
                files.text(f"{name}.yaml", result.yaml(name))
            files.text("calibration.md", result.report())
        if files and shared:
            for name, text in _shared(result, date, watched).items():
                files.text(name, text)
    warn_skipped(result.skipped)
    show(result, as_json)


def _shared(result: Calibration, date: str | None, watched: bool) -> dict[str, str]:
    """Files of the sets that devices share, and their page."""
    from ..validate.calibrate import stamp
    from ..validate.kernel_sets import fit_sets
    from ..validate.set_report import set_report

    told = (lambda text: print(f"fitting {text}", file=sys.stderr)) if watched else None
    fitted = fit_sets(result.measured, stamp(date), told)
    files = {f"kernels-{name}.yaml": text for name, text in fitted.files().items()}
    return {**files, "frameworks.md": set_report(fitted.sets)}
