"""RMoE by simulation: weights of recurrent and plain routers, and training steps with either."""

from __future__ import annotations

from functools import cache

from opbyte.extend import ModelSpec, load_system
from opbyte.extend.models import Attention, Layer, Numerics, RecurrentExperts
from opbyte.extend.training import TrainingOptions, TrainingStep, training_deployment, training_layout, training_step

SYSTEM, RANKS = "a100-80gb-x8", 8
STATE = 128
"""Width of the recurrent state: it follows from the printed 0.47 M router weights of the small model."""
LENGTH, MICRO = 1024, 8
"""Tokens of a sequence, and sequences of a device at once [assumed]."""
VOCABULARY, EXPERT_WIDTH = 96_000, 344
"""Of the large model, from its printed 0.53 and 0.91 billion: 12 more experts a layer are 0.38."""


def layers(count: int, hidden: int, top_k: int, width: int, heads: int, state: int) -> tuple[Layer, ...]:
    """Layers of 16 experts; the first owns the one cell."""
    attention = Attention(hidden, heads, heads, hidden // heads)
    return tuple(
        Layer(attention, RecurrentExperts(hidden, 16, top_k, width, router_width=state, owns_cell=not i), 2, hidden)
        for i in range(count)
    )


@cache
def model(size: str, recurrent: bool) -> ModelSpec:
    """The small or large model with one kind of router."""
    state = STATE if recurrent else 0
    shape = {"small": (8, 352, 2, 704, 8), "large": (24, 1280, 4, EXPERT_WIDTH, 20)}[size]
    return ModelSpec(
        f"rmoe-{size}" if recurrent else f"smoe-{size}", "built here", shape[1], VOCABULARY,
        layers(*shape, state), False, Numerics("bf16", kv="bf16"), source="RMoE (arXiv 2408.06793)",
    )  # fmt: skip


def router_weights(size: str, recurrent: bool) -> int:
    """Weights of all routers, the cell once."""
    return sum(
        layer.ffn.router_weights for layer in model(size, recurrent).layers if isinstance(layer.ffn, RecurrentExperts)
    )


@cache
def step(recurrent: bool, micro: int = MICRO) -> TrainingStep:
    """A training step of the large model on eight devices, all experts on each."""
    spec, system = model("large", recurrent), load_system(SYSTEM)
    options = TrainingOptions(micro * RANKS, LENGTH, micro_batch=micro)
    layout = training_layout(spec, system, options, tp=1, ep=1)
    return training_step(training_deployment(spec, system, layout), layout, options)
