"""``opbyte validate``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from ...workloads.errors import InputError
from .app import App, app
from .io import answer, folder, parent_of
from .options import Family, Json, Out

if TYPE_CHECKING:
    from ..parallel import Told

validate_app = App(help="Compare predictions with measurements.", rich_markup_mode=None)
app.add_typer(validate_app, name="validate")


@validate_app.callback(invoke_without_command=True)
def validate_top(context: typer.Context) -> None:
    """Compare predictions with measurements."""
    if context.invoked_subcommand is None:
        raise InputError("opbyte validate", "needs what to validate: opbyte validate kernels TABLES")


@validate_app.command("kernels")
def validate_kernels_command(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Kernel tables (CSV), or folders; those that come along without any.")
    ] = None,
    family: Family = None,
    predictions: Annotated[str | None, typer.Option(metavar="FILE", help="Write every row's prediction (CSV).")] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Leave out each device in turn: predict it from the others.")
    ] = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Kernel models against measured tables; exits 1 past the bounds in a device's YAML."""
    from ..show.output import SIGNIFICANT
    from ..validate.kernels import KernelValidation, validate_kernels

    def make(told: Told | None) -> KernelValidation:
        with folder(parent_of(predictions, "--predictions"), "--predictions") as beside:
            result = validate_kernels(tables or (), family=family, transfer=transfer, told=told)
            if beside and predictions:
                beside.csv(os.path.basename(predictions), result.predictions(), SIGNIFICANT)
        return result

    if not answer(make, out, as_json, counted="tables").passed:
        raise typer.Exit(1)
