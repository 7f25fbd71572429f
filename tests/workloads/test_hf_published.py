"""Families outside the reference folder, against the totals their makers publish.

`hf_published.json` holds dimensions written down from public configurations, each with the
published count and its source. An exact published count must be met exactly.
"""

import json
from pathlib import Path

import pytest

from opbyte.workloads.hf import known_architectures, model_from_keys

PUBLISHED = json.loads((Path(__file__).parent / "hf_published.json").read_text())


def model(name, **changes):
    keys = {**PUBLISHED[name]["config"], **changes}
    return model_from_keys({k: v for k, v in keys.items() if v != "drop"}, name=name, where=name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_total(name):
    published = PUBLISHED[name]["total"]
    exact = published % 1_000_000 != 0
    assert model(name).total_params == pytest.approx(published, rel=0 if exact else 0.012)


@pytest.mark.parametrize("name", [name for name, row in PUBLISHED.items() if row["active"]])
def test_active(name):
    """Published counts leave out 0, 1 or 2 of the embedding and the head, and are rounded."""
    row, spec = PUBLISHED[name], model(name)
    active = spec.active_params - row["tables_left_out"] * spec.vocab * spec.hidden
    assert active == pytest.approx(row["active"], rel=0.03)


def test_kv_bytes():
    assert model("falcon-7b").kv_bytes_per_token == 2 * 1 * 64 * 32 * 2
    assert model("falcon-40b").kv_bytes_per_token == 2 * 8 * 64 * 60 * 2
    assert model("falcon-rw-1b").kv_bytes_per_token == 2 * 32 * 64 * 24 * 2
    assert model("Kimi-K2").kv_bytes_per_token == 70_272
    assert model("MiniMax-M2").kv_bytes_per_token == 2 * 8 * 128 * 62 * 2
    assert model("gemma-3-27b").kv_bytes_per_token == 2 * 16 * 128 * 62 * 2
    assert model("LLaMA-65B").kv_bytes_per_token == 2 * 64 * 128 * 80 * 2


def test_windows():
    five_to_one = [512] * 5 + [None]
    assert list(model("gemma-3-1b").kv_window) == (five_to_one * 5)[:26]
    assert set(model("gemma-3-4b", text_config={
        **PUBLISHED["gemma-3-4b"]["config"]["text_config"], "sliding_window": None,
    }).kv_window) == {None}  # fmt: skip
    assert model("Ministral-8B-2410").kv_window == (None, 32768, 32768, 32768) * 9
    assert model("Ministral-8B-2410", layer_types="drop").kv_window == (32768,) * 36
    assert set(model("Ministral-8B-2410", layer_types=None, sliding_window=0).kv_window) == {None}
    assert model("gpt-oss-120b").kv_window == (128, None) * 18
    assert model("Olmo-3-7B").kv_window == (4096, 4096, 4096, None) * 8
    assert model("command-r7b").kv_window == (4096, 4096, 4096, None) * 8
    assert model("Phi-3-mini-4k").kv_window == (2047,) * 32


def test_qwen_windows_need_their_switch():
    off = model("Qwen2.5-7B")
    assert set(off.kv_window) == {None}
    on = model("Qwen2.5-7B", use_sliding_window=True, max_window_layers=20, sliding_window=4096)
    assert on.kv_window == (None,) * 20 + (4096,) * 8
    listed = model("Qwen2.5-7B", layer_types=["sliding_attention"] + ["full_attention"] * 27)
    assert listed.kv_window == (131072,) + (None,) * 27


def test_qwen_layers_without_experts():
    assert model("Qwen2-57B-A14B", mlp_only_layers=[0, 5]).moe_layers == 26
    assert model("Qwen2-57B-A14B", decoder_sparse_step=2).moe_layers == 14
    assert model("Qwen2-57B-A14B", num_experts=0).moe_layers == 0


def test_deepseek_layers_without_experts():
    assert model("DeepSeek-V2", first_k_dense_replace=0).moe_layers == 60
    assert model("DeepSeek-V2", n_shared_experts=None).total_params < model("DeepSeek-V2").total_params
    assert model("DeepSeek-V2", n_routed_experts=None).moe_layers == 0
    kinds = ["dense"] * 10 + ["sparse"] * 68
    assert model("GLM-5", mlp_layer_types=kinds).moe_layers == 68


def test_llama4_interleaves():
    maverick = model("Llama-4-Maverick")
    assert [la.ffn.kind for la in maverick.layers[:4]] == ["ffn", "moe"] * 2
    assert maverick.layers[0].ffn.width == 16384


def test_arctic_runs_a_dense_block_beside_the_experts():
    assert model("Arctic").layers[0].ffn.residual_width == 7168
    assert model("Arctic", parallel_attn_mlp_res=False).layers[0].ffn.residual_width == 0


def test_indexers_may_be_shared():
    one = model("GLM-5").total_params
    shared = model("GLM-5", indexer_types=["full", "shared"] * 39).total_params
    assert one - shared == 39 * (2048 * 32 * 128 + 6144 * (128 + 32) + 2 * 128)
    without = model("GLM-5", index_n_heads=None).total_params
    assert one - without == 2 * (one - shared)


def test_model_type_stands_in_for_a_missing_class():
    keys = {"architectures": None, "model_type": "qwen3"}
    assert model("Qwen3-8B", **keys).total_params == model("Qwen3-8B").total_params
    assert model("Qwen3-8B", architectures=[], model_type="qwen3").architecture == "qwen3"


def test_null_key_value_heads_mean_as_many_as_query_heads():
    assert model("Mistral-Nemo", num_key_value_heads=None).layers[0].mixer.kv_heads == 32


def test_sizes_may_stand_in_a_text_section_or_at_the_top():
    text = PUBLISHED["Ministral-3-3B"]["config"]["text_config"]
    expected = model("Ministral-3-3B").total_params
    for keys in (
        {"architectures": ["Ministral3ForCausalLM"], "text_config": text},
        {"architectures": ["Mistral3ForConditionalGeneration"], **text},
        {"architectures": ["Mistral3ForConditionalGeneration"], **text, "model_type": "mistral3"},
        {"model_type": "mistral3", "text_config": text},
        {"model_type": "unheard_of", "text_config": text},
        text,
    ):
        assert model_from_keys(keys, name="m", where="m").total_params == expected


def test_architecture_of_a_wrapper_is_kept():
    assert model("gemma-3-4b").architecture == "Gemma3ForConditionalGeneration"


def test_known_architectures_are_sorted_and_many():
    known = known_architectures()
    assert list(known) == sorted(known)
    assert {"LlamaForCausalLM", "GlmMoeDsaForCausalLM", "Gemma3ForCausalLM"} <= set(known)
