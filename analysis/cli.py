"""The command line: thin, and light to start; every command is a function of the library.

Exit codes: 0 done, 1 a check failed, 2 bad input or usage (one line on stderr).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..workloads.errors import InputError, nearest

if TYPE_CHECKING:
    from ..simulator.engine import Progress
    from .result import Result

app = typer.Typer(
    name="opbyte",
    help="Simulate LLM and mixture-of-experts inference on xPU, PIM and FPGA devices.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

KINDS = ("models", "devices", "systems", "policies", "placements", "routings", "kernels",
         "experiments")  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Out = Annotated[
    str | None, typer.Option("--out", metavar="DIR", help="Folder for tables and figures.")
]
Routing = Annotated[
    str, typer.Option(help="uniform, measured, power_law:S or trace:FILE.", metavar="ROUTING")
]
Dtype = Annotated[str | None, typer.Option(help="Format of linear weights, e.g. fp8.")]
KvDtype = Annotated[str | None, typer.Option(help="Format of the KV cache, e.g. fp8.")]
Tp = Annotated[int | None, typer.Option("--tp", help="Tensor-parallel devices per rank.")]
Dp = Annotated[int | None, typer.Option("--dp", help="Data-parallel ranks.")]
Ep = Annotated[int | None, typer.Option("--ep", help="Groups that experts are dealt to.")]
Placement = Annotated[
    str | None,
    typer.Option(help="xpu-only, op-per-byte, fastest, paper or co-process."),
]
Attention = Annotated[str | None, typer.Option(help="flash or unfused.")]


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Answer for all commands."""
    if version:
        from .. import __version__

        print(f"opbyte {__version__}")
        raise typer.Exit()


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(help=" | ".join(KINDS))], as_json: Json = False
) -> None:
    """List what the catalog holds."""
    from .catalog import catalog

    rows = catalog(kind)
    if as_json:
        _print_json({"kind": kind, "names": [row["name"] for row in rows], "items": rows})
    else:
        _table(rows) if rows else print(f"no {kind} yet")


