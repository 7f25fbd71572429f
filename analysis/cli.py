"""The command line: thin, and light to start; every command is a function of the library.

Exit codes: 0 done, 1 a check failed, 2 bad input or usage (one line on stderr).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..workloads.errors import InputError
from .usage import number, usage_line, whole

if TYPE_CHECKING:
    from ..simulator.engine import Progress
    from .output import OutputFolder
    from .result import Result

app = typer.Typer(
    name="opbyte",
    help="Simulate LLM and mixture-of-experts inference on xPU, PIM and FPGA devices.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=False,
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
Dtype = Annotated[
    str | None, typer.Option(help="Format of linear weights, e.g. fp8.", metavar="FORMAT")
]
KvDtype = Annotated[
    str | None, typer.Option(help="Format of the KV cache, e.g. fp8.", metavar="FORMAT")
]
Tp = Annotated[
    int | None, typer.Option(parser=whole, metavar="N", help="Tensor-parallel devices per rank.")
]
Dp = Annotated[int | None, typer.Option(parser=whole, metavar="N", help="Data-parallel ranks.")]
Ep = Annotated[
    int | None, typer.Option(parser=whole, metavar="N", help="Groups that experts are dealt to.")
]
Placement = Annotated[
    str | None,
    typer.Option(help="xpu-only, op-per-byte, fastest, paper or co-process.", metavar="RULE"),
]
Attention = Annotated[str | None, typer.Option(help="flash or unfused.", metavar="ALGORITHM")]
SYSTEM = "Catalog name, YAML or DEVICE-xN."


def _count(text: str) -> Any:
    return typer.Option(parser=whole, metavar="N", help=text)


def _real(text: str) -> Any:
    return typer.Option(parser=number, metavar="X", help=text)


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Answer for all commands."""
    if version:
        from .. import __version__

        print(f"opbyte {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        names = ", ".join(_names())
        raise InputError("opbyte", f"needs a command: {names}; see opbyte --help")


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=", ".join(KINDS))],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """List what the catalog holds."""
    from .catalog import catalog

    with _folder(out) as folder:
        rows = catalog(kind)
        data = {"kind": kind, "names": [row["name"] for row in rows], "items": rows}
        if folder:
            folder.json(f"{kind}.json", data)
    if as_json:
        _print_json(data)
        return
    from .console import print_table, print_text

    print_table(rows) if rows else print(f"no {kind} yet")
    if kind == "systems":
        print_text("Any <device>-x<N> and <device>-<nodes>x<N> is a system too: h100-x4, h100-2x8.")


@app.command("inspect")
def inspect_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Catalog name, config.json or its folder.")
    ],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Count a model's parameters, KV cache and state."""
    from .inspect import inspect

    with _folder(out) as folder:
        result = inspect(model)
        if folder:
            folder.json("inspect.json", result.to_dict())
    _show(result, as_json)


@app.command("roofline")
def roofline_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Catalog name, config.json or its folder.")
    ],
    system: Annotated[str, typer.Option(help=SYSTEM, metavar="SYSTEM")],
    batch: Annotated[int, _count("Decoding sequences in the system.")] = 64,
    context: Annotated[int, _count("Tokens each has cached.")] = 2048,
    prefill: Annotated[int, _count("Tokens of one prompt in the step.")] = 0,
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

    with _folder(out) as folder:
        result = roofline(
            model, system, batch=batch, context=context, prefill=prefill, routing=routing,
            dtype=dtype, kv_dtype=kv_dtype, tp=tp, dp=dp, ep=ep, placement=placement,
            attention=attention,
        )  # fmt: skip
        if folder:
            from .files import write_roofline

            write_roofline(result, folder)
    _warn(result.warnings)
    _show(result, as_json)


