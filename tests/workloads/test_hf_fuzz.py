"""Damaged configurations give a model or one line, never anything else, and quickly."""

import copy
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.workloads.errors import SpecError
from opbyte.workloads.hf import model_from_keys
from opbyte.workloads.model import ModelSpec

ROWS = json.loads((Path(__file__).parent / "hf_published.json").read_text())
CONFIGS = [row["config"] for row in ROWS.values()]

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 2, 3, 7, -1, 2**31 - 1, 2**31, 2_000_000_000, 10**30]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["auto", "full_attention", "mistral3", "llama", "fp8", "gptq"]),
    st.lists(st.integers(-1, 3) | st.sampled_from(["dense", "sliding_attention"]), max_size=4),
    st.dictionaries(st.sampled_from(["a", "weights"]), st.integers() | st.none(), max_size=2),
)
EXTRA = [
    "head_dim", "layer_types", "sliding_window", "attention_bias", "use_sliding_window",
    "torch_dtype", "quantization_config", "text_config", "max_position_embeddings",
    "mlp_only_layers", "moe_layers", "mlp_layer_types", "indexer_types", "no_rope_layers",
    "moe_layer_end_index", "mamba_dt_rank", "attn_type_list",
]  # fmt: skip


def _spots(node, at=()):
    for key, value in node.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from _spots(value, (*at, key))


@st.composite
def damaged(draw):
    config = copy.deepcopy(draw(st.sampled_from(CONFIGS)))
    for _ in range(draw(st.integers(1, 4))):
        spots = [*_spots(config), *((key,) for key in EXTRA)]
        *outer, key = draw(st.sampled_from(spots))
        at = config
        for name in outer:
            at = at[name]
        if draw(st.booleans()):
            at[key] = draw(JUNK)
        else:
            at.pop(key, None)
    return config


def outcome(config) -> ModelSpec | str:
    try:
        return model_from_keys(config, name="m", where="f.json")
    except SpecError as error:
        return str(error)


@settings(max_examples=600, deadline=2000)
@given(damaged())
def test_a_model_or_one_line(config):
    spec = outcome(config)
    if isinstance(spec, str):
        assert spec.startswith("f.json: ")
        assert "\n" not in spec
        return
    assert len(spec.layers) <= 2000
    assert 0 < spec.active_params <= spec.total_params
    assert spec.kv_bytes_per_token >= 0
    assert len(spec.kv_window) == len(spec.layers)
