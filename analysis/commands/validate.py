"""``opbyte validate``: predictions compared with measurements, one command per kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...workloads.errors import InputError
from .app import App, app
from .io import answer, resumed, side_file
from .options import Family, Fresh, Json, Out

if TYPE_CHECKING:
    from ..parallel import OnProgress
    from ..validate.check import Compared
    from ..validate.kernels import KernelValidation

validate_app = App(help="Compare predictions with measurements.", rich_markup_mode=None)
app.add_typer(validate_app, name="validate")

Host = Annotated[str | None, typer.Option(metavar="HOST", help="How the GPUs were connected (list hosts).")]


@validate_app.callback(invoke_without_command=True)
def validate_top(context: typer.Context) -> None:
    """Compare predictions with measurements."""
    if context.invoked_subcommand is None:
        raise InputError("opbyte validate", "needs what to validate: opbyte validate kernels TABLES")


def _tell(make: Callable[..., Compared], out: str | None, as_json: bool, **how: Any) -> None:
    """Tell a validation; exits 1 where a check is past its bounds."""
    if not answer(make, out, as_json, **how).passed:
        raise typer.Exit(1)


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
    from ..validate.kernels import validate_kernels

    def make(progress: OnProgress | None) -> KernelValidation:
        with side_file(predictions, "--predictions") as write:
            result = validate_kernels(tables or (), family=family, transfer=transfer, progress=progress)
            write("csv", result.predictions, SIGNIFICANT)
        return result

    _tell(make, out, as_json, counted="tables")


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
    from ..validate.configs import validate_configs

    def make() -> Compared:
        with side_file(predictions, "--predictions") as write, side_file(fit, "--fit") as write_fit:
            result = validate_configs(tables, constants, fit is not None, date)
            write("frame", result.predictions, SIGNIFICANT)
            write_fit("text", lambda: result.fitted)
        return result

    _tell(make, out, as_json)


@validate_app.command("constants")
def validate_constants_command(
    tables: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Tables of serving points or static batches (CSV).")
    ],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Constants fitted to deployments, each by what was left out of its fit: a model, a device, a source."""
    from ..validate.constants import validate_constants

    _tell(partial(validate_constants, tables), out, as_json, counted="points")


@validate_app.command("dram")
def validate_dram_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Table of DRAM runs (CSV).")],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """The DRAM model against runs of other simulators; exits 1 past its tolerances."""
    from ..validate.dram import validate_dram

    _tell(partial(validate_dram, file), out, as_json)


@validate_app.command("points")
def validate_points_command(
    points: Annotated[str, typer.Argument(metavar="FILE", help="Table of serving points (CSV).")],
    fresh: Fresh = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Simulate deployments whose TTFT and TPOT were measured, one a row."""
    from ..validate.deployments import validate_points

    parts = resumed("validate-points", fresh)
    _tell(partial(validate_points, points, kept=parts), out, as_json, counted="points", kept=parts)


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
    from datetime import UTC, datetime

    from ..validate.power import validate_power

    def make() -> Compared:
        with side_file(fit, "--fit") as write:
            date = None if fit is None else datetime.now(UTC).date().isoformat()
            result = validate_power(tables, cross_validate, date)
            write("text", lambda: result.fitted)
        return result

    _tell(make, None, as_json)


@validate_app.command("runs")
def validate_runs_command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Runs, static batches, folders of them.")],
    seeds: Annotated[int, typer.Option(help="Samples of each run's requests.")] = 3,
    host: Host = None,
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", help="At most N rows of a table for each model and device, spread over the load."),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Fit the widths of intervals to the other sources, and score this one; each: all in turn.",
        ),
    ] = None,
    fit: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the widths of intervals fitted to these runs (YAML).")
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Replay measured runs: errors and interval coverage by source, device, model, engine and concurrency."""
    from ..validate.runs import validate_runs
    from ..validate.runs.widths import widths_yaml

    def make(progress: OnProgress | None) -> Compared:
        with side_file(fit, "--fit") as write_fit:
            result = validate_runs(
                paths, seeds=seeds, host=host, sample=sample, without=without, fit=fit is not None, progress=progress
            )
            write_fit("text", lambda: widths_yaml(result.widths, result.entries) if result.widths else "")
        return result

    _tell(make, out, as_json, counted="runs")


@validate_app.command("schedules")
def validate_schedules_command(
    schedules: Annotated[str, typer.Argument(metavar="FILE", help="Workloads with vLLM's plans, one a line (JSON).")],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Compare plans of policy vllm with vLLM's own scheduler; exits 1 if any differs."""
    from ..validate.schedules import validate_schedules

    _tell(partial(validate_schedules, schedules), out, as_json, counted="schedules")


@validate_app.command("serving")
def validate_serving_command(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders of runs.")],
    no_kernels: Annotated[bool, typer.Option("--no-kernels", help="Use only the device's models.")] = False,
    host: Host = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Replay measured serving runs, request by request."""
    from ..validate.serving import validate_serving

    _tell(partial(validate_serving, folders, kernels=not no_kernels, host=host), out, as_json)
