"""``opbyte afd``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.scenario.options import DeployOptions
from .app import app
from .io import answer
from .options import Json, Model, Out, count, names_of, real, takes

ON = {"metavar": "SYSTEM", "autocompletion": names_of("systems")}


@app.command("afd")
@takes([*options_of(DeployOptions)], without=("experts_resident", "expert_cache", "expert_predictor",
                                              "expert_horizon", "pp", "strict"))  # fmt: skip
def afd_command(
    model: Model,
    options: dict[str, Any],
    attention_on: Annotated[str, typer.Option(help="System of all but routed experts.", **ON)],
    experts_on: Annotated[str, typer.Option(help="System of the routed experts.", **ON)],
    batch: Annotated[int | None, count("Decoding sequences; 256 without it.")] = None,
    context: Annotated[int, count("Tokens each has cached.")] = 4096,
    tpot: Annotated[float | None, real("Instead: most time of a step [s].")] = None,
    micro_batches: Annotated[int | None, count("How many; 1 to 4 without it.")] = None,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|RATE[,US]",
            help="Link between both: as --kv-link of two pools; the slower network without it.",
        ),
    ] = None,
    against: Annotated[str | None, typer.Option(help="System whose devices do both, to compare with.", **ON)] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Attention and experts on separate devices: step time, what limits it, best batch."""
    from ..answers.afd import afd

    make = partial(
        afd, model, attention_on, experts_on, batch=batch, context=context, tpot=tpot,
        micro_batches=micro_batches, link=link, against=against, **options,
    )  # fmt: skip
    answer(make, out, as_json)
