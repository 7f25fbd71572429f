"""``opbyte calibrate``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .app import app
from .io import folder, show, warn_skipped
from .options import Json, Out


@app.command("calibrate")
def calibrate_command(
    tables: Annotated[list[str], typer.Argument(help="Kernel tables (CSV), or folders of them.")],
    device: Annotated[str, typer.Option(help="Catalog device, a YAML file, or all of the tables.")],
    date: Annotated[str | None, typer.Option(help="Date to store, YYYY-MM-DD.")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Fit a device's kernel models to measured tables; --out writes its YAML."""
    from ..validate.calibrate import calibrate

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
    warn_skipped(result.skipped)
    show(result, as_json)