@app.command("simulate")
def simulate_command(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Catalog name, config.json or its folder.")
    ] = None,
    system: Annotated[str | None, typer.Option(help=SYSTEM, metavar="SYSTEM")] = None,
    trace: Annotated[
        str | None, typer.Option(help="Request trace, file or folder.", metavar="PATH")
    ] = None,
    rate: Annotated[float | None, _real("Requests per second.")] = None,
    closed_loop: Annotated[int | None, _count("Requests kept in flight.")] = None,
    requests: Annotated[int | None, _count("Most requests.")] = None,
    input_len: Annotated[int | None, _count("Mean prompt tokens.")] = None,
    output_len: Annotated[int | None, _count("Mean output tokens.")] = None,
    lengths: Annotated[
        str | None,
        typer.Option(help="fixed, lognormal, gaussian or uniform.", metavar="NAME"),
    ] = None,
    cv: Annotated[float | None, _real("Variation of arrival gaps (gamma).")] = None,
    rate_scale: Annotated[float | None, _real("Play a trace this much faster.")] = None,
    spread: Annotated[
        float | None, _real("Spread equal time stamps over this many seconds.")
    ] = None,
    duration: Annotated[float | None, _real("Only arrivals before this [s].")] = None,
    policy: Annotated[str, typer.Option(help="chunked or mixed.", metavar="NAME")] = "chunked",
    token_budget: Annotated[int | None, _count("Tokens of one step.")] = None,
    max_seqs: Annotated[int | None, _count("Sequences running at once.")] = None,
    max_model_len: Annotated[int | None, _count("Longest request accepted.")] = None,
    routing: Routing = "uniform",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    tp: Tp = None,
    dp: Dp = None,
    ep: Ep = None,
    placement: Placement = None,
    attention: Attention = None,
    warmup: Annotated[int | None, _count("Completions left out of the metrics.")] = None,
    seed: Annotated[int, _count("Seed of requests and routing.")] = 0,
    seeds: Annotated[int | None, _count("Run this many seeds.")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Serve requests; without arguments: Mixtral-8x7B on 4 Duplex against 4 GPUs."""
    from .simulate import simulate

    with _folder(out) as folder:
        with _progress() as progress:
            result = simulate(
                model, system, trace=trace, rate=rate, closed_loop=closed_loop,
                requests=requests, input_len=input_len, output_len=output_len, lengths=lengths,
                cv=cv, rate_scale=rate_scale, spread=spread, duration=duration, policy=policy,
                token_budget=token_budget, max_seqs=max_seqs, max_model_len=max_model_len,
                routing=routing, dtype=dtype, kv_dtype=kv_dtype, tp=tp, dp=dp, ep=ep,
                placement=placement, attention=attention, warmup=warmup, seed=seed, seeds=seeds,
                keep_stages=folder is not None, progress=progress,
            )  # fmt: skip
        if folder:
            from .files import write_simulation

            write_simulation(result, folder)
    _warn(result.warnings)
    _show(result, as_json)


@app.command("reproduce")
def reproduce_command(
    experiment: Annotated[str, typer.Argument(help="A name of `opbyte list experiments`.")],
    seeds: Annotated[int, _count("Mean over this many seeds.")] = 5,
    routing: Routing = "uniform",
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Compare a paper's printed numbers with simulated ones."""
    from .reproduce import reproduce

    if not 1 <= seeds <= 1000:
        raise InputError("--seeds", f"must be in [1, 1000], not {seeds}")
    with _folder(out) as folder:
        with _counting("points") as told:
            result = reproduce(experiment, seeds=range(seeds), routing=routing, told=told)
        if folder:
            folder.json("rows.json", result.to_dict())
    _show(result, as_json)
    if result.failed:
        raise typer.Exit(1)


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

    watched = sys.stderr.isatty()
    with _folder(out) as folder:
        result = calibrate(
            tables, device, date=date,
            progress=(lambda text: print(f"fitting {text}", file=sys.stderr)) if watched else None,
        )  # fmt: skip
        if folder:
            for name in result.fits:
                folder.text(f"{name}.yaml", result.yaml(name))
            folder.text("calibration.md", result.report())
    _warn_skipped(result.skipped)
    _show(result, as_json)


validate_app = typer.Typer(help="Compare predictions with measurements.", rich_markup_mode=None)
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
    tables: Annotated[list[str], typer.Argument(help="Kernel tables (CSV), or folders of them.")],
    predictions: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write every row's prediction (CSV).")
    ] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Kernel models against measured tables; exits 1 past the bounds in a device's YAML."""
    from .output import SIGNIFICANT
    from .validate_kernels import validate_kernels

    with _folder(out) as folder, _folder(_parent(predictions), "--predictions") as beside:
        result = validate_kernels(tables)
        if beside and predictions:
            beside.csv(os.path.basename(predictions), result.predictions(), SIGNIFICANT)
        if folder:
            folder.json("kernels.json", result.to_dict())
            folder.csv("predictions.csv", result.predictions(), SIGNIFICANT)
    _warn_skipped(result.skipped)
    _show(result, as_json)
    if not result.passed:
        raise typer.Exit(1)


def _parent(path: str | None) -> str | None:
    """The folder of a result file."""
    if path is None:
        return None
    if os.path.isdir(path) or not os.path.basename(path):
        raise InputError(f"--predictions {path!r}", "is a folder; name a file in it")
    return os.path.dirname(path) or "."


def _warn_skipped(skipped: Sequence[object], most: int = 20) -> None:
    _warn([f"skipped {row}" for row in skipped[:most]])
    if len(skipped) > most:
        _warn([f"skipped {len(skipped) - most} more rows or files (all with --json)"])


def _folder(out: str | None, option: str = "--out") -> AbstractContextManager[OutputFolder | None]:
    """Open the folder of an option, before the work."""
    if out is None:
        return nullcontext()
    from .output import OutputFolder

    return OutputFolder(out, option)


def _show(result: Result, as_json: bool) -> None:
    """Print an answer: one JSON object, or its blocks with an empty line between."""
    if as_json:
        _print_json(result.to_dict())
        return
    from .console import print_table, print_text

    before: object = ""
    for i, block in enumerate(result.blocks()):
        if i and not (isinstance(block, str) and isinstance(before, str)):
            print()
        print_text(block) if isinstance(block, str) else print_table(block)
        before = block


def _print_json(data: Mapping[str, Any]) -> None:
    from .output import to_json

    print(to_json(data))


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

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting (the first run compiles)", total=None)

        def update(done: int, known: int, clock: float) -> None:
            text = f"{done:,} of {known:,} requests, {clock:,.0f} s simulated"
            bar.update(task, description=text, completed=done, total=known)

        yield update


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar over a known number of things, when somebody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; never shows a traceback for bad input."""
    command = typer.main.get_command(app)
    try:
        status = command.main(arguments, prog_name="opbyte", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except InputError as error:
        _fail(str(error), 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        _give_up_output()  # the reader of a pipe left; nothing to tell it
        raise SystemExit(1) from None
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename is not None:
            _fail(f"{error.filename}: cannot be used ({reason})", 2)
        _give_up_output()
        _fail(f"standard output: cannot be written ({reason})", 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not from the option parser
            raise
        _fail(usage_line(error, _names()), 2)
    raise SystemExit(status if isinstance(status, int) else 0)


def _give_up_output() -> None:
    """Send what is still buffered nowhere, or Python complains about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _names() -> list[str]:
    """All commands, those of groups with their group's name before them."""
    names = [command.name or "" for command in app.registered_commands]
    for group in app.registered_groups:
        inner = group.typer_instance.registered_commands if group.typer_instance else []
        names += [f"{group.name} {command.name}" for command in inner]
    return names


def _fail(message: str, code: int) -> None:
    print(f"opbyte: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
