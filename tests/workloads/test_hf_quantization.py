"""Stored formats: what a quantization_config converts and what it leaves alone."""

import json

import pytest

from opbyte.workloads.errors import SpecError
from opbyte.workloads.hf import model_from_keys, read_config

from .conftest import refused_configs

DENSE = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip
ALL = ("attention", "ffn", "experts")


def formats(quantization, **keys):
    config = {**DENSE, **keys, "quantization_config": quantization}
    return dict(model_from_keys(config, name="m", where="m").numerics.weights)


def compressed(bits, kind, **more):
    weights = {"num_bits": bits, "type": kind}
    groups = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, **more}


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        (None, None),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "nvfp4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        (compressed(8, "float"), "fp8"),
        (compressed(8, "int"), "int8"),
        (compressed(4, "int"), "int4"),
        (compressed(4, "float"), "nvfp4"),
    ],
)
def test_methods(quantization, expected):
    assert formats(quantization) == ({} if expected is None else dict.fromkeys(ALL, expected))


PROJECTIONS = [f"model.layers.{n}.self_attn.{p}_proj" for n in range(2) for p in "qkvo"]
"""Attention of both layers, named one by one."""


@pytest.mark.parametrize(
    ("key", "names", "kept"),
    [
        ("modules_to_not_convert", ["gate", "e_score_correction_bias", "lm_head"], ()),
        ("modules_to_not_convert", ["self_attn", "block_sparse_moe.gate"], ("attention",)),
        ("modules_to_not_convert", ["model.layers.*.self_attn"], ("attention",)),
        ("modules_to_not_convert", ["model.layers.0.self_attn"], ()),
        ("ignore", ["model.layers.0.self_attn*", "model.layers.1.self_attn*"], ("attention",)),
        ("ignore", ["re:.*self_attn.*", "re:.*shared_experts.*"], ("attention",)),
        ("ignore", ["re:.*self_attn.*", "re:.*mlp.*_proj"], ("attention", "ffn")),
        ("ignore", ["re:.*mlp\\.(gate|up|gate_up|down)_proj.*"], ("ffn",)),
        ("ignored_layers", ["model.layers.7.self_attn"], ()),
        ("ignore", PROJECTIONS, ("attention",)),
        ("ignore", PROJECTIONS[1:], ()),
        ("ignore", [f"vision_{name}" for name in PROJECTIONS], ()),
        ("exclude_modules", ["*.mlp.experts"], ("experts",)),
    ],
)
def test_exempt_modules(key, names, kept):
    assert set(formats({"quant_method": "fp8", key: names})) == set(ALL) - set(kept)


def test_embeddings_and_head_keep_sixteen_bits():
    keys = {**DENSE, "quantization_config": {"quant_method": "fp8"}}
    spec = model_from_keys(keys, name="m", where="m")
    tables = 2 * 100 * 64
    norms = 5 * 64
    assert spec.weight_bytes == (spec.total_params - tables - norms) + 2 * (tables + norms)


@pytest.mark.parametrize(("keys", "changes", "message"), refused_configs("quantization"))
def test_refusals(keys, changes, message):
    with pytest.raises(SpecError) as error:
        formats(changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("keys", "default"),
    [
        ({}, "bf16"),
        ({"torch_dtype": "float16"}, "fp16"),
        ({"dtype": "torch.float16"}, "fp16"),
        ({"torch_dtype": "float32"}, "bf16"),
        ({"torch_dtype": None}, "bf16"),
    ],
)
def test_serving_format(keys, default):
    numerics = model_from_keys({**DENSE, **keys}, name="m", where="m").numerics
    assert (numerics.default, numerics.kv) == (default, default)


def test_unknown_serving_format():
    with pytest.raises(SpecError, match="torch_dtype: unknown format 'int3'"):
        model_from_keys({**DENSE, "torch_dtype": "int3"}, name="m", where="m")


def stored(quantization, **keys):
    """Group -> its formats' shares."""
    config = {**DENSE, **keys, "quantization_config": quantization}
    numerics = model_from_keys(config, name="m", where="m").numerics
    return {g: {name: share for name, _, share in numerics.parts(g)} for g in ALL}


MOE = {
    "architectures": ["DeepseekV3ForCausalLM"], "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "num_hidden_layers": 12,
}  # fmt: skip


def test_a_glob_without_a_dot_covers_every_layer_that_begins_so():
    """``layers.1*`` is layers 1, 10 and 11 of twelve; ``layers.1.*`` is layer 1 alone (fnmatch)."""
    nvfp4 = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    for text, layers in (("model.layers.1*", 3), ("model.layers.1.*", 1), ("model.layers.0*", 1)):
        own = stored({**nvfp4, "ignore": [text]}, **MOE)["attention"]
        assert own["bf16"] == pytest.approx(layers / 12)


