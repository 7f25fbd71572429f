"""FLOPs of a token and seconds of a request for models with attention experts, from model objects."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from opbyte.extend import Batch, Deployment, Loads, ModelSpec, Run, deploy, load_model, load_system
from opbyte.extend.models import Layer, MixtureOfExperts, is_routed, layer_ops
from opbyte.extend.systems import explicit_stage

SYSTEM = "h100-x1"
PROMPT, NEW = 256, 16
"""Tokens of a request whose time the paper prints, and those of a sequence whose FLOPs it prints."""
MATMULS = ("gemm", "experts", "attention_prefill", "attention_decode")
"""Kinds of op that the paper's counts have."""


def with_top_k(spec: ModelSpec, top_k: int) -> ModelSpec:
    """The model with another number of experts of a token in its feed-forward part."""

    def change(layer: Layer) -> Layer:
        assert isinstance(layer.ffn, MixtureOfExperts)
        return replace(layer, ffn=replace(layer.ffn, top_k=top_k))

    return spec.map_layers(change)


def token_flops(spec: ModelSpec, tokens: int = PROMPT) -> dict[str, float]:
    """FLOP of one token in one layer by part, mean over a sequence of so many."""
    m, run = Batch.of([], [(tokens, 0)]).moments(spec.windows), Run(spec.numerics)
    ((layer, _),) = spec.groups
    (routed,) = (part.routed for part in layer.parts if is_routed(part))
    loads = Loads.expected(tokens, routed.top_k, routed.experts, routed.experts)
    out = {"attention": 0.0, "feed-forward": 0.0, "routers": 0.0}
    for name, ops in zip(("attention", "feed-forward"), layer_ops(layer, m, run, loads), strict=True):
        for op in ops:
            if op.kind in MATMULS:
                out["routers" if op.name == "router" else name] += op.flops / tokens
    return out


def counted_twice(spec: ModelSpec) -> int:
    """Weights that the paper counts beside those of the model: the tied table as head again."""
    return spec.vocab * spec.hidden if spec.tied else 0


@cache
def deployed(model: str) -> Deployment:
    """A model on one device."""
    return deploy(load_model(model), load_system(SYSTEM))


def request_s(model: str, sequences: int = 1) -> float:
    """Seconds of a prompt and the new tokens after it, of so many sequences at once."""
    d = deployed(model)
    batches = [Batch.of([], [(PROMPT, 0)] * sequences)]
    batches += [Batch.of([PROMPT + i] * sequences) for i in range(NEW - 1)]
    return sum(explicit_stage(d, [batch], expected=True).seconds for batch in batches)
