"""``opbyte measure``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from ...workloads.errors import InputError
from .app import app
from .io import answer
from .options import Json, Out
from .usage import whole


@app.command("measure")
def measure_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[configs]", help="kernels: their times; configs: every configuration of those that have some."
        ),
    ] = "kernels",
    backend: Annotated[str, typer.Option(help="numba: this machine's processor; cupy: its GPU.")] = "numba",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer shapes and shorter times: under 3 minutes.")] = False,
    loop: Annotated[
        bool,
        typer.Option(
            "--loop",
            help="Then fit on half of the shapes, check on the others, and compare a small "
            "model's simulation with a run of it here.",
        ),
    ] = False,
    threads: Annotated[int | None, typer.Option(parser=whole, metavar="N", help="Threads; all without it.")] = None,
    only: Annotated[str, typer.Option(metavar="A,B", help="Kernels to measure, by module name.")] = "",
    compare: Annotated[bool, typer.Option("--compare", help="Also time the same by NumPy.")] = False,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Keep rows that other work on the machine disturbed.")
    ] = False,
    seed: Annotated[int, typer.Option(parser=whole, metavar="K", help="Seed of the inputs.")] = 0,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Measure real kernels here; --out writes their tables and this machine as a device."""
    from ..validate.measure import Measured, measure_machine

    names = tuple(map(str.strip, only.split(","))) if only.strip() else ()
    if what == "configs":
        _refuse_for_configs(loop, threads, compare, lenient)
        _configs(backend, quick, names, seed, out, as_json)
        return
    if what != "kernels":
        raise InputError(repr(what), "is nothing to measure; give configs, or nothing for kernels")
    make = partial(
        measure_machine, backend=backend, quick=quick, threads=threads, only=names, lenient=lenient,
        compare=compare, seed=seed, loop=loop,
    )  # fmt: skip
    answer(make, out, as_json, counted="shapes", write=Measured.write)


def _configs(backend: str, quick: bool, names: tuple[str, ...], seed: int, out: str | None, as_json: bool) -> None:
    """Search the configurations of the CPU's kernels, or of the GPU's."""
    if backend == "cupy":
        from ..validate.gpu_configs import GpuConfigs, measure_gpu_configs

        on_gpu = partial(measure_gpu_configs, quick=quick, only=names)
        answer(on_gpu, out, as_json, counted="shapes", write=GpuConfigs.write)
        return
    if backend != "numba":
        raise InputError(f"--backend {backend!r}", "must be numba or cupy")
    from ..validate.measure_configs import ConfigsMeasured, measure_configs

    search = partial(measure_configs, quick=quick, only=names, seed=seed)
    answer(search, out, as_json, counted="shapes", write=ConfigsMeasured.write)


def _refuse_for_configs(loop: bool, threads: int | None, compare: bool, lenient: bool) -> None:
    """Refuse what `measure configs` has no use for."""
    given = {"--loop": loop, "--threads": threads not in (None, 1), "--compare": compare, "--lenient": lenient}
    for option, is_given in given.items():
        if is_given:
            raise InputError(option, "has no part in measure configs, which searches on one thread")
