"""``opbyte simulate``."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .io import folder, progress, show, warn
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
    Policy,
    Pp,
    Router,
    Routing,
    Tp,
    count,
    real,
)


@app.command("simulate")
def simulate_command(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Catalog name, config.json or its folder.")
    ] = None,
    system: Annotated[str | None, typer.Option(help=SYSTEM, metavar="SYSTEM")] = None,
    trace: Annotated[
        str | None, typer.Option(help="Request trace, file or folder.", metavar="PATH")
    ] = None,
    rate: Annotated[float | None, real("Requests per second.")] = None,
    closed_loop: Annotated[int | None, count("Requests kept in flight.")] = None,
    requests: Annotated[int | None, count("Most requests.")] = None,
    input_len: Annotated[int | None, count("Mean prompt tokens.")] = None,
    output_len: Annotated[int | None, count("Mean output tokens.")] = None,
    lengths: Annotated[
        str | None,
        typer.Option(help="fixed, lognormal, gaussian or uniform.", metavar="NAME"),
    ] = None,
    turns: Annotated[float | None, real("Mean requests of a session (generated).")] = None,
    think: Annotated[float | None, real("Mean pause before the next of a session [s].")] = None,
    cv: Annotated[float | None, real("Variation of arrival gaps (gamma).")] = None,
    rate_scale: Annotated[float | None, real("Play a trace this much faster.")] = None,
    spread: Annotated[
        float | None, real("Spread equal time stamps over this many seconds.")
    ] = None,
    duration: Annotated[float | None, real("Only arrivals before this [s].")] = None,
    policy: Policy = None,
    engine: Annotated[
        str | None, typer.Option(help="Settings of a real engine (engine.json).", metavar="FILE")
    ] = None,
    kernels: Annotated[
        str | None, typer.Option(help="Measured kernel tables of the device.", metavar="PATH")
    ] = None,
    costs: Costs = "auto",
    token_budget: Annotated[int | None, count("Tokens of one step.")] = None,
    max_seqs: Annotated[int | None, count("Sequences running at once.")] = None,
    max_model_len: Annotated[int | None, count("Longest request accepted.")] = None,
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
    seeds: Annotated[int | None, count("Run this many seeds.")] = None,
    router: Router = None,
    replicas: Annotated[int | None, count("Copies of the whole system.")] = None,
    fail: Annotated[
        list[str] | None,
        typer.Option(help="A replica's failure, as often as wanted.", metavar="REPLICA@SECONDS"),
    ] = None,
    mtbf: Annotated[float | None, real("Mean time between a replica's failures [s].")] = None,
    repair: Annotated[float | None, real("Time a failed replica is away [s].")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Serve requests; without arguments: Mixtral-8x7B on 4 Duplex against 4 GPUs."""
    from ...simulator.serving.fleet import parse_fleet
    from ..answers.simulate import simulate

    with folder(out) as files:
        with progress() as watch:
            result = simulate(
                model, system, trace=trace, rate=rate, closed_loop=closed_loop,
                requests=requests, input_len=input_len, output_len=output_len, lengths=lengths,
                turns=turns, think=think, cv=cv, rate_scale=rate_scale, spread=spread, duration=duration, policy=policy,
                engine=engine, kernels=kernels, costs=costs,
                token_budget=token_budget, max_seqs=max_seqs, max_model_len=max_model_len,
                routing=routing, dtype=dtype, kv_dtype=kv_dtype, tp=tp, dp=dp, ep=ep, pp=pp,
                placement=placement, attention=attention, warmup=warmup, seed=seed, seeds=seeds,
                keep_stages=files is not None, progress=watch,
                fleet=parse_fleet(router, replicas, fail or (), mtbf, repair),
            )  # fmt: skip
        if files:
            from ..report.files import write_simulation

            write_simulation(result, files)
    warn(result.warnings)
    show(result, as_json)
