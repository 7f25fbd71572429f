"""Stored formats: what a quantization_config converts and what it leaves alone."""

import pytest

from opbyte.workloads.errors import SpecError
from opbyte.workloads.hf import model_from_keys

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
        ("ignore", ["re:.*self_attn.*", "re:.*shared_experts.*"], ("attention", "ffn")),
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


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({}, "quant_method: is missing"),
        ("fp8", "quantization_config: is 'fp8'; an object is required"),
        ({"quant_method": "zip"}, "unknown quantisation method 'zip'; known: awq"),
        ({"quant_method": "fp9"}, "did you mean 'fp8'?"),
        ({"quant_method": 8}, "must be text, not 8"),
        ({"quant_method": "gptq"}, "quantization_config.bits: is missing"),
        ({"quant_method": "gptq", "bits": 3}, "bits: must be 4 or 8, not 3"),
        ({"quant_method": "bitsandbytes"}, "load_in_4bit"),
        ({"quant_method": "modelopt", "quant_algo": "X"}, "quant_algo: unknown algorithm 'X'"),
        ({"quant_method": "compressed-tensors"}, "config_groups: is missing"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "group_0: is missing"),
        (compressed(2, "int"), "2 bits of type 'int' are not known"),
        ({"quant_method": "fp8", "ignore": "self_attn"}, "ignore: must be a list"),
        ({"quant_method": "fp8", "ignore": [7]}, "must hold module names, not 7"),
    ],
)
def test_refusals(quantization, message):
    with pytest.raises(SpecError) as error:
        formats(quantization)
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
