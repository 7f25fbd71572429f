"""RMoE (arXiv 2408.06793): what a router with a memory costs in weights, time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from opbyte.extend import ModelSpec, Table, load_system
from opbyte.extend.models import Attention, Layer, Numerics, RecurrentExperts
from opbyte.extend.training import TrainingOptions, TrainingStep, training_deployment, training_layout, training_step

from .published import Prediction, paper

SYSTEM, RANKS = "a100-80gb-x8", 8
STATE = 128
"""Width of the recurrent state: it follows from the printed 0.47 M router weights of the small model."""
LENGTH, MICRO = 1024, 8
"""Tokens of a sequence, and sequences of a device at once [assumed]."""
VOCABULARY, EXPERT_WIDTH = 96_000, 344
"""Sizes of the large model, which follow from its printed 0.53 and 0.91 billion: 12 more experts a layer are 0.38."""


def layers(count: int, hidden: int, top_k: int, width: int, heads: int, state: int) -> tuple[Layer, ...]:
    """Return layers of 16 experts; the first layer has the recurrent cell, which all layers share."""
    attention = Attention(hidden, heads, heads, hidden // heads)
    return tuple(
        Layer(attention, RecurrentExperts(hidden, 16, top_k, width, router_width=state, owns_cell=not i), 2, hidden)
        for i in range(count)
    )


@cache
def model(size: str, recurrent: bool) -> ModelSpec:
    """Return the small or large model, with a recurrent or a plain router."""
    state = STATE if recurrent else 0
    shape = {"small": (8, 352, 2, 704, 8), "large": (24, 1280, 4, EXPERT_WIDTH, 20)}[size]
    return ModelSpec(
        f"rmoe-{size}" if recurrent else f"smoe-{size}", "built here", shape[1], VOCABULARY,
        layers(*shape, state), False, Numerics("bf16", kv="bf16"), source="RMoE (arXiv 2408.06793)",
    )  # fmt: skip


def router_weights(size: str, recurrent: bool) -> int:
    """Return the weights of all routers; the shared cell counts once."""
    return sum(
        layer.ffn.router_weights for layer in model(size, recurrent).layers if isinstance(layer.ffn, RecurrentExperts)
    )


@cache
def step(recurrent: bool, micro: int = MICRO) -> TrainingStep:
    """Return a training step of the large model on eight devices, each with all experts."""
    spec, system = model("large", recurrent), load_system(SYSTEM)
    options = TrainingOptions(micro * RANKS, LENGTH, micro_batch=micro)
    layout = training_layout(spec, system, options, tp=1, ep=1)
    return training_step(training_deployment(spec, system, layout), layout, options)


MICRO_BATCHES = (1, 4, 8, 16)


def predictions() -> Iterator[Prediction]:
    """Predict all rows from the models' weights and from training steps."""
    for name, recurrent in (("plain", False), ("rmoe", True)):
        yield Prediction(f"rmoe.small.router_params.{name}", router_weights("small", recurrent) / 1e6)
    added = model("large", True).total_params - model("large", False).total_params
    yield Prediction("rmoe.large.added_params", added / 1e6)
    plain, ours = step(False), step(True)
    yield Prediction("rmoe.large.step_time_ratio", ours.seconds / plain.seconds)
    yield Prediction("rmoe.large.memory_ratio", ours.memory.total / plain.memory.total)


def _batches() -> Table:
    rows = []
    for micro in MICRO_BATCHES:
        plain, ours = step(False, micro), step(True, micro)
        rows.append({"sequences": micro, "plain_ms": plain.seconds * 1e3,
                     "recurrent_ms": ours.seconds * 1e3, "time_ratio": ours.seconds / plain.seconds,
                     "memory_GiB": ours.memory.total / 2**30,
                     "memory_ratio": ours.memory.total / plain.memory.total})  # fmt: skip
    return Table("batches", f"Training the large model on {RANKS} devices, by sequences of each", rows)


def _models() -> Table:
    rows = [
        {"router": name, "router_1e6": router_weights("large", recurrent) / 1e6,
         "active_1e9": model("large", recurrent).active_params / 1e9,
         "total_1e9": model("large", recurrent).total_params / 1e9}
        for name, recurrent in (("plain", False), ("recurrent", True))
    ]  # fmt: skip
    return Table("models", "Weights of the large model", rows)


def _drawn() -> Table:
    """Return the milliseconds of a step by the busiest device's work for the plot."""
    used = [part for part, took in step(True).by_stream.items() if took > 0]
    rows = [
        {"case": name, **{part: step(recurrent).by_stream[part] * 1e3 for part in used}}
        for name, recurrent in (("plain router", False), ("recurrent router", True))
    ]
    return Table("steps", "A training step of the large model (ms)", rows)


paper(
    "rmoe", "RMoE: weights, training time and memory of a recurrent router over a plain one.", predictions,
    tables=(_batches, _models), drawn={"steps": _drawn}, runs=2 * len(MICRO_BATCHES),
)  # fmt: skip
