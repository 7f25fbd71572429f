"""MoA: a Llama whose heads have different attention spans, given by classes, a density or a plan file."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..layers import Attention, SpanAttention
from ..model import ModelSpec
from .config import Config, shown
from .decoders import llama
from .families import family
from .json_file import read_json_object

Span = tuple[int, float, float]
"""A group of adjacent query heads with one span: number of heads, alpha [tokens] and beta."""
KEY = "attention_spans"


@family("MoALlamaForCausalLM")
def moa_llama(config: Config) -> ModelSpec:
    """Llama with a separate span for each head (MoA).

    ``attention_spans`` is a fraction of the context for all heads, the path of a plan (MoA's ``moa_alpha_beta.json``,
    relative to this file), or for every layer a list of ``[query heads, alpha, beta]`` in the order of the heads. Spans
    are for the longest sequence, of ``max_position_embeddings`` tokens unless a run has less.
    """
    plain = llama(config)
    length = config.size("max_position_embeddings")
    heads = config.size("num_attention_heads")
    layers = []
    for layer, spans in zip(plain.layers, _spans(config, len(plain.layers), heads, length), strict=True):
        assert isinstance(layer.mixer, Attention)
        layers.append(replace(layer, mixer=SpanAttention(layer.mixer, spans, length)))
    return replace(plain, layers=tuple(layers))


def _spans(config: Config, layers: int, heads: int, length: int) -> list[tuple[Span, ...]]:
    """Return the attention spans of every layer."""
    value = config.values.get(KEY)
    if isinstance(value, str):
        return _plan(config, value, layers, heads, length)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0.0 < value <= 1.0:
            raise config.error(KEY, f"must be above 0 and at most 1, not {shown(value)}")
        return [((heads, 0.0, float(value)),)] * layers
    if not isinstance(value, list):
        state = "is missing" if value is None else f"is {shown(value)}"
        raise config.error(KEY, f"{state}; a fraction, a plan's path or a list of each layer's spans is required")
    if len(value) != layers:
        raise config.error(KEY, f"must have one entry per layer: {layers}, not {len(value)}")
    return [_classes(config, f"{KEY}[{i}]", plan, heads, length) for i, plan in enumerate(value)]


def _classes(config: Config, key: str, value: Any, heads: int, length: int) -> tuple[Span, ...]:
    """Return the attention spans of one layer from its list of ``[query heads, alpha, beta]``."""
    if not isinstance(value, list):
        raise config.error(key, f"must be a list of [query heads, alpha, beta], not {shown(value)}")
    out: list[Span] = []
    for i, entry in enumerate(value):
        if not isinstance(entry, list) or len(entry) != 3 or type(entry[0]) is not int or entry[0] < 1:
            raise config.error(f"{key}[{i}]", f"must be [query heads, alpha, beta], not {shown(entry)}")
        out.append((entry[0], *_checked(config.path, f"{config.prefix}{key}[{i}]", entry[1], entry[2], length)))
    if sum(count for count, _, _ in out) != heads:
        total = sum(count for count, _, _ in out)
        raise config.error(key, f"must have {heads} query heads in sum, not {total}")
    return tuple(out)


def _plan(config: Config, name: str, layers: int, heads: int, length: int) -> list[tuple[Span, ...]]:
    """Return the attention spans of a plan file: ``alphas`` and ``betas``, both by layer and query head."""
    path = Path(config.path).parent / name
    tree = read_json_object(path)
    for key in ("alphas", "betas"):
        rows = tree.get(key)
        if not isinstance(rows, list) or len(rows) != layers:
            count = f"{len(rows)}" if isinstance(rows, list) else shown(rows)
            raise SpecError(f"{path}: {key}", f"must have {layers} layers, not {count}")
        for i, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != heads:
                count = f"{len(row)}" if isinstance(row, list) else shown(row)
                raise SpecError(f"{path}: {key}[{i}]", f"must have {heads} heads, not {count}")
    out = []
    for i, (alphas, betas) in enumerate(zip(tree["alphas"], tree["betas"], strict=True)):
        pairs = [
            _checked(str(path), f"alphas, betas [{i}][{h}]", a, b, length)
            for h, (a, b) in enumerate(zip(alphas, betas, strict=True))
        ]
        out.append(tuple((len(list(same)), *pair) for pair, same in groupby(pairs)))
    return out


def _checked(path: str, key: str, alpha: Any, beta: Any, length: int) -> tuple[float, float]:
    """Return alpha and beta of a head after checking them."""
    where = f"{path}: {key}"
    for name, value in (("alpha", alpha), ("beta", beta)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SpecError(where, f"{name} must be a number, not {shown(value)}")
    if not abs(alpha) <= length:
        raise SpecError(where, f"a span of {alpha:g} tokens is longer than the {length} positions of the model")
    if not 0.0 <= beta <= 1.0:
        raise SpecError(where, f"beta must be from 0 to 1, not {beta:g}")
    return float(alpha), float(beta)
