"""``opbyte validate power``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from .io import answer, folder, parent_of
from .options import Json
from .validate import validate_app


@validate_app.command("power")
def validate_power_command(
    tables: Annotated[list[str], typer.Argument(help="Kernel tables (CSV) with power_W, or folders of them.")],
    cross_validate: Annotated[
        bool, typer.Option(help="Refit without each model's shape in turn (a minute or two).")
    ] = False,
    fit: Annotated[str | None, typer.Option(metavar="FILE", help="Write a new fit to these rows (YAML).")] = None,
    as_json: Json = False,
) -> None:
    """Power model against measured power of kernels; exits 1 past the bounds of the committed fit."""
    from ..validate.power import PowerValidation, validate_power

    def make() -> PowerValidation:
        with folder(parent_of(fit, "--fit"), "--fit") as files:
            date = None if fit is None else datetime.now(UTC).date().isoformat()
            result = validate_power(tables, cross_validate, date)
            if files and fit and result.fitted:
                files.text(os.path.basename(fit), result.fitted)
        return result

    if not answer(make, None, as_json).passed:
        raise typer.Exit(1)
