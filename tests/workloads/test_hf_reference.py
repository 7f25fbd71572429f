"""Every reference configuration against the parameter counts of its folder's README."""

import os
from pathlib import Path

import pytest

from opbyte.workloads.hf import read_config
from opbyte.workloads.model import ModelSpec

from ..tables import tables

COUNTED = tables(__file__)["counted"]

# 2 * key/value heads * head size * layers * 2 B, or (512 + 64) * layers * 2 B for latent attention.
KV_BYTES = {
    "Mixtral-8x7B-v0.1": 131_072,
    "Llama-2-7b-hf": 524_288,
    "DeepSeek-V3": 70_272,
    "Qwen3-30B-A3B": 98_304,
    "falcon-180B": 2 * 8 * 64 * 80 * 2,
    "AI21-Jamba-Mini-1.6": 2 * 8 * 128 * 4 * 2,
    "Qwen3-Next-80B-A3B": 2 * 2 * 256 * 12 * 2,
    "OLMo-2-1124-7B": 524_288,
}


def reference(name: str) -> ModelSpec:
    data = os.environ.get("OPBYTE_DATA")
    if data is None:
        pytest.skip("OPBYTE_DATA is not set")
    return read_config(Path(data) / "model_configs" / name)


def test_every_configuration_of_the_folder_is_in_the_table():
    reference("Llama-2-7b-hf")
    folder = Path(os.environ["OPBYTE_DATA"]) / "model_configs"
    assert {path.parent.name for path in folder.glob("*/config.json")} == set(COUNTED)


@pytest.mark.parametrize("name", COUNTED)
def test_parameters(name):
    total, active = COUNTED[name]
    spec = reference(name)
    # The table has two decimals.
    assert spec.total_params / 1e9 == pytest.approx(total, abs=0.0051)
    assert spec.active_params / 1e9 == pytest.approx(active or total, abs=0.0051)
    assert spec.name == name


@pytest.mark.parametrize("name", KV_BYTES)
def test_kv_bytes_per_token(name):
    assert reference(name).kv_bytes_per_token == KV_BYTES[name]


def test_state_layers_have_a_constant_state_and_no_cache():
    jamba = reference("AI21-Jamba-Mini-1.6")
    attention = [i for i, la in enumerate(jamba.layers) if la.mixer.kind == "attention"]
    assert attention == [4, 12, 20, 28]
    # 28 layers of 8,192 channels with a state of 16 and a convolution of 4, in 16 bit.
    assert jamba.state_bytes_per_sequence == 28 * 8192 * (16 + 4) * 2
    assert jamba.moe_layers == 16

    qwen = reference("Qwen3-Next-80B-A3B")
    assert [la.mixer.kind for la in qwen.layers[:4]] == ["delta_net"] * 3 + ["attention"]
    # 36 layers of 32 heads of 128 x 128, and 3 steps of convolution over 8,192 channels.
    assert qwen.state_bytes_per_sequence == 36 * (32 * 128 * 128 + 3 * 8192) * 2


def test_windows():
    assert reference("Mistral-7B-v0.1").kv_window == (4096,) * 32
    assert reference("gemma-2-27b").kv_window == (4096, None) * 23
    assert reference("gpt-oss-20b").kv_window == (128, None) * 12
    assert reference("Llama-4-Scout-17B-16E-Instruct").kv_window == (8192, 8192, 8192, None) * 12
    # These files hold a sliding_window that their family does not use.
    assert set(reference("Qwen1.5-MoE-A2.7B").kv_window) == {None}
    assert set(reference("Qwen3-30B-A3B").kv_window) == {None}


def test_layers_with_experts():
    assert reference("DeepSeek-V3").moe_layers == 58
    assert reference("GLM-4.5").moe_layers == 89
    assert reference("GLaM-64B-64E").moe_layers == 32
    assert reference("jetmoe-8b").moe_layers == 24


def test_formats():
    # Its config.json: weight_block_size [128, 128].
    deepseek = reference("DeepSeek-V3").numerics
    assert {g: deepseek.weight_format(g) for g in ("attention", "ffn", "experts", "head")} == {
        "attention": "fp8_block",
        "ffn": "fp8_block",
        "experts": "fp8_block",
        "head": "bf16",
    }
    gpt_oss = reference("gpt-oss-20b")
    assert gpt_oss.numerics.weights == (("experts", "mxfp4"),)
    # The checkpoint is 12.8 GiB (gpt-oss model card, arXiv 2508.10925, table 1).
    assert gpt_oss.weight_bytes / 2**30 == pytest.approx(12.8, rel=0.005)
    # Saved in 32 bit, served in 16.
    assert reference("OLMo-2-1124-7B").numerics.default == "bf16"
    assert reference("opt-66b").numerics.default == "fp16"
    for name in COUNTED:
        assert reference(name).numerics.kv_bytes == 2