def test_exclusions_of_every_layer_in_two_spellings_add_up():
    """GLM-5.1 and Kimi-K2.6 leave layer 0 out as a whole and the attention of all others."""
    names = ["model.layers.0*"]
    names += [f"model.layers.{n}.{part}*" for n in range(1, 12) for part in ("self_attn", "mlp.shared_experts")]
    own = stored({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": names}, **MOE)
    assert own == {"attention": {"bf16": 1.0}, "ffn": {"bf16": 1.0}, "experts": {"nvfp4": 1.0}}


def test_projections_that_are_left_out_count_by_their_weights():
    """DeepSeek-V3.1-NVFP4 converts the output projection of its latent attention alone."""
    latent = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
    names = [f"model.layers.{n}.self_attn.{p}" for n in range(12) for p in latent]
    own = stored({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": names}, **MOE)
    out = 4 * 16 * 64
    whole = 64 * 16 + 16 * 4 * 24 + 64 * 24 + 16 * 4 * 32 + out
    assert own["attention"] == pytest.approx({"nvfp4": out / whole, "bf16": 1 - out / whole})


@pytest.mark.parametrize(
    ("quantization", "name", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4", 4 + 20 / 32),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4", 4),
        ({"quant_method": "mxfp8"}, "mxfp8", 8.25),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, "mxfp8", 8.25),
        ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, "mxfp8", 8.25),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"}, "nvfp4_bf16", 4.5),
        ({"quant_method": "quark", "global_quant_config": {
            "weight": {"dtype": "fp4", "group_size": 32}, "input_tensors": {"dtype": "fp4"}}}, "mxfp4_fp4", 4.25),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}, "fp8", 8),
    ],
)  # fmt: skip
def test_bits(quantization, name, bits):
    numerics = model_from_keys({**DENSE, "quantization_config": quantization}, name="m", where="m").numerics
    assert numerics.weight_format("ffn") == name
    assert numerics.weight_bytes("ffn") == bits / 8


def test_compressed_float_of_four_bits_is_told_by_its_groups():
    def of(size, inputs):
        weights = {"num_bits": 4, "type": "float", "group_size": size}
        group = {"weights": weights, "targets": ["Linear"], "input_activations": inputs}
        return formats({"quant_method": "compressed-tensors", "config_groups": {"group_0": group}})["ffn"]

    assert of(32, None) == "mxfp4"  # Kimi-K3's: 4.25 bits, 16-bit products
    assert of(16, {"num_bits": 4, "type": "float"}) == "nvfp4"
    assert of(16, None) == "nvfp4_bf16"


def test_mixed_precision_takes_the_modules_it_names():
    layers = {f"model.layers.{n}.self_attn.{p}_proj": {"quant_algo": "FP8"} for n in range(2) for p in "qkvo"}
    layers |= {"model.layers.1.mlp.down_proj": {"quant_algo": "W4A16_NVFP4"}, "lm_head": {"quant_algo": "FP8"}}
    mixed = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    own = stored(mixed)
    assert own["attention"] == {"fp8": 1.0}
    assert own["ffn"] == pytest.approx({"bf16": 5 / 6, "nvfp4_bf16": 1 / 6})
    assert formats(mixed)["head"] == "fp8"


@pytest.mark.parametrize(
    ("more", "kv"),
    [
        ({}, "bf16"),
        ({"kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8"),
        ({"kv_cache_scheme": None}, "bf16"),
    ],
)
def test_the_cache_has_the_format_that_the_file_asks_for(more, kv):
    keys = {**DENSE, "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", **more}}
    assert model_from_keys(keys, name="m", where="m").numerics.kv == kv


def test_the_file_beside_is_read_and_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    side = tmp_path / "hf_quant_config.json"
    side.write_text(json.dumps({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}))
    numerics = read_config(tmp_path).numerics
    assert (dict(numerics.weights)["ffn"], numerics.kv) == ("fp8", "fp8")
    side.write_text(json.dumps({"quantization": {"quant_algo": "FP7"}}))
    with pytest.raises(SpecError, match=r"hf_quant_config.json: quantization.quant_algo: unknown algorithm 'FP7'"):
        read_config(tmp_path)


def test_expert_dtype_beside_fp8():
    """DeepSeek-V4: MXFP4 experts in a file whose method is fp8."""
    own = formats({"quant_method": "fp8", "weight_block_size": [128, 128]}, **MOE, expert_dtype="fp4")
    assert own == {"attention": "fp8_block", "ffn": "fp8_block", "experts": "mxfp4_mxfp8"}


def test_bytes_by_group_and_format_are_all_bytes():
    keys = {**DENSE, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64}}
    spec = model_from_keys(keys, name="m", where="m")
    sizes = spec.stored_bytes
    assert sum(size for own in sizes.values() for size in own.values()) == pytest.approx(spec.weight_bytes)
    assert set(sizes["ffn"]) == {"int4"}
    assert set(sizes["embedding"]) == {"bf16"}


def test_quark_says_what_the_cache_is():
    """As AMD's files have it: experts and blocks in MXFP4, attention left alone, 8-bit caches."""
    weights = {"dtype": "fp4", "group_size": 32, "scale_format": "e8m0"}
    quark = {
        "quant_method": "quark", "exclude": ["re:.*self_attn.*", "lm_head"],
        "global_quant_config": {"weight": weights, "input_tensors": {"dtype": "fp4"}},
        "kv_cache_quant_config": {"*k_proj": {"output_tensors": {"dtype": "fp8_e4m3"}}},
    }  # fmt: skip
    numerics = model_from_keys({**DENSE, **MOE, "quantization_config": quark}, name="m", where="m").numerics
    assert dict(numerics.weights) == {"ffn": "mxfp4_fp4", "experts": "mxfp4_fp4"}
    assert numerics.kv == "fp8"


def test_projections_of_sparse_attention_have_their_names():
    keys = {**MOE, "architectures": ["DeepseekV32ForCausalLM"], "index_n_heads": 4, "index_head_dim": 16,
            "index_topk": 64}  # fmt: skip
    names = [f"model.layers.{n}.self_attn.o_proj" for n in range(12)]
    own = stored({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": names}, **keys)
    plain = stored({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": names}, **MOE)
    assert own["attention"]["bf16"] == pytest.approx(plain["attention"]["bf16"], rel=0.2)
