"""``opbyte validate configs``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from .io import answer, folder, parent_of
from .options import Json, Out
from .validate import validate_app


@validate_app.command("configs")
def validate_configs_command(
    tables: Annotated[list[str], typer.Argument(help="Tables of measured configurations (CSV), or folders of them.")],
    predictions: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the first picks of every shape (CSV).")
    ] = None,
    constants: Annotated[
        str, typer.Option(help="stored; none: unfitted; others: fitted to the other devices (minutes).")
    ] = "stored",
    fit: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write constants fitted to these rows (YAML).")
    ] = None,
    date: Annotated[str | None, typer.Option(help="Date to store with a fit, YYYY-MM-DD.")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Ranked kernel configurations against measured ones; exits 1 below the committed bounds."""
    from ..show.output import SIGNIFICANT
    from ..validate.configs import ConfigValidation, validate_configs

    def make() -> ConfigValidation:
        with (
            folder(parent_of(predictions, "--predictions"), "--predictions") as beside,
            folder(parent_of(fit, "--fit"), "--fit") as fits,
        ):
            result = validate_configs(tables, constants, fit is not None, date)
            if beside and predictions:
                beside.frame(os.path.basename(predictions), result.predictions(), SIGNIFICANT)
            if fits and fit and result.fitted:
                fits.text(os.path.basename(fit), result.fitted)
        return result

    if not answer(make, out, as_json).passed:
        raise typer.Exit(1)
