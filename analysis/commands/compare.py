"""``opbyte compare``."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .io import folder, show, warn
from .options import Dtype, Json, KvDtype, Model, Out, Routing, count


@app.command("compare")
def compare_command(
    model: Model,
    systems: Annotated[
        str, typer.Option(help="Systems of any kind, commas between.", metavar="A,B,C")
    ],
    batch: Annotated[int, count("Decoding sequences of a language model.")] = 1,
    context: Annotated[int, count("Tokens each has cached.")] = 2048,
    images: Annotated[int, count("Images of an encoder.")] = 1,
    layers: Annotated[int | None, count("Only this many layers, without the head.")] = None,
    routing: Routing = "uniform",
    schedule: Annotated[
        str, typer.Option(help="FPGA: reordered, cache or on-chip.", metavar="NAME")
    ] = "reordered",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    costs: Annotated[
        str, typer.Option(help="auto (fitted kernel models) or roofline.", metavar="MODEL")
    ] = "auto",
    framework: Annotated[
        str | None, typer.Option(help="Whose kernels GPUs run.", metavar="NAME")
    ] = None,
    seed: Annotated[int, count("Seed of an FPGA's expert draws.")] = 0,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """One model on GPUs, processing in memory and FPGAs: time, energy, memory, bounds."""
    from ..answers.compare import compare

    names = [name.strip() for name in systems.split(",") if name.strip()]
    with folder(out) as files:
        result = compare(
            model, names, batch=batch, context=context, images=images, layers=layers,
            routing=routing, schedule=schedule, dtype=dtype, kv_dtype=kv_dtype, costs=costs,
            framework=framework, seed=seed,
        )  # fmt: skip
        if files:
            from ..plots import save
            from ..report import report

            figure = result.drawings()[0].figure
            files.write("compare.png", lambda path: save(figure, path))
            files.text("report.html", report(result))
            files.answer("compare.json", result)
    warn(result.warnings)
    show(result, as_json)
