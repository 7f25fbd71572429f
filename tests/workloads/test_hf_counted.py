"""Families of 2024 to 2026 against counts of their tensors, and how many of the engines' classes are known.

`hf_counted.json` holds the default configuration of each class in transformers 5.24.0, without keys that say nothing of
the structure, and the weights of the text model as that package counts them on its meta device. Routing biases
that it keeps as buffers are weights here. `engine_classes.json` lists the classes in the registries of vLLM 0.33.0,
SGLang 0.5.23 (drafts, embedders, rewards left out) and transformers 5.24.0 (encoders used as decoders left out).
"""

import json
from pathlib import Path

import pytest

from opbyte.analysis.answers.inspect import inspect
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.hf import known_architectures, model_from_keys, read_config

from ..tables import tables
from .conftest import refused_configs

TABLES = tables(__file__)

HERE = Path(__file__).parent
COUNTED = json.loads((HERE / "hf_counted.json").read_text())
CLASSES = json.loads((HERE / "engine_classes.json").read_text())

# README of the model_configs_2026 data folder, column "reference" [1e9], the text model.
REFERENCE = TABLES["reference"]


def unrolled(value):
    """Lists are written as runs: [value, times]."""
    if isinstance(value, dict) and set(value) == {"runs"}:
        return [item for item, times in value["runs"] for _ in range(times)]
    if isinstance(value, dict):
        return {key: unrolled(item) for key, item in value.items()}
    return value


def model(name, **changes):
    return model_from_keys({**unrolled(COUNTED[name]["config"]), **changes}, name=name, where=name)


@pytest.mark.parametrize("name", COUNTED)
def test_weights(name):
    spec = model(name)
    assert spec.total_params == pytest.approx(COUNTED[name]["total"], rel=1e-4)
    assert not any("is not known" in note for note in spec.notes)


@pytest.mark.parametrize("name", REFERENCE)
def test_weights_of_real_files(name, data_set):
    spec = read_config(data_set("model_configs_2026") / name)
    assert spec.total_params / 1e9 == pytest.approx(
        REFERENCE[name], rel=5e-6 if name == "Step-3.7-Flash" else 0, abs=5.1e-5
    )


@pytest.mark.parametrize(
    ("engine", "known"),
    [("vllm 0.33.0, text generation", 110), ("vllm 0.33.0, multimodal", 102), ("sglang 0.5.23", 176)],
)
def test_classes_of_the_engines_that_are_known(engine, known):
    here = set(known_architectures())
    assert sum(name in here for name in CLASSES[engine]) >= known


def test_gemma_4_layers_share_caches_and_write_none():
    """E4B's last 18 of 42 layers read caches of the 24 before them: no key or value weights, nothing written."""
    keys = unrolled(COUNTED["gemma4_text"]["config"])
    plain, shared = (model("gemma4_text", num_kv_shared_layers=n) for n in (0, 10))
    own = [layer.mixer for layer in shared.layers]
    assert [m.shares for m in own] == [False] * 20 + [True] * 10
    gone = [layer.mixer for layer in plain.layers[20:]]
    assert plain.kv_bytes_per_token - shared.kv_bytes_per_token == sum(4 * m.kv_heads * m.head_dim for m in gone)
    hidden = keys["hidden_size"]
    weights = sum(2 * hidden * m.kv_heads * m.head_dim + m.head_dim for m in gone)
    assert plain.total_params - shared.total_params == weights
    assert [m.window for m in own[:6]] == [512] * 5 + [0]
    assert {m.head_dim for m in own if not m.window} == {512}


def test_mimo_keeps_narrow_values():
    """192-wide keys and 128-wide values: 4 heads without a window, 8 with one of 129 tokens (transformers' default)."""
    spec = model("mimo_v2_flash")
    assert spec.kv_classes() == {0: 9 * 4 * 320 * 2, 129: 39 * 8 * 320 * 2}
    assert (spec.mtp_heads, spec.mtp[-1].mixer.window, spec.mtp[-1].ffn.kind) == (3, 129, "ffn")


UNKNOWN = {
    "architectures": ["NewForCausalLM"], "model_type": "new", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "rope_theta": 1e6, "tie_word_embeddings": False,
}  # fmt: skip


def test_a_class_whose_keys_are_all_understood_is_read_with_a_note():
    spec = model_from_keys(UNKNOWN, name="m", where="m")
    llama = model_from_keys({**UNKNOWN, "architectures": ["LlamaForCausalLM"]}, name="m", where="m")
    assert spec.architecture == "NewForCausalLM"
    assert spec.total_params == pytest.approx(llama.total_params, rel=0.01)
    (note,) = spec.notes
    assert "NewForCausalLM is not known" in note
    assert "ForCausalLM, so it is read as that" in note
    assert inspect(spec).remarks() == spec.notes


