"""Work of attention of which a token uses some heads, from layer objects and a device's price list."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from opbyte.extend import Batch, Loads, ModelSpec, Op, Run, deploy, load_model, load_system
from opbyte.extend.models import Attention, HeadExperts, Layer, Numerics
from opbyte.extend.systems import explicit_stage

MODEL, SYSTEM = "moh-llama-3-8b", "h100-x1"
HEADS, WIDTH = 32, 64
"""Heads of the timed kernel, and columns of each."""


def heads_of(percent: int) -> int:
    """Whole heads nearest to a percentage of all."""
    return round(HEADS * percent / 100)


def head_work_share(tokens: int, percent: int) -> float:
    """FLOP of scores and weighted sums of a prompt with some heads over those with all."""
    base = Attention(HEADS * WIDTH, HEADS, HEADS, WIDTH)
    some = HeadExperts(base, heads_of(percent))
    m, run = Batch.of([], [(tokens, 0)]).moments((0,)), Run(Numerics())
    loads = Loads.expected(tokens, some.top_k, HEADS, HEADS)
    return _scores(some.ops(m, run, loads)) / _scores(base.ops(m, run, None))


def _scores(ops: list[Op]) -> float:
    return sum(op.flops for op in ops if op.kind == "attention_prefill")


def all_heads(spec: ModelSpec) -> ModelSpec:
    """The same model with plain attention of all heads."""

    def change(layer: Layer) -> Layer:
        assert isinstance(layer.mixer, HeadExperts)
        return replace(layer, mixer=layer.mixer.base)

    return replace(spec.map_layers(change), name="llama-3-8b")


@cache
def model(routed: bool) -> ModelSpec:
    """The model, or the one with all heads."""
    return load_model(MODEL) if routed else all_heads(load_model(MODEL))


def kv_read_share() -> float:
    """Keys and values that a decode reads with routed heads over those of all heads."""
    m = Batch.of([4095]).moments((0,))
    read = []
    for routed in (True, False):
        mixer = model(routed).layers[0].mixer
        loads = Loads.expected(1.0, 8, 16, 16)
        ops = mixer.ops(m, Run(model(routed).numerics), loads if routed else None)
        read.append(sum(op.kv_read_bytes for op in ops))
    return read[0] / read[1]


def step_parts(routed: bool, batch: Batch, costs: str) -> dict[str, float]:
    """Seconds of a step on one device by part, on rooflines or with kernels as they are ("auto")."""
    d = deploy(model(routed), load_system(SYSTEM), costs=costs)
    stage = explicit_stage(d, [batch], expected=True)
    out = {"scores": 0.0, "projections": 0.0, "all else": 0.0}
    for (layer, kind), took in stage.times(lambda p: (p.op.layer, p.op.kind)).items():
        inside = "scores" if kind.startswith("attention_") else "projections"
        out[inside if layer == "attention" else "all else"] += took
    return out
