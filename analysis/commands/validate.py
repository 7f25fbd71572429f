"""``opbyte validate``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ...workloads.errors import InputError
from .app import App, app
from .io import folder, show, warn_skipped
from .options import Json, Out

validate_app = App(help="Compare predictions with measurements.", rich_markup_mode=None)
app.add_typer(validate_app, name="validate")


@validate_app.callback(invoke_without_command=True)
def validate_top(context: typer.Context) -> None:
    """Compare predictions with measurements."""
    if context.invoked_subcommand is None:
        raise InputError(
            "opbyte validate", "needs what to validate: opbyte validate kernels TABLES"
        )


@validate_app.command("kernels")
def validate_kernels_command(
    tables: Annotated[
        list[str],
        typer.Argument(help="Kernel tables (CSV), or folders; sample: a few rows that come along."),
    ],
    predictions: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write every row's prediction (CSV).")
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Kernel models against measured tables; exits 1 past the bounds in a device's YAML."""
    from ..report.files import write_kernels
    from ..show.output import SIGNIFICANT
    from ..validate.kernels import validate_kernels

    with folder(out) as files, folder(_parent(predictions), "--predictions") as beside:
        result = validate_kernels([_sample() if path == SAMPLE else path for path in tables])
        if beside and predictions:
            beside.csv(os.path.basename(predictions), result.predictions(), SIGNIFICANT)
        if files:
            write_kernels(result, files)
    warn_skipped(result.skipped)
    show(result, as_json)
    if not result.passed:
        raise typer.Exit(1)


SAMPLE = "sample"
"""Instead of a table: 391 rows of an H100 that the package holds."""


def _sample() -> str:
    from importlib.resources import files

    return str(files("opbyte.kernels") / "measured")


def _parent(path: str | None) -> str | None:
    """The folder of a result file."""
    if path is None:
        return None
    if os.path.isdir(path) or not os.path.basename(path):
        raise InputError(f"--predictions {path!r}", "is a folder; name a file in it")
    return os.path.dirname(path) or "."
