"""Capacity and decoding rate of a model with a span for each head, and of the one without."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from opbyte.extend import Batch, Deployment, ModelSpec, deploy, load_model, load_system
from opbyte.extend.models import Layer, SpanAttention
from opbyte.extend.systems import CacheSettings, explicit_stage, kv_rules, sequences_that_fit

SYSTEM, USABLE = "a100-80gb-x1", 84e9
"""Where the paper ran, and bytes for weights, caches and activations there (see the assumptions)."""
MODELS = {"7b": "vicuna-7b-moa", "13b": "vicuna-13b-moa"}
HALF = 0.5
"""Share of the context that StreamingLLM's heads keep, all alike."""
PLAIN, MOA, STREAMING = "vllm", "moa", "streaming"
"""All keys and prompts in chunks; a span for each head, or the same for all, and prompts whole."""


def with_spans(spec: ModelSpec, kind: str, length: int) -> ModelSpec:
    """The model as one of the three has it, for sequences of `length` tokens."""

    def change(layer: Layer) -> Layer:
        mixer = layer.mixer
        assert isinstance(mixer, SpanAttention)
        if kind == PLAIN:
            return replace(layer, mixer=mixer.base)
        if kind == STREAMING:
            return replace(layer, mixer=replace(mixer, spans=((mixer.base.heads, 0.0, HALF),)))
        return layer

    return spec.map_layers(change).within(length)


@cache
def deployed(size: str, kind: str, length: int) -> Deployment:
    """A model on the paper's device."""
    return deploy(with_spans(load_model(MODELS[size]), kind, length), load_system(SYSTEM))


def batch_that_fits(size: str, kind: str, length: int) -> int:
    """Sequences of `length` tokens whose caches, and whole prompts where uncut, fit."""
    room = 0 if kind == PLAIN else length
    rules = kv_rules(deployed(size, kind, length), CacheSettings(memory_bytes=USABLE, prompt_room=room))
    return sequences_that_fit(rules, length)


def step_parts(size: str, kind: str, length: int, batch: int) -> dict[str, float]:
    """Seconds of a decoding step at `length` tokens of context by part."""
    stage = explicit_stage(deployed(size, kind, length), [Batch.of([length - 1] * batch)])
    out = {"keys and values": 0.0, "all else": 0.0}
    for op, took in stage.times(lambda p: p.op.kind).items():
        out["keys and values" if op == "attention_decode" else "all else"] += took
    return out


def tokens_per_s(size: str, kind: str, length: int, batch: int) -> float:
    """Decoding rate of a batch."""
    return batch / sum(step_parts(size, kind, length, batch).values())


def kv_read_bytes(size: str, kind: str, length: int) -> float:
    """Keys and values that a decode reads at `length` tokens of context."""
    stage = explicit_stage(deployed(size, kind, length), [Batch.of([length - 1])])
    return sum(p.op.kv_read_bytes * p.count for p in stage.ops)


def densities(size: str, length: int) -> list[float]:
    """Share of the context that each layer's heads keep on average."""
    out = []
    for layer in deployed(size, MOA, length).model.layers:
        assert isinstance(layer.mixer, SpanAttention)
        windows = layer.mixer.windows
        out.append(sum(w or length for w in windows) / (len(windows) * length))
    return out
