"""Union-of-Experts (arXiv 2503.02495): heads and MLP cut into slices of which a token uses some."""

from __future__ import annotations

from dataclasses import replace

from opbyte.extend import Batch, LayerKind, Loads, ModelSpec, Run, Table, load_model
from opbyte.extend.models import Layer, SlicedAttention, SlicedFeedForward, is_routed

from .moe_graphs import GRAPHS, Graph
from .published import Prediction

MODEL, TOKENS = "union-of-experts-small", 1024
LENGTHS = (64, 256, TOKENS, 4096)
MATMULS = ("gemm", "experts", "attention_prefill")
ASSUMPTIONS = (
    (
        f"matmuls of one layer with its router, a causal sequence of {TOKENS} tokens; sizes are assumed "
        "(width 512, 8 heads, MLP 4 times as wide, 8 slices)"
    ),
)


@GRAPHS.register("uoe")
def uoe() -> Graph:
    """Predict Union-of-Experts: a token uses half of the slices of heads and MLP."""
    spec = load_model(MODEL)
    (layer, _), *_ = spec.groups
    assert layer.ffn is not None
    parts = {"mlp": (layer.ffn,), "attention": (layer.mixer,), "": layer.parts}
    rows = tuple(
        Prediction(f"uoe.flop_share{name and f'.{name}'}", share(spec, chosen, TOKENS))
        for name, chosen in parts.items()
    )
    return Graph(rows, (_lengths(spec),), ASSUMPTIONS)


def whole_model() -> ModelSpec:
    """Return the model with all slices chosen, which is a plain transformer."""
    spec = load_model(MODEL)

    def change(layer: Layer) -> Layer:
        return replace(layer, mixer=_whole(layer.mixer), ffn=layer.ffn and _whole(layer.ffn))

    return replace(spec.map_layers(change), name="union-of-experts-whole")


def share(spec: ModelSpec, parts: tuple[LayerKind, ...], tokens: int) -> float:
    """Return the FLOP of some parts over the FLOP of the same parts with all slices."""
    return sum(_flops(spec, part, tokens) for part in parts) / sum(_flops(spec, _whole(part), tokens) for part in parts)


def _flops(spec: ModelSpec, part: LayerKind, tokens: int) -> float:
    m = Batch.of([], [(tokens, 0)]).moments(spec.windows)
    loads = None
    if is_routed(part):
        routed = part.routed
        loads = Loads.expected(tokens, routed.top_k, routed.experts, routed.experts)
    ops = part.ops(m, Run(spec.numerics), loads)
    return sum(op.flops for op in ops if op.kind in MATMULS)


def _whole(part: LayerKind) -> LayerKind:
    """Return the part with all its slices, which is the plain layer."""
    assert isinstance(part, SlicedAttention | SlicedFeedForward)
    return replace(part, top_k=part.slices)


def _lengths(spec: ModelSpec) -> Table:
    (layer, _), *_ = spec.groups
    rows = [
        {"tokens": tokens, "attention": share(spec, (layer.mixer,), tokens), "both": share(spec, layer.parts, tokens)}
        for tokens in LENGTHS
    ]
    return Table("uoe_lengths", "Union-of-Experts: FLOP at half of the slices, by length", rows)
