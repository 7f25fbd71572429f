"""``opbyte placement``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from ...simulator.option import options_of
from ...simulator.scenario.options import DeployOptions
from .app import app
from .io import answer
from .options import Json, Model, Out, System, count, takes


@app.command("placement")
@takes([*options_of(DeployOptions)], without=("experts_resident", "expert_cache", "expert_predictor", "expert_horizon"))
def placement_command(
    model: Model,
    system: System,
    options: dict[str, Any],
    batch: Annotated[int, count("Decoding sequences in the system.")] = 64,
    context: Annotated[int, count("Tokens each has cached.")] = 2048,
    prefill: Annotated[int, count("Tokens of one prompt in the step.")] = 0,
    period: Annotated[int | None, count("Steps between two placements of experts.")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Place experts on devices: loads before and after, memory, step time, what moving costs."""
    from ..answers.placement import placement

    make = partial(placement, model, system, batch=batch, context=context, prefill=prefill, period=period, **options)
    answer(make, out, as_json)
