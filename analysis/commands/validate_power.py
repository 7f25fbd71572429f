"""``opbyte validate power``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ...workloads.errors import InputError
from .io import folder, show, warn_skipped
from .options import Json
from .validate import validate_app


@validate_app.command("power")
def validate_power_command(
    tables: Annotated[
        list[str], typer.Argument(help="Kernel tables (CSV) with power_W, or folders of them.")
    ],
    cross_validate: Annotated[
        bool, typer.Option(help="Refit without each model's shape in turn (a minute or two).")
    ] = False,
    fit: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a new fit to these rows (YAML).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Power model against measured power of kernels; exits 1 past the bounds of the committed fit."""
    from ..validate.power import validate_power

    with folder(_beside(fit), "--fit") as files:
        date = None
        if fit is not None:
            from datetime import UTC, datetime

            date = datetime.now(UTC).date().isoformat()
        result = validate_power(tables, cross_validate, date)
        if files and fit and result.fitted:
            files.text(os.path.basename(fit), result.fitted)
    warn_skipped(result.skipped)
    show(result, as_json)
    if not result.passed:
        raise typer.Exit(1)


def _beside(path: str | None) -> str | None:
    if path is None:
        return None
    if os.path.isdir(path) or not os.path.basename(path):
        raise InputError(f"--fit {path!r}", "is a folder; name a file in it")
    return os.path.dirname(path) or "."
