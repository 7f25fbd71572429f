"""MoA (arXiv 2406.14909): heads that keep different numbers of keys, so that larger batches fit.

Batches come from the KV capacity of the deployment, rates from an A100's cost models, for both sides of a ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from opbyte.extend import Batch, Deployment, LayerKind, ModelSpec, Table, deploy, load_model, load_system
from opbyte.extend.models import SpanAttention
from opbyte.extend.systems import CacheSettings, explicit_stage, kv_rules, sequences_that_fit

from .published import Prediction, paper

SYSTEM, USABLE_GB = "a100-80gb-x1", 84
"""Where the paper ran, and GB for weights, caches and activations there (see the assumptions)."""
MODELS = {"7b": "vicuna-7b-moa", "13b": "vicuna-13b-moa"}
HALF = 0.5
"""Share of the context that StreamingLLM's heads keep, all alike."""
PLAIN, MOA, STREAMING = "vllm", "moa", "streaming"
"""Engines: vLLM with all keys and chunked prompts; MoA and StreamingLLM with spans of keys and whole prompts."""


def with_spans(spec: ModelSpec, kind: str, length: int) -> ModelSpec:
    """Return the model with one engine's attention (vLLM, MoA or StreamingLLM) for sequences of `length` tokens."""

    def attention(mixer: SpanAttention) -> LayerKind:
        if kind == PLAIN:
            return mixer.base
        if kind == STREAMING:
            return replace(mixer, spans=((mixer.base.heads, 0.0, HALF),))
        return mixer

    return spec.map_parts(SpanAttention, attention).within(length)


@cache
def deployed(size: str, kind: str, length: int) -> Deployment:
    """Deploy a model with one engine's attention on the paper's device."""
    return deploy(with_spans(load_model(MODELS[size]), kind, length), load_system(SYSTEM))


def batch_that_fits(size: str, kind: str, length: int) -> int:
    """Return the number of sequences that fit memory with their caches, and whole prompts unless they are chunked."""
    room = 0 if kind == PLAIN else length
    rules = kv_rules(deployed(size, kind, length), CacheSettings(memory_bytes=USABLE_GB * 1e9, prompt_room=room))
    return sequences_that_fit(rules, length)


def step_parts(size: str, kind: str, length: int, batch: int) -> dict[str, float]:
    """Return the seconds of a decoding step at `length` tokens of context, for keys and values and for the rest."""
    stage = explicit_stage(deployed(size, kind, length), [Batch.of([length - 1] * batch)])
    out = {"keys and values": 0.0, "all else": 0.0}
    for op, took in stage.times(lambda p: p.op.kind).items():
        out["keys and values" if op == "attention_decode" else "all else"] += took
    return out


def tokens_per_s(size: str, kind: str, length: int, batch: int) -> float:
    """Return the output tokens per second of a batch in decode."""
    return batch / sum(step_parts(size, kind, length, batch).values())


def kv_read_bytes(size: str, kind: str, length: int) -> float:
    """Return the bytes of keys and values that a decode step reads at `length` tokens of context."""
    stage = explicit_stage(deployed(size, kind, length), [Batch.of([length - 1])])
    return sum(p.op.kv_read_bytes * p.count for p in stage.ops)


def densities(size: str, length: int) -> list[float]:
    """Return the share of the context that each layer's heads keep on average."""
    out = []
    for layer in deployed(size, MOA, length).model.layers:
        assert isinstance(layer.mixer, SpanAttention)
        windows = layer.mixer.windows
        out.append(sum(w or length for w in windows) / (len(windows) * length))
    return out


LENGTHS = {"4k": 4096, "8k": 8192, "16k": 16384}
PRINTED = {"4k": {PLAIN: 30, MOA: 50}, "8k": {PLAIN: 15, MOA: 25}, "16k": {PLAIN: 8, MOA: 12}}
"""Batches at which the paper timed the 7B model: inputs of the timed rows."""
CLOSE = 0.05
"""Tolerance for equal bytes of MoA and StreamingLLM."""