@pytest.mark.parametrize(
    "more", [{"mystery_dim": 8}, {"hidden_act": "relu2"}, {"num_memory_layers": 3}, {"ssm_state_size": 16}]
)
def test_a_class_with_a_key_that_no_family_reads_is_refused_by_what_it_shares(more):
    with pytest.raises(InputError) as error:
        model_from_keys({**UNKNOWN, **more}, name="m", where="m")
    text = str(error.value)
    assert "unknown architecture 'NewForCausalLM'; families that share its keys:" in text
    assert f"; keys that the first of them does not read: {next(iter(more))}" in text
    assert "did you mean" not in text


def test_text_sections_that_name_themselves_need_no_entry():
    inner = {k: v for k, v in UNKNOWN.items() if k != "architectures"} | {"model_type": "qwen3", "head_dim": 16}
    for key in ("text_config", "llm_config", "language_config"):
        spec = model_from_keys({"architectures": ["NewVLModel"], key: inner}, name="m", where="m")
        assert (spec.hidden, spec.notes) == (64, ())
    thinker = {"architectures": ["NewOmni"], "thinker_config": {"text_config": inner}}
    assert model_from_keys(thinker, name="m", where="m").hidden == 64


@pytest.mark.parametrize(("keys", "changes", "message"), refused_configs("counted"))
def test_impossible_combinations_name_their_key(keys, changes, message):
    with pytest.raises(InputError) as error:
        model(keys, **changes)
    assert message in str(error.value)


@pytest.mark.parametrize(("name", "weights"), TABLES["models of the catalog count to the weight"])
def test_models_of_the_catalog_count_to_the_weight(name, weights):
    assert load_model(name).total_params == pytest.approx(weights, rel=2e-9)


def test_kimi_k3_keeps_what_was_published():
    """27,648 B of cache a token in 16 bit, 414 MiB of delta-rule states.

    Its weights say nothing: widths that are not published were chosen to meet the published total.
    """
    spec = load_model("kimi-k3")
    assert spec.kv_bytes_per_token == 27_648
    states = sum(
        part.state().fixed[0].bytes(spec.numerics) for la in spec.layers for part in la.parts if part.state().fixed
    )
    assert states / 2**20 == 414


NANO = "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
SUPER = "NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4"


def test_nemotron_3_states_caches_and_heads(data_set):
    """46 and 160 MiB of state, 6,144 and 8,192 B of cache a token in 16 bit (from its keys: 6 and 8 attention layers)."""
    nano, larger = (read_config(data_set("model_configs_2026") / name) for name in (NANO, SUPER))
    assert nano.kv_bytes_per_token == 6 * 2 * 2 * 128 * 2
    assert larger.numerics.kv == "fp8"
    assert larger.kv_bytes_per_token == 8 * 2 * 2 * 128
    assert nano.state_bytes_per_sequence / 2**20 == pytest.approx(46, rel=0.04)
    assert (nano.moe_layers, larger.moe_layers) == (23, 40)
    moe = next(layer.ffn for layer in larger.layers if layer.ffn is not None)
    assert (moe.latent, moe.matrices, moe.shared_matrices, moe.routed.top_k) == (1024, 2, 2, 22)
    assert larger.mtp_heads == 1
    assert [part.kind for part in larger.mtp[-1].parts] == ["attention", "moe"]


def test_longcat_counts_560_billion_of_which_8_of_12_choices_are_real():
    """28 x (2 x 90.5 M + 453 M + 19.33 B) + 1.6 B = 560.7 B [the family's report]."""
    keys = {
        "architectures": ["LongcatFlashForCausalLM"], "hidden_size": 6144, "ffn_hidden_size": 12288,
        "expert_ffn_hidden_size": 2048, "num_layers": 28, "num_attention_heads": 64, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_routed_experts": 512, "zero_expert_num": 256, "moe_topk": 12, "vocab_size": 131072,
    }  # fmt: skip
    spec = model_from_keys(keys, name="m", where="m")
    assert spec.total_params / 1e9 == pytest.approx(560.7, abs=0.05)
    assert spec.active_params / 1e9 == pytest.approx(27.6, abs=0.7)
    assert spec.layers[0].ffn.routed.top_k == 8


def test_tokens_go_to_latent_experts_at_their_width():
    """Kimi-K3 sends 3,584 of 7,168 values."""
    from opbyte.workloads.layers import MixtureOfExperts
    from opbyte.workloads.layers.base import sent_width

    assert sent_width(MixtureOfExperts(7168, 896, 16, 2048, latent=3584)) == 3584
    assert sent_width(MixtureOfExperts(7168, 256, 8, 2048)) == 7168


@pytest.mark.parametrize(("changes", "message"), TABLES["patterns that cannot be name their key"])
def test_patterns_that_cannot_be_name_their_key(changes, message):
    with pytest.raises(InputError) as error:
        model("nemotron_h", **changes)
    assert message in str(error.value)
