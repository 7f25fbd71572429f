"""Do sparse attention and recurrent layers of 2026 cost the same on both paths, and as their formulas say?

Models are small files of the published classes. As everywhere, the explicit path is the definition and
the compiled one agrees to 1e-9.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.workloads.hf import model_from_keys

from .pieces import batches_up_to
from .two_paths import check_paths

EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
           "n_shared_experts": 1, "first_k_dense_replace": 1, "intermediate_size": 512}  # fmt: skip
SIZES = {"hidden_size": 512, "vocab_size": 1000, "num_hidden_layers": 4, "num_attention_heads": 8,
         "num_key_value_heads": 8}  # fmt: skip
LATENT = {"kv_lora_rank": 512, "q_lora_rank": 256, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
INDEX = {"index_n_heads": 8, "index_head_dim": 128, "index_topk": 256}
FILES: dict[str, dict[str, Any]] = {
    "DeepseekV32ForCausalLM": {**SIZES, **LATENT, **INDEX, **EXPERTS},
    "GlmMoeDsaForCausalLM": {**SIZES, **LATENT, **INDEX, **EXPERTS,
                             "indexer_types": ["full", "shared", "shared", "full"]},
    "Qwen3_5ForCausalLM": {
        **SIZES, "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 512,
        "linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "mamba_ssm_dtype": "float32",
    },
    "DeepseekV4ForCausalLM": {
        **SIZES, **INDEX, **EXPERTS, "head_dim": 512, "qk_rope_head_dim": 64, "q_lora_rank": 256,
        "o_groups": 4, "o_lora_rank": 64, "sliding_window": 128, "hc_mult": 4, "num_hash_layers": 1,
        "compress_ratios": [0, 4, 128, 4],
    },
    "MiniMaxM3ForCausalLM": {
        **SIZES, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 256,
        "num_local_experts": 4, "num_experts_per_tok": 2,
        "sparse_attention_config": {
            "sparse_attention_freq": [0, 1, 1, 1], "sparse_block_size": 128, "sparse_topk_blocks": 4,
            "sparse_num_index_heads": 4, "sparse_index_dim": 128,
        },
    },
    "KimiLinearForCausalLM": {
        **SIZES, **LATENT, "q_lora_rank": None, "num_experts": 4, "num_experts_per_token": 2,
        "moe_intermediate_size": 256, "intermediate_size": 512, "first_k_dense_replace": 1,
        "linear_attn_config": {"full_attn_layers": [4], "head_dim": 128, "num_heads": 8},
    },
    "Dots3NoteForCausalLM": {
        **SIZES, **LATENT, **INDEX, **EXPERTS, "sliding_window": 512,
        **{f"swa_num_{what}_heads": 4 for what in ("attention", "key_value")},
    },
    "MistralLarge4ForCausalLM": {
        **SIZES, **LATENT, **INDEX, **EXPERTS, "q_lora_rank": None, "kv_source_layers": [0, 0, 2, 2],
    },
    "Qwen4ExpForCausalLM": {
        **SIZES, "num_key_value_heads": 4, "head_dim": 64, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 256, "linear_num_key_heads": 4, "linear_num_value_heads": 8,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "indexer_n_heads": 4,
        "indexer_head_dim": 128, "indexer_budget": 512, "indexer_compress_ratio": 16,
    },
}  # fmt: skip


@cache
def deployed(name: str, system: str, short: bool = False, costs: str = "auto") -> Deployment:
    keys = {**FILES[name], "architectures": [name]}
    model = model_from_keys(keys, name=name, where="f.json")
    return deploy(model, load_system(system), tp=2, short_dense=short, costs=costs)


batches = batches_up_to(90_000, 400)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=6)
def test_both_paths_agree(name: str, data: st.DataObject) -> None:
    system, costs = data.draw(
        st.sampled_from((("h200-x2", "auto"), ("duplex-plain-x2", "auto"), ("h200-x2", "roofline")))
    )
    d = deployed(name, system, data.draw(st.booleans()), costs)
    check_paths(d, [[data.draw(batches)]], 3)
