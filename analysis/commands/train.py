"""``opbyte train``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.scenario.options import DeployOptions
from .app import app
from .io import answer
from .options import Json, Model, Out, System, count, takes


@app.command("train")
@takes([*options_of(DeployOptions)], without=("kernels", "kv_dtype", "strict", "power_cap", "clock"))
def train_command(
    model: Model,
    system: System,
    options: dict[str, Any],
    batch: Annotated[int, count("Sequences of a step over all devices.")],
    seq: Annotated[int | None, count("Tokens of each; the model's longest, 4,096 at most.")] = None,
    micro_batch: Annotated[int | None, count("Sequences that a rank works on at once; 1.")] = None,
    zero: Annotated[int, count("Stage of ZeRO, 0 to 3.")] = 1,
    recompute: Annotated[
        str | None, typer.Option(metavar="WHAT", help="none, selective (also without it) or full.")
    ] = None,
    sequence_parallel: Annotated[bool, typer.Option(help="Split norms and routing along the sequence.")] = True,
    interleave: Annotated[int, count("Parts of the model on each pipeline stage.")] = 1,
    dropout: Annotated[bool, typer.Option(help="Masks of dropped activations are kept.")] = False,
    search: Annotated[bool, typer.Option("--search", help="Try degrees, micro-batches and recomputation.")] = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Cost one training step: time, tokens/s, MFU, memory by kind, what is exposed."""
    from ..answers.train import train
    from ..answers.train_search import fastest_training

    chosen: dict[str, Any] = {"micro_batch": micro_batch, "recompute": recompute}
    make = partial(
        fastest_training if search else train, model, system, batch=batch, seq=seq, zero=zero,
        sequence_parallel=sequence_parallel, interleave=interleave, dropout=dropout,
        **{name: value for name, value in chosen.items() if value is not None}, **options,
    )  # fmt: skip
    answer(make, out, as_json)
