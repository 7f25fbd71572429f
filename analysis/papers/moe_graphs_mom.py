"""MoM (arXiv 2502.13685): linear attention with several states, against plain attention."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from opbyte.extend import Batch, ModelSpec, Table, deploy, load_model, load_system
from opbyte.extend.models import Attention, Layer, Memories
from opbyte.extend.systems import explicit_stage

from .moe_graphs import COSTS, GRAPHS, Graph
from .published import Prediction

MODEL, SYSTEM = "mom-340m", "h100-x1"
BATCH = 64
"""Sequences of the timed row [assumed]."""
CONTEXTS = (256, 512, 1024, 2048, 4096, 8192, 16384)
BATCHES = (1, 8, BATCH, 256)
ASSUMPTIONS = (
    f"steps decode {BATCH} sequences on one H100, rooflines of both; plain attention has the states' heads and widths",
    "keys and values are projected once for all states; short convolutions are left out",
)


@GRAPHS.register("mom")
def mom() -> Graph:
    """Predict MoM: a token uses some of several linear-attention states."""
    states, plain = model(), attention_model()
    state_bytes = states.state_bytes_per_sequence
    rows = (
        Prediction("mom.state_MiB", state_bytes / 2**20),
        Prediction("mom.breakeven_tokens", state_bytes / plain.kv_bytes_per_token),
        Prediction("mom.step_time_over_attention.4k", step_s(states, BATCH, 4096) / step_s(plain, BATCH, 4096)),
    )
    return Graph(rows, (_steps(),), ASSUMPTIONS, 2 * len(CONTEXTS) * len(BATCHES))


@cache
def model() -> ModelSpec:
    """Return the model with linear-attention states."""
    return load_model(MODEL)


@cache
def attention_model() -> ModelSpec:
    """Return the model with plain attention of equal heads."""

    def change(layer: Layer) -> Layer:
        mixer = layer.mixer
        assert isinstance(mixer, Memories)
        heads, width = mixer.net.value_heads, mixer.net.value_dim
        return replace(layer, mixer=Attention(mixer.hidden, heads, heads, width))

    return replace(model().map_layers(change), name="attention-340m")


def step_s(spec: ModelSpec, batch: int, context: int) -> float:
    """Return the time of a decoding step at `context` tokens, the new token included [s]."""
    d = deploy(spec, load_system(SYSTEM), costs=COSTS)
    return explicit_stage(d, [Batch.of([context - 1] * batch)]).seconds


def _steps() -> Table:
    rows = []
    for context in CONTEXTS:
        row: dict[str, float] = {"context": context}
        for batch in BATCHES:
            ratio = step_s(model(), batch, context) / step_s(attention_model(), batch, context)
            row[f"batch {batch}"] = ratio
        rows.append(row)
    return Table("mom_steps", "MoM: step with states over step with plain attention", rows)
