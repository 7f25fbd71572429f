"""Bad configurations: one line that names the file, the key and what would be right."""

import json

import pytest

from opbyte.workloads.errors import SpecError
from opbyte.workloads.hf import model_from_keys, read_config

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
}  # fmt: skip
MIXTRAL = {**LLAMA, "architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}
QWEN = {**LLAMA, "architectures": ["Qwen2ForCausalLM"]}


def complaint(call):
    with pytest.raises(SpecError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    return text


def refused(keys, **changes):
    keys = {k: v for k, v in {**keys, **changes}.items() if v != "drop"}
    return complaint(lambda: model_from_keys(keys, name="m", where="f.json"))


def of_file(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return complaint(lambda: read_config(path)).removeprefix(str(path))


SIZE = "must be a whole number from 1 to 2147483647, not "


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "true"), (-1, "-1"), (0, "0"), (2**31, "2147483648"), (1.0, "1.0"),
        (float("nan"), "nan"), (float("inf"), "inf"), ("64", "'64'"), ([64], "a list of 1"),
        ({}, "an object"), (10**4000, "an integer of 13288 bits"), ("x" * 999, "'" + "x" * 56),
    ],
)  # fmt: skip
def test_sizes(value, shown):
    assert f"f.json: hidden_size: {SIZE}{shown}" in refused(LLAMA, hidden_size=value)


@pytest.mark.parametrize("key", [k for k in MIXTRAL if k != "architectures"])
def test_every_key_is_required(key):
    what = "is missing; a whole number from 1 to 2147483647 is required"
    assert f"{key}: {what}" in refused(MIXTRAL, **{key: "drop"})
    if key != "num_key_value_heads":  # null stands for as many as query heads there
        assert f"{key}: is null; a whole number" in refused(MIXTRAL, **{key: None})


@pytest.mark.parametrize(
    ("keys", "changes", "message"),
    [
        (MIXTRAL, {"num_experts_per_tok": 5}, "num_experts_per_tok: must be at most the 4 experts"),
        (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads: must divide the 4 query heads"),
        (LLAMA, {"num_key_value_heads": 8}, "num_key_value_heads: must divide the 4 query heads"),
        (LLAMA, {"hidden_size": 63}, "num_attention_heads: must divide the hidden size 63"),
        (LLAMA, {"num_hidden_layers": 2_000_000_000}, "num_hidden_layers: must be at most 2000"),
        (LLAMA, {"tie_word_embeddings": "yes"}, "must be true or false, not 'yes'"),
        (LLAMA, {"attention_bias": 1}, "attention_bias: must be true or false, not 1"),
        (LLAMA, {"max_position_embeddings": -5}, "max_position_embeddings: must be a whole"),
        (QWEN, {"layer_types": ["full_attention"]}, "one entry per layer: 2, not 1"),
        (QWEN, {"layer_types": ["full_attention", "sliding"]}, "layer_types[1]: unknown kind"),
        (QWEN, {"layer_types": ["full_attention", 3]}, "layer_types[1]: unknown kind 3; known"),
        (QWEN, {"layer_types": "full"}, "layer_types: must be a list, not 'full'"),
        (QWEN, {"layer_types": ["sliding_attention"] * 2}, "sliding_window: is required"),
        (QWEN, {"sliding_window": -1}, "sliding_window: must be a whole number from 0"),
    ],
)
def test_values_that_do_not_fit(keys, changes, message):
    assert message in refused(keys, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["Zzz"]}, "architectures: unknown architecture 'Zzz'; families that share its keys: "),
        ({"architectures": ["ZzzForCausalLM"], "own_dim": 3}, "not understood by the first: own_dim"),
        ({"architectures": ["Zzz"], "model_type": "llama"}, "unknown architecture 'Zzz'"),
        ({"architectures": ["LlamaForCausalLM"] * 2}, "must name one class, not 2"),
        ({"architectures": "LlamaForCausalLM"}, "architectures: must be a list"),
        ({"architectures": [7]}, "must hold a class name, not 7"),
        ({"architectures": None}, "architectures: is missing, as is model_type"),
        ({"architectures": [], "model_type": "lama"}, "model_type: unknown model type 'lama'"),
        ({"architectures": "drop", "model_type": 3}, "model_type: must be text, not 3"),
    ],
)
def test_architectures(changes, message):
    assert message in refused(LLAMA, **changes)


def test_sections():
    wrapper = {"architectures": ["Mistral3ForConditionalGeneration"]}
    assert "text_config: is missing; an object is required" in refused(wrapper)
    assert "text_config: is a list of 0; an object" in refused(wrapper, text_config=[])
    assert "text_config: is 3; an object" in refused(LLAMA, text_config=3)
    inner = {k: v for k, v in LLAMA.items() if k != "architectures"}
    unknown = {"architectures": ["Zzz"], "text_config": inner}
    assert "f.json: architectures: unknown architecture 'Zzz'" in refused(unknown)
    text = {k: v for k, v in LLAMA.items() if k not in ("architectures", "vocab_size")}
    assert "f.json: text_config.vocab_size: is missing" in refused(wrapper, text_config=text)
    nested = {**text, "model_type": "clip"}
    assert "text_config.model_type: unknown model type 'clip'" in refused(wrapper, text_config=nested)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": is empty"),
        ("  \n ", ": is empty"),
        ('{"a": 1,\n  "b": }', ":2:8: is not JSON: Expecting value"),
        ("[1, 2]", ": must be a JSON object, not list"),
        ("3", ": must be a JSON object, not int"),
        (b'{"a": "\xff"}', ": is not UTF-8 text (byte 7)"),
        ('{"a": 1, "a": 2}', ": duplicate key 'a'; keep one"),
        ('{"x": {"a": 1, "a": 2}}', ": duplicate key 'a'; keep one"),
        ('{"a": ' + "9" * 5000 + "}", ": holds a number too long to be a size"),
        ("[" * 200_000, ": is nested too deeply to be a configuration"),
        ('{"a":' * 200_000, ": is nested too deeply to be a configuration"),
        ("\ufeff{}", ":1:1: is not JSON: Unexpected UTF-8 BOM"),
    ],
)
def test_files(tmp_path, text, message):
    assert of_file(tmp_path, text).startswith(message)


def test_paths(tmp_path):
    assert "is a folder without a config.json" in complaint(lambda: read_config(tmp_path))
    assert "does not exist" in complaint(lambda: read_config(tmp_path / "no.json"))
    assert "does not exist" in complaint(lambda: read_config("a\0b"))
    assert "does not exist" in complaint(lambda: read_config("x" * 5000))
    large = tmp_path / "large.json"
    with large.open("wb") as stream:
        stream.truncate(9 << 20)
    assert "is larger than 8 MiB" in complaint(lambda: read_config(large))
    (tmp_path / "config.json").mkdir()
    assert "is not a regular file" in complaint(lambda: read_config(tmp_path))


def test_names(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "other.json").write_text(json.dumps(LLAMA))
    assert read_config(folder).name == "my-model"
    assert read_config(folder / "config.json").name == "my-model"
    assert read_config(folder / "other.json").name == "other"
    assert read_config(folder).source == str(folder / "config.json")
