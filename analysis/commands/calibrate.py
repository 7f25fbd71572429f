"""``opbyte calibrate``: kernel models to tables; other commands of its group fit other things."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from ...workloads.errors import InputError
from .app import App, app
from .io import answer, resumed
from .options import Family, Fresh, Json, Out

if TYPE_CHECKING:
    from ..show.kept import Kept
    from ..show.output import OutputFolder
    from ..validate.calibrate import Calibration


TABLES = "tables"
"""What is fitted where no command of the group is named."""


class _Group(typer.core.TyperGroup):
    """A group whose first command needs no name: ``opbyte calibrate TABLES --device D``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = [TABLES, *args]
        return super().parse_args(ctx, args)


calibrate_app = App(help="Fit models to measurements.", rich_markup_mode=None, cls=_Group)
app.add_typer(calibrate_app, name="calibrate")


@calibrate_app.callback(invoke_without_command=True)
def calibrate_top(context: typer.Context) -> None:
    """Fit models to measurements."""
    if context.invoked_subcommand is None:
        raise InputError(
            "opbyte calibrate", "needs kernel tables and their device: opbyte calibrate TABLES "
            "--device h100; or a run: opbyte calibrate run DIR --free link,host",
        )  # fmt: skip


@calibrate_app.command(TABLES)
def calibrate_command(
    tables: Annotated[list[str], typer.Argument(help="Kernel tables (CSV), or folders of them.")],
    device: Annotated[str, typer.Option(help="Catalog device, a YAML file, or all of the tables.")],
    date: Annotated[str | None, typer.Option(help="Date to store, YYYY-MM-DD.")] = None,
    family: Family = None,
    shared: Annotated[
        bool, typer.Option(help="Fit what devices share, too (with --device all and --out; long).")
    ] = False,
    fresh: Fresh = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Fit a device's kernel models to measured tables; --out writes its YAML."""
    from ..validate.calibrate import ALL, calibrate

    if shared and (device != ALL or out is None):
        raise InputError("--shared", "needs --device all, as the sets are fitted together, and --out")
    watched = sys.stderr.isatty()
    progress = (lambda text: print(f"fitting {text}", file=sys.stderr)) if watched else None

    def write(result: Calibration, files: OutputFolder) -> None:
        for name in result.fits:
            files.text(f"{name}.yaml", result.yaml(name))
        files.text("calibration.md", result.report())
        if shared:
            for name, text in _shared(result, date, progress, parts).items():
                files.text(name, text)

    parts = resumed("calibrate", fresh)
    make = partial(calibrate, tables, device, date=date, family=family, progress=progress, kept=parts)
    answer(make, out, as_json, write=write, kept=parts, waits=False)


def _shared(
    result: Calibration, date: str | None, progress: Callable[[str], None] | None, kept: Kept
) -> dict[str, str]:
    """Files of the sets that devices share, and their page."""
    from ..validate.calibrate import stamp
    from ..validate.kernel_sets import fit_sets
    from ..validate.set_report import set_report

    fitted = fit_sets(result.measured, stamp(date), progress, kept)
    files = {f"kernels-{name}.yaml": text for name, text in fitted.files().items()}
    return {**files, "frameworks.md": set_report(fitted.sets)}
