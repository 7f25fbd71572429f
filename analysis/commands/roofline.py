"""``opbyte roofline``."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .io import folder, show, warn
from .options import (
    SYSTEM,
    Attention,
    Costs,
    Dp,
    Dtype,
    Ep,
    Json,
    KvDtype,
    Out,
    Placement,
    Pp,
    Routing,
    Tp,
    count,
)


@app.command("roofline")
def roofline_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Catalog name, config.json or its folder.")
    ],
    system: Annotated[str, typer.Option(help=SYSTEM, metavar="SYSTEM")],
    batch: Annotated[int, count("Decoding sequences in the system.")] = 64,
    context: Annotated[int, count("Tokens each has cached.")] = 2048,
    prefill: Annotated[int, count("Tokens of one prompt in the step.")] = 0,
    routing: Routing = "uniform",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    tp: Tp = None,
    dp: Dp = None,
    ep: Ep = None,
    pp: Pp = None,
    placement: Placement = None,
    attention: Attention = None,
    costs: Costs = "auto",
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Cost every op of one step: Op/B, processor, time and what bounds it."""
    from ..answers.roofline import roofline

    with folder(out) as files:
        result = roofline(
            model, system, batch=batch, context=context, prefill=prefill, routing=routing,
            dtype=dtype, kv_dtype=kv_dtype, tp=tp, dp=dp, ep=ep, pp=pp, placement=placement,
            attention=attention, costs=costs,
        )  # fmt: skip
        if files:
            from ..report.files import write_roofline

            write_roofline(result, files)
    warn(result.warnings)
    show(result, as_json)
