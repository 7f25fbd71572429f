"""``opbyte capacity``."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .io import counting, folder, show
from .options import (
    Attention,
    Costs,
    Dp,
    Dtype,
    Ep,
    Json,
    KvDtype,
    Out,
    Placement,
    Policy,
    Pp,
    Router,
    Routing,
    Tp,
    count,
    real,
)


@app.command("capacity")
def capacity_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Catalog name, config.json or its folder.")
    ],
    systems: Annotated[str, typer.Option(metavar="LIST", help="Systems, parted by commas.")],
    slo: Annotated[
        str, typer.Option(metavar="LIST", help="For example ttft_p99=1,tbt_p99=0.05 [s].")
    ],
    trace: Annotated[
        str | None, typer.Option(help="Request trace, played faster or slower.", metavar="PATH")
    ] = None,
    requests: Annotated[int | None, count("Requests of each simulation (1,000).")] = None,
    input_len: Annotated[int | None, count("Mean prompt tokens.")] = None,
    output_len: Annotated[int | None, count("Mean output tokens.")] = None,
    lengths: Annotated[
        str | None, typer.Option(help="fixed, lognormal, gaussian or uniform.", metavar="NAME")
    ] = None,
    cv: Annotated[float | None, real("Variation of arrival gaps (gamma).")] = None,
    spread: Annotated[float | None, real("Spread equal time stamps over this many s.")] = None,
    policy: Policy = None,
    engine: Annotated[
        str | None, typer.Option(help="Settings of a real engine (engine.json).", metavar="FILE")
    ] = None,
    kernels: Annotated[
        str | None, typer.Option(help="Measured kernel tables of the device.", metavar="PATH")
    ] = None,
    costs: Costs = "auto",
    router: Router = None,
    replicas: Annotated[int | None, count("Copies of the whole system.")] = None,
    token_budget: Annotated[int | None, count("Tokens of one step.")] = None,
    max_seqs: Annotated[int | None, count("Sequences running at once.")] = None,
    routing: Routing = "uniform",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    tp: Tp = None,
    dp: Dp = None,
    ep: Ep = None,
    pp: Pp = None,
    placement: Placement = None,
    attention: Attention = None,
    warmup: Annotated[int | None, count("Completions left out of the metrics.")] = None,
    seed: Annotated[int, count("Seed of requests and routing.")] = 0,
    tolerance: Annotated[float, real("Find the load to this fraction.")] = 0.02,
    workers: Annotated[int | None, count("Processes; one a system by default.")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Highest load within a service level, its energy and cost, and what limits it."""
    from ...simulator.serving.fleet import parse_fleet
    from ..studies.capacity import capacity

    with folder(out) as files:
        with counting("systems") as told:
            result = capacity(
                model, systems, slo, trace=trace, requests=requests, input_len=input_len,
                output_len=output_len, lengths=lengths, cv=cv, spread=spread, policy=policy,
                token_budget=token_budget, max_seqs=max_seqs, routing=routing, dtype=dtype,
                kv_dtype=kv_dtype, tp=tp, dp=dp, ep=ep, pp=pp, placement=placement, attention=attention,
                warmup=warmup, seed=seed, engine=engine, kernels=kernels, costs=costs,
                fleet=parse_fleet(router, replicas), tolerance=tolerance, workers=workers, told=told,
            )  # fmt: skip
        if files:
            from ..report.files import write_capacity

            write_capacity(result, files)
    show(result, as_json)
