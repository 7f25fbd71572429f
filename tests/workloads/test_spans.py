"""Spans per head: the published rule, plans, capacity by hand, and the plain layer where none binds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError, SpecError
from opbyte.workloads.hf import model_from_keys
from opbyte.workloads.layers import Attention, Run, SpanAttention
from opbyte.workloads.layers.published.spans import span_of
from opbyte.workloads.numerics import Numerics

from ..tables import tables

RUN = Run(Numerics())
BASE = Attention(512, 8, 4, 64)
DENSITY = tables(__file__)["density"]
"""Layers, query and KV heads; mean density at 4k, 8k and 16k as the data's README has it."""
KEYS: dict[str, Any] = {
    "architectures": ["MoALlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1024,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 100,
    "max_position_embeddings": 4096,
}  # fmt: skip


def read(spans: Any, **more: Any) -> Any:
    return model_from_keys({**KEYS, "attention_spans": spans, **more}, name="m", where="f.json")


@given(st.integers(1, 300_000), st.floats(-9000, 9000), st.floats(0, 1))
def test_the_rule_of_the_repository(length: int, alpha: float, beta: float) -> None:
    """min(N, alpha + beta N), at least 128, a multiple of 64; all keys where that is no less than N."""
    span = span_of(alpha, beta, length)
    kept = max(128, min(length, alpha + beta * length))
    if span == 0:
        assert kept > length - 64
    else:
        assert span % 64 == 0
        assert kept <= span < min(length, kept + 64)


@given(st.lists(st.integers(0, 9000), min_size=1, max_size=4))
def test_spans_of_the_whole_context_are_the_plain_layer_exactly(contexts: list[int]) -> None:
    m = Batch.of(contexts, [(77, 300)]).moments((0,))
    ours = SpanAttention(BASE, ((3, 0.0, 1.0), (5, 4096.0, 0.5)), 4096)
    assert ours.ops(m, RUN, None) == BASE.ops(m, RUN, None)
    assert ours.weights() == BASE.weights()
    assert ours.state().keeps == BASE.state().keeps


def test_groups_keep_their_longest_span_by_hand() -> None:
    """Of 4,096 tokens: groups of two heads keep 1,024, 2,048, all, 512."""
    spans = ((1, 0.0, 0.125), (1, 0.0, 0.25), (2, 0.0, 0.5), (1, 0.0, 0.25), (1, 0.0, 1.0), (2, 512.0, 0.0))
    ours = SpanAttention(BASE, spans, 4096)
    assert ours.windows == (1024, 2048, 0, 512)
    assert [(k.values, k.window) for k in ours.state().keeps] == [(128, 0), (128, 512), (128, 1024), (128, 2048)]
    m = Batch.of([3999], [(10, 600)]).moments((0, 512, 1024, 2048))
    decode, prefill = (op for op in ours.ops(m, RUN, None)[3:1:-1])
    kept = 4000 + 512 + 1024 + 2048
    assert decode.kv_read_bytes == 2 * 64 * 2 * kept
    assert decode.flops == 4 * 512 * kept / 4
    seen = sum(3 * min(601 + i, 10**9) + 512 for i in range(10))  # the span of 512 binds alone
    assert prefill.flops == 4 * 512 * seen / 4


def test_a_device_has_every_second_head_by_falling_span() -> None:
    spans = ((2, 0.0, 0.25), (2, 0.0, 0.5), (2, 0.0, 1.0), (2, 512.0, 0.0))
    half = SpanAttention(BASE, spans, 4096).shard(2)
    assert half.windows == (0, 1024)
    assert half.base == BASE.shard(2)
    alone = SpanAttention(BASE, spans, 4096).shard(8)
    assert (alone.windows, alone.base.heads) == ((0,), 1)


@given(st.sampled_from([1, 2, 4, 8]), st.integers(200, 5000))
def test_devices_together_keep_no_less_than_one(tp: int, length: int) -> None:
    spans = ((2, 0.0, 0.25), (2, 0.0, 0.5), (2, 100.0, 0.4), (2, 512.0, 0.0))
    whole = SpanAttention(BASE, spans, length)

    def kept(part: SpanAttention) -> int:
        return sum(w or length for w in part.windows)

    assert tp * kept(whole.shard(tp)) >= kept(whole)


def test_shorter_sequences_have_their_own_spans() -> None:
    model = read(0.5)
    assert model.windows == (0, 2048)
    assert model.within(1000).windows == (0, 512)
    assert model.within(100).windows == (0,)
    assert model.within(9999).windows == (0, 2048)


@pytest.mark.parametrize("name", DENSITY)
def test_plans_of_the_data(name: str, data_set: Callable[[str], Path]) -> None:
    layers, heads, kv_heads, *densities = DENSITY[name]
    path = str(data_set("attention_plans") / f"{name}.moa_alpha_beta.json")
    model = read(
        path, hidden_size=64 * heads, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, max_position_embeddings=262_144,
    )  # fmt: skip
    for n, density in zip((4096, 8192, 16384), densities, strict=True):
        ours = model.within(n)
        spans = [s for layer in ours.layers for s in layer.mixer.spans]
        asked = sum(count * min(1.0, (a + b * n) / n) for count, a, b in spans) / (layers * heads)
        assert asked == pytest.approx(density, abs=6e-4)
        kept = ours.cache_bytes(n) / (n * ours.kv_bytes_per_token)
        if kv_heads == heads:
            assert kept == pytest.approx(density, abs=1e-3)
        else:  # the longest span of a group counts
            assert density + 0.05 < kept < 1


def test_the_catalogs_plan_is_the_datas(data_set: Callable[[str], Path]) -> None:
    path = data_set("attention_plans") / "lmsys--vicuna-7b-v1.5-16k.moa_alpha_beta.json"
    model = read(
        str(path), hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=16_384,
    )  # fmt: skip
    for ours, theirs in zip(load_model("vicuna-7b-moa").layers, model.layers, strict=True):
        assert isinstance(ours.mixer, SpanAttention)
        assert sorted(ours.mixer.windows) == sorted(theirs.mixer.windows)


@pytest.mark.parametrize(("spans", "said"), tables(__file__)["bad"])
def test_bad_spans_are_one_line(spans: Any, said: str) -> None:
    with pytest.raises(SpecError) as error:
        read(spans)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"alphas": [[0] * 8] * 2}, "betas: must have 2 layers, not null"),
        ({"alphas": [[0] * 8], "betas": [[1] * 8] * 2}, "alphas: must have 2 layers, not 1"),
        ({"alphas": [[0] * 8] * 2, "betas": [[1] * 8, [1] * 7]}, "betas[1]: must have 8 heads, not 7"),
        ({"alphas": [[0] * 8, [0, 9999, *[0] * 6]], "betas": [[1] * 8] * 2},
         "alphas, betas [1][1]: a span of 9999 tokens is longer than the 4096 positions"),
        ({"alphas": [[0] * 8] * 2, "betas": [["1"] * 8] * 2}, "beta must be a number, not '1'"),
    ],
)  # fmt: skip
def test_bad_plans_are_one_line(plan: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(SpecError) as error:
        read(str(tmp_path / "plan.json"))
    assert said in str(error.value)


def test_a_window_and_spans_exclude_each_other() -> None:
    with pytest.raises(InputError, match=r"base.window: must be 0 with spans, not 7"):
        SpanAttention(replace(BASE, window=7), ((8, 0.0, 0.5),), 100)
