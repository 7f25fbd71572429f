"""``opbyte search``."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .io import counting, folder, show
from .options import Dtype, Json, KvDtype, Model, Out, count, real


@app.command("search")
def search_command(
    model: Model,
    board: Annotated[str, typer.Option(help="FPGA device, by name or YAML.", metavar="DEVICE")],
    objective: Annotated[str, typer.Option(help="latency or energy.", metavar="NAME")] = "latency",
    fill: Annotated[float, real("Share of DSPs and on-chip memory to use.")] = 1.0,
    batch: Annotated[int, count("Decoding sequences of a language model.")] = 1,
    context: Annotated[int, count("Tokens each has cached.")] = 2048,
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Find arrays and buffers of an FPGA for an encoder, a streaming engine for a language model."""
    from ..studies.search import search

    with folder(out) as files:
        with counting("designs") as told:
            result = search(model, board, objective=objective, fill=fill, batch=batch,
                            context=context, dtype=dtype, kv_dtype=kv_dtype, told=told)  # fmt: skip
        if files:
            from ..plots import save
            from ..plots.designs import pareto_front

            title = f"{result.model.name} on {result.device.name}: designs on the Pareto front"
            figure = pareto_front(result.frame(), result.published.to_dict(),
                                  result.best.to_dict(), title)  # fmt: skip
            files.write("front.png", lambda path: save(figure, path))
            files.answer("search.json", result)
    show(result, as_json)
