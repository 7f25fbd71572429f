"""Bad configurations: one line that names the file, the key and what would be right."""

import json

import pytest

from opbyte.workloads.errors import SpecError
from opbyte.workloads.hf import model_from_keys, read_config

from .conftest import refused_configs

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


@pytest.mark.parametrize(("keys", "changes", "message"), refused_configs("values"))
def test_values_that_do_not_fit(keys, changes, message):
    assert message in refused(globals()[keys], **changes)


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
        ('{"a": ' + "9" * 5000 + "}", ": contains a number with too many digits"),
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
