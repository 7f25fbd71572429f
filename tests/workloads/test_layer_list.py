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


SPANS = {"kind": "attention_spans", "base": ATTENTION, "spans": [[8, 0, 0.5]], "length": 4096}


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"mixer": None}, "layers[0].mixer: is null; an object is required"),
        ({"mixer": {}}, "layers[0].mixer.kind: is missing; the name of a layer kind"),
        ({"mixer": {"kind": "atention"}}, "mixer.kind: unknown layer kind 'atention'; did you mean"),
        ({"mixer": {**ATTENTION, "head": 8}}, "mixer.head: unknown key; did you mean 'heads'"),
        ({"mixer": {"kind": "attention", "heads": 8, "kv_heads": 4}}, "mixer.head_dim: is missing"),
        ({"mixer": {**ATTENTION, "kv_heads": 3}}, "mixer.kv_heads: must divide the 8 query heads"),
        ({"mixer": {**ATTENTION, "heads": 8.5}}, "mixer.heads: must be a whole number"),
        ({"mixer": {**ATTENTION, "hidden": 64}}, "mixer.hidden: must be hidden_size, 512, not 64"),
        ({"mixer": {**ATTENTION, "gated": 1}}, "mixer.gated: must be true or false"),
        ({"mixer": {**SPANS, "spans": 3}}, "mixer.spans: must be a list, not 3"),
        ({"mixer": {**SPANS, "spans": [[8, 0]]}}, "mixer.spans[0]: must have 3 entries, not 2"),
        ({"mixer": {**SPANS, "spans": [[8, 0, "x"]]}}, "mixer.spans[0][2]: must be a number"),
        ({"mixer": {**SPANS, "spans": [[7, 0, 1]]}}, "mixer.spans: must be of 8 query heads"),
        ({"mixer": {**SPANS, "base": 3}}, "mixer.base: is 3; an object is required"),
        ({"mixer": {"kind": "memories", "states": 0, "top_k": 1, "net": {
            "kind": "delta_net", "key_heads": 1, "value_heads": 1, "key_dim": 8, "value_dim": 8,
            "d_conv": 1}}}, "mixer.states: must be a whole number from 1"),
        ({"mixer": {"kind": "attention_heads", "base": ATTENTION, "shared": 2, "top_k": 7}},
         "mixer.top_k: must be from 1 to the 6 heads that are not shared, not 7"),
        ({"ffn": {"kind": "moe", "experts": 4, "top_k": 5, "width": 8}},
         "ffn.top_k: must be from 1 to the 4 experts, not 5"),
        ({"mixer": {**ATTENTION, "heads": 0}}, "mixer.heads: must be a whole number from 1"),
        ({"times": 0}, "layers[0].times: must be a whole number from 1"),
        ({"times": 2001}, "layers[0].times: makes more than 2000 layers"),
        ({"depth": 2}, "layers[0].depth: unknown key"),
    ],
)  # fmt: skip
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
