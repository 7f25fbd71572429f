"""``opbyte plan``."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.scenario import Scenario
from ...workloads.errors import visible
from . import panels
from .app import app
from .io import answer
from .options import Emit, Json, Model, Out, Why, check_emit, count, real, takes

OWN = (
    "model", "system", "rate", "rate_scale", "closed_loop", "replicas", "engine", "warmup", "stop",
    "duration", "tp", "dp", "ep", "pp", "dtype", "kv_dtype", "policy", "token_budget",
)  # fmt: skip
"""Options of a scenario that this command takes in another form, or that the plan sets."""
APART = ("two-pools", "experts-apart")
"""Parts of a scenario that no plan has."""
GOAL = "devices, cost (dollars an hour), energy (of a token) or carbon."


def _several(text: str) -> Any:
    return typer.Option(metavar="LIST", help=text, rich_help_panel=panels.OPTIONS["deployment"])


@app.command("plan")
@takes([p for p in options_of(Scenario) if p.group not in APART], without=OWN)
def plan_command(
    model: Model,
    systems: Annotated[
        str, typer.Option(metavar="LIST", help="Comma-separated devices (replicas of 1 to 16) and systems.")
    ],
    slo: Annotated[str, typer.Option(metavar="LIST", help="For example ttft_p99=1,tpot_p99=0.05 [s].")],
    options: dict[str, Any],
    load: Annotated[float | None, real("Requests per second in all; a trace has its own.")] = None,
    goal: Annotated[str, typer.Option(metavar="NAME", help=GOAL)] = "devices",
    budget: Annotated[float | None, real("Most dollars an hour.")] = None,
    most_devices: Annotated[int, count("Most devices of all copies.")] = 64,
    sure: Annotated[
        float | None, real("Probability that the SLO is met, such as 0.8; without it the median is used.")
    ] = None,
    search: Annotated[
        str | None, typer.Option(metavar="LIST", help="Also tried: pools, drafts, tiers, caps, copies.")
    ] = None,
    tp: Annotated[str | None, _several("Tensor-parallel degrees to try.")] = None,
    dp: Annotated[str | None, _several("Data-parallel ranks to try.")] = None,
    ep: Annotated[str | None, _several("Expert groups to try.")] = None,
    pp: Annotated[str | None, _several("Pipeline stages to try.")] = None,
    dtype: Annotated[str | None, _several("Formats of weights to try: own, fp8, ...")] = None,
    kv_dtype: Annotated[str | None, _several("Formats of the cache to try: own, fp8, ...")] = None,
    policy: Annotated[str | None, _several("Policies to try; vllm without it.")] = None,
    token_budget: Annotated[str | None, _several("Tokens of a step to try; the policy's own without it.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The best alone: no intervals, no reason.")] = False,
    workers: Annotated[int | None, count("Processes; one a system by default.")] = None,
    why: Why = False,
    emit: Emit = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Fewest devices, or least cost, energy or carbon, that meet an SLO at a load."""
    from ..studies.plan import plan

    check_emit(emit)
    varied: dict[str, Any] = {"tp": tp, "dp": dp, "ep": ep, "pp": pp, "dtype": dtype, "kv_dtype": kv_dtype,
              "policy": policy, "token_budget": token_budget, "goal": goal}  # fmt: skip
    make = partial(
        plan, model, systems, slo, load=load, budget=budget, most_devices=most_devices, sure=sure,
        search=search, quick=quick, on_row=lambda row: print(f"opbyte: {visible(row)}", file=sys.stderr, flush=True),
        workers=workers, **options, **varied,
    )  # fmt: skip
    answer(lambda **more: replace(make(**more), why=why, emit=emit), out, as_json, counted="systems")
