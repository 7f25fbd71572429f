"""``opbyte tune``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import answer
from .options import Json, Out, count

if TYPE_CHECKING:
    from ..answers.tune_host import HostTune

HOST = "host"


@app.command("tune")
def tune_command(
    kernel: Annotated[str, typer.Argument(help="fused_moe, gemm, ...; see opbyte list forms.")],
    shape: Annotated[str | None, typer.Option(help="Keys and values: tokens=64,experts=128,topk=8,...")] = None,
    shapes: Annotated[
        str | None, typer.Option(metavar="FILE", help="CSV: device, keys of the shape, maybe a configuration.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Catalog device or a YAML file; host: this machine's CPU.")] = None,
    top: Annotated[int | None, count("Configurations to show: 10, of each line of a file 20.")] = None,
    grid: Annotated[str | None, typer.Option(metavar="FILE", help="CSV of tiles and groups to search instead.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a number of the device.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="A configuration to compare: block_m=64,block_n=128,...")] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Halve and double every number of the device.")
    ] = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Kernel parameters by the tile model: ranked configurations, and what bounds them."""
    from ..answers.tune import TOP, tune
    from ..answers.tune_many import TOP_OF_FILE, tune_rows
    from ..report.tiles import write_tune
    from ..show.pairs import pairs, real_numbers, whole_numbers

    replaced = real_numbers(pairs(",".join(set_ or ()), "--set"), "--set")
    _check(top, shape, shapes)
    if shapes is not None:
        _refuse({"--sensitivity": sensitivity, "--config": config}, "needs --shape, not --shapes")
        many = partial(tune_rows, kernel, shapes, device=device, top=top or TOP_OF_FILE, grid=grid, set_=replaced)
        answer(many, out, as_json, write=write_tune)
        return
    if device is None:
        raise InputError("--device", "is needed with --shape")
    if device == HOST:
        others = {"--grid": grid, "--set": set_, "--config": config, "--sensitivity": sensitivity}
        answer(_here(kernel, shape or "", top or TOP, others), out, as_json, write=write_tune)
        return
    one = partial(
        tune, kernel, pairs(shape or "", "--shape"), device, top=top or TOP, grid=grid, set_=replaced,
        sensitivity=sensitivity,
        config=None if config is None else whole_numbers(pairs(config, "--config"), "--config"),
    )  # fmt: skip
    answer(one, out, as_json, write=write_tune)


def _here(kernel: str, shape: str, top: int, others: Mapping[str, object]) -> Callable[..., HostTune]:
    """What ranks the configurations of a CPU kernel on this machine."""
    from ..answers.tune_host import tune_host
    from ..show.pairs import pairs

    _refuse(others, "has no part in kernels of this machine's CPU")
    return partial(tune_host, kernel, pairs(shape, "--shape"), top=top)


def _refuse(given: Mapping[str, object], reason: str) -> None:
    """Refuse options that have no part in what is asked."""
    for option, value in given.items():
        if value:
            raise InputError(option, reason)


def _check(top: int | None, shape: str | None, shapes: str | None) -> None:
    """Refuse what is out of range, and both or neither of a shape and a file of shapes."""
    if top is not None and not 1 <= top <= 100_000:
        raise InputError("--top", f"must be from 1 to 100000, not {top}")
    if (shape is None) == (shapes is None):
        raise InputError("opbyte tune", "needs one of --shape and --shapes")