def predictions() -> Iterator[Prediction]:
    """Predict all rows from models, the memory capacity and the device."""
    for size in ("7b", "13b"):
        for name, length in LENGTHS.items():
            fits = {kind: batch_that_fits(size, kind, length) for kind in (PLAIN, MOA)}
            timed = PRINTED[name] if size == "7b" else fits
            yield from _rows(size, name, fits, timed)


def _rows(size: str, name: str, fits: dict[str, int], timed: dict[str, int]) -> Iterator[Prediction]:
    id, length = f"moa.{size}.{name}", LENGTHS[name]
    rates = {kind: tokens_per_s(size, kind, length, timed[kind]) for kind in (PLAIN, MOA)}
    for kind in (PLAIN, MOA):
        yield Prediction(f"{id}.batch.{kind}", float(fits[kind]))
    for kind in (PLAIN, MOA):
        yield Prediction(f"{id}.tokens_per_s.{kind}", rates[kind], f"batch {timed[kind]}")
    yield Prediction(f"{id}.moa_over_vllm", rates[MOA] / rates[PLAIN])
    if size == "7b":
        ours, theirs = (kv_read_bytes(size, kind, length) for kind in (MOA, STREAMING))
        same, result = abs(ours / theirs - 1) <= CLOSE, f"MoA reads {ours / theirs:.3f} of its bytes"
        yield Prediction(f"{id}.streaming_equals_moa_bytes", float(same), result)


def _parts() -> Table:
    """Split MoA's gain into the effect of fewer keys at an equal batch and the effect of the larger batch."""
    rows = []
    for size in ("7b", "13b"):
        for name, length in LENGTHS.items():
            fits = {kind: batch_that_fits(size, kind, length) for kind in (PLAIN, MOA)}
            base = tokens_per_s(size, PLAIN, length, fits[PLAIN])
            fewer = tokens_per_s(size, MOA, length, fits[PLAIN])
            rate = tokens_per_s(size, MOA, length, fits[MOA])
            rows.append({
                "model": size, "context": name, "batch, all keys": fits[PLAIN],
                "batch, MoA": fits[MOA], "fewer keys": fewer / base, "larger batch": rate / fewer,
                "both": rate / base, "KV bytes": kv_read_bytes(size, MOA, length)
                / kv_read_bytes(size, PLAIN, length),
            })  # fmt: skip
    title = "Where MoA's gain over the same engine with all keys comes from"
    return Table("parts", title, rows, "batches that fit by the capacity rule")


def _layers() -> Table:
    """Return the mean, lowest and highest density of layers; layers differ more than the mean shows."""
    rows = []
    for name, length in LENGTHS.items():
        shares = densities("7b", length)
        rows.append({"context": name, "mean density": sum(shares) / len(shares),
                     "lowest layer": min(shares), "highest layer": max(shares)})  # fmt: skip
    return Table("layers", "Share of the context that heads of the 7B model keep", rows)


def _drawn() -> Table:
    """Return the parts of a step of one token by engine for the plot."""
    rows = []
    for size in ("7b", "13b"):
        for name, length in LENGTHS.items():
            for kind, label in ((PLAIN, "all keys"), (MOA, "MoA")):
                batch = batch_that_fits(size, kind, length)
                parts = step_parts(size, kind, length, batch)
                rows.append({"case": f"{size}, {name}, {label}, batch {batch}",
                             **{part: took / batch * 1e3 for part, took in parts.items()}})  # fmt: skip
    return Table("steps", "A decoding step on one A100, per token (ms)", rows)


paper(
    "moa", "Reproduce MoA: batches that fit and decoding rates with a span for each head.", predictions,
    tables=(_parts, _layers), drawn={"steps": _drawn}, runs=6 * len(LENGTHS),
)  # fmt: skip
