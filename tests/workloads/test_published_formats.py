"""Does each model of the catalog have the format in which it is published?

Expected values: the `quantization_config` of the published config.json (kept in public repositories as named), or the
maker's recipe where it says the format.
"""

from __future__ import annotations

import pytest

from opbyte.workloads.catalog import HUB, fp8_format, load_model
from opbyte.workloads.yamlfile import read_yaml

CONFIGS = "ai-dynamo/aiconfigurator@095f58a5:aic-core/src/aiconfigurator_core/model_configs"
BLOCKS = {"attention": "fp8_block", "ffn": "fp8_block", "experts": "fp8_block"}
PUBLISHED = {
    "deepseek-v3": (BLOCKS, "config.json of deepseek-ai/DeepSeek-V3: fp8, blocks of 128 x 128"),
    "deepseek-v3.2-exp": (BLOCKS, f"{CONFIGS}/deepseek-ai--DeepSeek-V3.2_config.json: fp8, blocks of 128 x 128"),
    "deepseek-v4-flash": (
        {**BLOCKS, "experts": "mxfp4_mxfp8"}, f"{CONFIGS}/deepseek-ai--DeepSeek-V4-Flash_config.json: fp4 experts",
    ),
    "kimi-k2": (BLOCKS, "config.json of moonshotai/Kimi-K2-Instruct: fp8, blocks of 128 x 128"),
    "ministral-3-14b": (
        dict.fromkeys(BLOCKS, "fp8"), "NVIDIA/TensorRT-LLM#15123: fp8, static, without blocks",
    ),
    "kimi-k2.6": ({"experts": "int4"}, "config.json of moonshotai/Kimi-K2.5 and K2-Thinking: INT4 experts"),
    "gpt-oss-120b": ({"experts": "mxfp4"}, "config.json of openai/gpt-oss-120b: mxfp4"),
    "minimax-m2": (BLOCKS, "config.json of MiniMaxAI/MiniMax-M2: fp8, blocks of 128 x 128"),
    "mimo-v2-flash": (BLOCKS, f"{CONFIGS}/XiaomiMiMo--MiMo-V2-Flash_config.json: fp8, blocks of 128 x 128"),
    "minimax-m3": ({}, f"{CONFIGS}/MiniMaxAI--MiniMax-M3_config.json: bfloat16; MXFP8 is a checkpoint beside it"),
    "glm-5": ({}, "config.json of zai-org/GLM-5: bfloat16; zai-org/GLM-5-FP8 is a checkpoint beside it"),
    "exaone-4.0-32b": ({}, "config.json of LGAI-EXAONE/EXAONE-4.0-32B: bfloat16"),
}  # fmt: skip


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_model_has_the_format_it_is_published_in(model: str) -> None:
    """Finding U1: DeepSeek-V3.2 was priced in bf16, and did not fit eight B200."""
    expected, source = PUBLISHED[model]
    found = load_model(model)
    assert dict(found.numerics.weights) == expected, source
    assert found.numerics.default == "bf16"


def test_fp8_of_a_model_has_the_scales_of_its_listed_copy() -> None:
    for checkpoint, copies in read_yaml(HUB).items():
        assert [name for name in copies if name[:3] == "fp8"] in ([], [fp8_format(load_model(checkpoint))])
    assert fp8_format(load_model("ministral-3-8b")) == "fp8"


def test_deepseek_v3_2_weighs_what_its_checkpoint_does() -> None:
    """671.9e9 weights of 1 byte with a scale for 128 x 128, embedding and head in 16 bit; the indexer on top of V3."""
    v3, later = load_model("deepseek-v3"), load_model("deepseek-ai/DeepSeek-V3.2")
    assert v3.weight_bytes < later.weight_bytes < 1.01 * v3.weight_bytes
