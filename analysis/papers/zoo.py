"""Mixture-of-experts designs against the baselines of their papers: the time saved by a saved FLOP.

Quality is the papers' claim and not an output; each design is compared with its paper's baseline. Times are rooflines
of one device, so that the kernel fits of rare layers have no influence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from opbyte.extend import ModelSpec, load_model
from opbyte.extend.answers import roofline
from opbyte.extend.figures import Picture
from opbyte.extend.models import FeedForward

from . import mixlora, moe_graphs_layers, rmoe

SYSTEM = "h200-x1"
STEPS = {
    "prompt of 2,048": {"batch": 0, "context": 0, "prefill": 2048},
    "32 decodes at 2,048": {"batch": 32, "context": 2048, "prefill": 0},
    "1 decode at 2,048": {"batch": 1, "context": 2048, "prefill": 0},
}
"""Costed steps by their label in the table."""


@dataclass(frozen=True, slots=True)
class Design:
    """A mixture-of-experts model, and the baseline that its paper compares it with.

    Attributes
    ----------
    name, beside : str
    model, plain : callable
        Make them.
    """

    name: str
    beside: str
    model: Callable[[], ModelSpec]
    plain: Callable[[], ModelSpec]


def _mixlora(base_once: bool) -> ModelSpec:
    spec = load_model("llama-2-7b")
    experts = mixlora.experts_of(spec, base_once)
    return spec.map_parts(FeedForward, lambda _: experts)


def _of(name: str, beside: str, model: str, plain: str) -> Design:
    return Design(name, beside, partial(load_model, model), partial(load_model, plain))


DESIGNS = (
    _of("Mixtral, 2 of 8 experts", "dense 13B", "mixtral-8x7b", "llama-2-13b"),
    _of("DeepSeekMoE, 2 + 6 of 64", "dense 7B", "deepseek-moe-16b", "deepseek-llm-7b"),
    _of("PR-MoE, pyramid and residual", "MoE of 128", "dsmoe-1.3b-pr", "dsmoe-1.3b-moe128"),
    _of("MoH, 24 of 32 heads", "all heads", "moh-llama-3-8b", "llama-3-8b"),
    _of("MoA, half of the keys", "all keys", "vicuna-7b-moa", "llama-2-7b"),
    _of("BAM, 4 attention experts", "one attention", "bam-small", "btx-small"),
    _of("BAM, shared keys and values", "one attention", "bam-small-shared-kv", "btx-small"),
    Design("Union-of-Experts, half the slices", "all slices",
           partial(load_model, moe_graphs_layers.SLICED), moe_graphs_layers.whole_model),
    Design("MoM, 2 + 1 of 5 states", "attention", moe_graphs_layers.states_model, moe_graphs_layers.attention_model),
    Design("Mixture-of-Mamba, two modalities", "Mamba",
           moe_graphs_layers.modal_model, moe_graphs_layers.mamba_model),
    Design("MixLoRA, base once", "base", partial(_mixlora, True), partial(load_model, "llama-2-7b")),
    Design("MixLoRA, base by expert", "base", partial(_mixlora, False), partial(load_model, "llama-2-7b")),
    Design("RMoE, recurrent router", "plain router",
           partial(rmoe.model, "large", True), partial(rmoe.model, "large", False)),
)  # fmt: skip


def zoo(steps: Sequence[str] = tuple(STEPS)) -> pd.DataFrame:
    """Return every design over its baseline, in every step.

    Returns
    -------
    DataFrame
        Columns design, beside, step; parameters, FLOPs, bytes and time, each over the other model's; op_per_byte
        [FLOP/B] of the design and microseconds of its step.
    """
    rows = []
    for design in DESIGNS:
        design_model, plain = design.model(), design.plain()
        for step in steps:
            new, old = _step(design_model, step), _step(plain, step)
            rows.append(
                {
                    "design": design.name, "beside": design.beside, "step": step,
                    "parameters": design_model.total_params / plain.total_params,
                    "FLOPs": new["flops"] / old["flops"], "bytes": new["bytes"] / old["bytes"],
                    "time": new["seconds"] / old["seconds"],
                    "op_per_byte": new["flops"] / new["bytes"], "us": new["seconds"] * 1e6,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _step(model: ModelSpec, step: str) -> dict[str, float]:
    """Return the FLOP, bytes and seconds of a step."""
    routing = moe_graphs_layers.MIXED if model.name.startswith("mixture-of-mamba") else "uniform"
    step_found = roofline(model, SYSTEM, costs="roofline", routing=routing, **STEPS[step])  # type: ignore[arg-type]  # whole numbers
    return {
        "flops": sum(op.flops * op.count for op in step_found.ops),
        "bytes": sum(op.bytes * op.count for op in step_found.ops),
        "seconds": step_found.step_seconds,
    }


def picture(table: pd.DataFrame) -> Picture:
    """Plot the ratios of `zoo`."""
    from .figures.papers import bought

    return Picture(bought(table, "FLOPs, bytes and time over the other model's"))
