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


def flag(text: str) -> Any:
    """An option that is said, denied or left to its default."""
    return typer.Option(help=text)


def word(metavar: str, text: str) -> Any:
    """An option that takes text."""
    return typer.Option(metavar=metavar, help=text)


@app.command("train")
@takes([*options_of(DeployOptions)], without=("kernels", "kv_dtype", "strict", "power_cap", "clock"))
def train_command(
    model: Model,
    system: System,
    options: dict[str, Any],
    batch: Annotated[int | None, count("Sequences of a step over all devices.")] = None,
    seq: Annotated[int | None, count("Tokens of each; the model's longest, 4,096 at most.")] = None,
    micro_batch: Annotated[int | None, count("Sequences that a rank works on at once; 1.")] = None,
    zero: Annotated[int | None, count("Stage of ZeRO, 0 to 3; 1.")] = None,
    recompute: Annotated[str | None, word("WHAT", "none, auto (default: as little as fits), selective, full, full:N, or modules.")] = None,
    sequence_parallel: Annotated[bool | None, flag("Split norms and routing along the sequence (default).")] = None,
    interleave: Annotated[int | None, count("Parts of the model on each pipeline stage; 1.")] = None,
    pipeline_layout: Annotated[str | None, word("TEXT", "Layers of each part in Megatron's letters, as 'Et|(tt|)*30mL'.")] = None,
    cp: Annotated[int | None, count("Context parallel: ranks that share each sequence; 1.")] = None,
    overlap_experts: Annotated[bool | None, flag("Send experts' tokens beside another micro-batch's passes.")] = None,
    overlap_tp: Annotated[bool | None, flag("Run tensor-parallel exchanges beside products; in dense models if not said.")] = None,
    graphs: Annotated[str | None, word("WHAT", "CUDA graphs of layers with experts: auto (default), none, partial or full.")] = None,
    mtp: Annotated[int | None, count("Multi-token-prediction heads; as many as the model's file states.")] = None,
    dropout: Annotated[bool | None, flag("Masks of dropped activations are kept.")] = None,
    recipe: Annotated[str | None, word("FILE", "Configuration of Megatron-Bridge (YAML, JSON) or torchtitan (TOML); options stand before it.")] = None,
    search: Annotated[bool, typer.Option("--search", help="Try degrees, micro-batches and recomputation.")] = False,
    as_json: Json = False,
    out: Out = None,
) -> None:  # fmt: skip
    """Cost one training step: time, tokens/s, MFU, memory by kind, what is exposed."""
    from ..answers.train import train
    from ..answers.train_recipe import train_recipe
    from ..answers.train_search import fastest_training

    asked = {
        "batch": batch, "seq": seq, "micro_batch": micro_batch, "zero": zero, "recompute": recompute, "sequence_parallel": sequence_parallel,
        "interleave": interleave, "pipeline_layout": pipeline_layout, "cp": cp, "overlap_experts": overlap_experts,
        "overlap_tp": overlap_tp, "graphs": graphs, "mtp": mtp, "dropout": dropout, **options,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    if recipe is not None:
        answer(partial(train_recipe, model, system, recipe, search=search, **given), out, as_json)
    else:
        answer(partial(fastest_training if search else train, model, system, **given), out, as_json)