@app.command("inspect")
def inspect_command(
    model: Annotated[str, typer.Argument(help="Catalog name, config.json or its folder.")],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Count a model's parameters, KV cache and state."""
    from .inspect import inspect

    folder = _folder(out)
    result = inspect(model)
    if folder:
        folder.json("inspect.json", result.to_dict())
    _show(result, as_json)


@app.command("roofline")
def roofline_command(
    model: Annotated[str, typer.Argument(help="Catalog name, config.json or its folder.")],
    system: Annotated[str, typer.Option(help="Catalog name, YAML or DEVICE-xN.")],
    batch: Annotated[int, typer.Option(help="Decoding sequences in the system.")] = 64,
    context: Annotated[int, typer.Option(help="Tokens each has cached.")] = 2048,
    prefill: Annotated[int, typer.Option(help="Tokens of one prompt in the step.")] = 0,
    routing: Routing = "uniform",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    tp: Tp = None,
    dp: Dp = None,
    ep: Ep = None,
    placement: Placement = None,
    attention: Attention = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Cost every op of one step: Op/B, processor, time and what bounds it."""
    from .roofline import roofline

    folder = _folder(out)
    result = roofline(
        model, system, batch=batch, context=context, prefill=prefill, routing=routing,
        dtype=dtype, kv_dtype=kv_dtype, tp=tp, dp=dp, ep=ep, placement=placement,
        attention=attention,
    )  # fmt: skip
    _warn(result.warnings)
    if folder:
        from .files import write_roofline

        write_roofline(result, folder)
    title = f"{result.deployment.model.name} on {result.deployment.system.name}"
    stage = f"batch {batch}, context {context}, prefill {prefill}"
    _show(result, as_json, f"{title}, {stage}: {1e3 * result.step_seconds:.4g} ms a step")


@app.command("simulate")
def simulate_command(
    model: Annotated[
        str | None, typer.Argument(help="Catalog name, config.json or its folder.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="Catalog name, YAML or DEVICE-xN.")] = None,
    trace: Annotated[str | None, typer.Option(help="Request trace, file or folder.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second.")] = None,
    closed_loop: Annotated[int | None, typer.Option(help="Requests kept in flight.")] = None,
    requests: Annotated[int | None, typer.Option(help="Most requests.")] = None,
    input_len: Annotated[int | None, typer.Option(help="Mean prompt tokens.")] = None,
    output_len: Annotated[int | None, typer.Option(help="Mean output tokens.")] = None,
    lengths: Annotated[
        str | None, typer.Option(help="fixed, lognormal, gaussian or uniform.")
    ] = None,
    cv: Annotated[float | None, typer.Option(help="Variation of arrival gaps (gamma).")] = None,
    rate_scale: Annotated[float | None, typer.Option(help="Play a trace this much faster.")] = None,
    spread: Annotated[
        float | None, typer.Option(help="Spread equal time stamps over this many seconds.")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Only arrivals before this [s].")] = None,
    policy: Annotated[str, typer.Option(help="chunked or mixed.")] = "chunked",
    token_budget: Annotated[int | None, typer.Option(help="Tokens of one step.")] = None,
    max_seqs: Annotated[int | None, typer.Option(help="Sequences running at once.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Longest request accepted.")] = None,
    routing: Routing = "uniform",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    tp: Tp = None,
    dp: Dp = None,
    ep: Ep = None,
    placement: Placement = None,
    attention: Attention = None,
    warmup: Annotated[int, typer.Option(help="Completions left out of the metrics.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of requests and routing.")] = 0,
    seeds: Annotated[int | None, typer.Option(help="Run this many seeds.")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Serve requests; without arguments: Mixtral-8x7B on 4 Duplex against 4 GPUs."""
    from .simulate import simulate

    folder = _folder(out)
    with _progress() as progress:
        result = simulate(
            model, system, trace=trace, rate=rate, closed_loop=closed_loop, requests=requests,
            input_len=input_len, output_len=output_len, lengths=lengths, cv=cv,
            rate_scale=rate_scale, spread=spread, duration=duration, policy=policy,
            token_budget=token_budget, max_seqs=max_seqs, max_model_len=max_model_len,
            routing=routing, dtype=dtype, kv_dtype=kv_dtype, tp=tp, dp=dp, ep=ep,
            placement=placement, attention=attention, warmup=warmup, seed=seed, seeds=seeds,
            keep_stages=folder is not None, progress=progress,
        )  # fmt: skip
    from .files import simulations_of, write_simulation

    for each in simulations_of(result):
        _warn(each.warnings)
    if folder:
        write_simulation(result, folder)
    _show(result, as_json, _heading(result), _closing(result))


@app.command("calibrate")
def calibrate_command(
    tables: Annotated[list[str], typer.Argument(help="Kernel tables (CSV), or folders of them.")],
    device: Annotated[str, typer.Option(help="Catalog device, or all of the tables.")],
    date: Annotated[str | None, typer.Option(help="Date to store, YYYY-MM-DD.")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Fit a device's kernel models to measured tables; --out writes its YAML."""
    from .calibrate import calibrate

    folder = _folder(out)
    watched = sys.stderr.isatty()
    result = calibrate(
        tables, device, date=date,
        progress=(lambda text: print(f"fitting {text}", file=sys.stderr)) if watched else None,
    )  # fmt: skip
    _warn_skipped(result.skipped)
    if folder:
        for name in result.fits:
            folder.text(f"{name}.yaml", result.yaml(name))
        folder.text("calibration.md", result.report())
    _show(result, as_json)


validate_app = typer.Typer(
    help="Compare predictions with measurements.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(validate_app, name="validate")


@validate_app.command("kernels")
def validate_kernels_command(
    tables: Annotated[list[str], typer.Argument(help="Kernel tables (CSV), or folders of them.")],
    predictions: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write every row's prediction (CSV).")
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Kernel models against measured tables; exits 1 past the bounds in a device's YAML."""
    from .validate_kernels import validate_kernels

    folder = _folder(out)
    target = _file(predictions)
    result = validate_kernels(tables)
    _warn_skipped(result.skipped)
    if target:
        target[0].table(target[1], result.predictions())
    if folder:
        folder.json("kernels.json", result.to_dict())
        folder.table("predictions.csv", result.predictions())
    _show(result, as_json, closing=f"{len(result.skipped)} rows or files skipped")
    if not result.passed:
        raise typer.Exit(1)


def _file(path: str | None) -> tuple[Any, str] | None:
    """The folder of a result file, opened, and the file's name in it."""
    if path is None:
        return None
    from pathlib import Path

    if Path(path).is_dir() or not Path(path).name:
        raise InputError(f"--predictions {path!r}", "is a folder; name a file in it")
    return _folder(str(Path(path).parent)), Path(path).name


def _warn_skipped(skipped: Sequence[object], most: int = 20) -> None:
    _warn([f"skipped {row}" for row in skipped[:most]])
    if len(skipped) > most:
        _warn([f"skipped {len(skipped) - most} more rows or files (all with --json)"])


def _heading(result: Result) -> str | None:
    from .simulate import Simulation

    if not isinstance(result, Simulation):
        return None
    run = result.run
    return f"{run.deployment.model.name} on {run.deployment.system.name}, {run.policy.name}"


def _closing(result: Result) -> str | None:
    from .simulate import Comparison

    return result.verdict() if isinstance(result, Comparison) else None


def _folder(out: str | None) -> Any:
    if out is None:
        return None
    from .output import OutputFolder

    return OutputFolder(out)


def _show(
    result: Result, as_json: bool, heading: str | None = None, closing: str | None = None
) -> None:
    if as_json:
        _print_json(result.to_dict())
        return
    if heading:
        print(heading)
    _table(result.rows())
    if closing:
        print(closing)


def _print_json(data: Mapping[str, Any]) -> None:
    from .output import to_json

    print(to_json(data))


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table, as wide as they need when nobody watches."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from .result import show

    if not rows:
        return
    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
    table = Table(box=SIMPLE_HEAD)
    numeric = {k for k in rows[0] if all(isinstance(r[k], (int, float)) for r in rows)}
    for key in rows[0]:
        table.add_column(escape(key), justify="right" if key in numeric else "left")
    for row in rows:
        table.add_row(*(escape(show(value)) for value in row.values()))
    console.print(table)


def _warn(warnings: Sequence[str]) -> None:
    for text in warnings:
        print(f"opbyte: warning: {text}", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A progress bar on stderr when somebody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} requests"), BarColumn(),
        TextColumn("{task.fields[clock]:,.0f} s simulated"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, clock=0.0)

        def update(done: int, known: int, clock: float) -> None:
            bar.update(task, completed=done, total=known, clock=clock)

        yield update


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; never shows a traceback for bad input."""
    command = typer.main.get_command(app)
    try:
        status = command.main(arguments, prog_name="opbyte", standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2)
    except typer.Abort:
        _fail("interrupted", 130)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe left; nothing to tell it
        raise SystemExit(1) from None
    except Exception as error:
        message = getattr(error, "format_message", None)  # usage errors of the option parser
        if message is None:
            raise
        _fail(_usage(message()), 2)
    raise SystemExit(status if isinstance(status, int) else 0)


def _usage(message: str) -> str:
    """Usage errors in one line, with the nearest command where one is mistyped."""
    line = " ".join(message.split())
    if line.startswith("No such command"):
        name = line.split("'")[1] if "'" in line else ""
        names = [c.name or "" for c in app.registered_commands]
        return f"no such command {name!r}{nearest(name, names)}"
    return line or "needs a command; see opbyte --help"


def _fail(message: str, code: int) -> None:
    print(f"opbyte: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
