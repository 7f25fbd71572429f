"""Layers written out: any kind can be named, YAML reads as JSON does, complaints are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import SpecError
from opbyte.workloads.hf import model_from_keys
from opbyte.workloads.layers import Attention, MixtureOfExperts, SpanAttention

from ..tables import tables

ATTENTION = {"kind": "attention", "heads": 8, "kv_heads": 4, "head_dim": 64}
LAYER: dict[str, Any] = {"times": 3, "mixer": ATTENTION, "ffn": {"kind": "ffn", "width": 1024}}
KEYS: dict[str, Any] = {"architectures": ["LayerList"], "hidden_size": 512, "vocab_size": 1000, "layers": [LAYER]}


def read(layer: dict[str, Any], **changes: Any) -> Any:
    keys = {**KEYS, "layers": [{**LAYER, **layer}], **changes}
    return model_from_keys(keys, name="m", where="f.json")


def test_it_is_the_model_that_its_config_json_describes() -> None:
    llama = {"architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1024,
             "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4,
             "vocab_size": 1000}  # fmt: skip
    assert read({}).layers == model_from_keys(llama, name="m", where="f.json").layers


def test_yaml_reads_as_json_does(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(KEYS))
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(KEYS))
    one, other = load_model(str(tmp_path / "m.json")), load_model(str(tmp_path / "m.yaml"))
    assert (one.layers, one.name) == (other.layers, other.name)


def test_parts_in_parts_lists_and_defaults() -> None:
    spans = {"kind": "attention_spans", "base": ATTENTION, "spans": [[8, 0, 0.5]], "length": 4096}
    experts = {"kind": "moe", "experts": 8, "top_k": 2, "width": 64}
    (layer, *_) = read({"mixer": spans, "ffn": experts, "parallel": True, "norms": 1}).layers
    assert layer.mixer == SpanAttention(Attention(512, 8, 4, 64), ((8, 0.0, 0.5),), 4096)
    assert layer.ffn == MixtureOfExperts(512, 8, 2, 64)
    assert (layer.parallel, layer.norms, layer.norm_width) == (True, 1, 512)
    alone = read({"ffn": None}).layers[0]
    assert (alone.ffn, alone.norms) == (None, 1)


@pytest.mark.parametrize(("layer", "said"), tables(__file__)["bad"])
def test_bad_layers_are_one_line(layer: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as error:
        read(layer)
    assert f"f.json: {said}" in str(error.value) or f".{said}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layers", [None, [], [3]])
def test_a_list_of_layers_is_needed(layers: Any) -> None:
    with pytest.raises(SpecError, match=r"layers"):
        model_from_keys({**KEYS, "layers": layers}, name="m", where="f.json")


def test_kinds_within_kinds_end_somewhere() -> None:
    part: dict[str, Any] = ATTENTION
    for _ in range(20):
        part = {"kind": "attention_mixture", "base": part, "experts": 1}
    with pytest.raises(SpecError, match="nested more than 8 deep"):
        read({"mixer": part})


def test_a_part_of_the_wrong_kind_is_refused() -> None:
    inner = {"kind": "attention_mixture", "base": ATTENTION, "experts": 2}
    with pytest.raises(SpecError, match=r"base.kind: must be attention, not attention_mixture"):
        read({"mixer": {**inner, "base": inner}})
