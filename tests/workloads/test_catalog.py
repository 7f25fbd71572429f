"""The model catalog: every entry loads, names are unique, Table I of the Duplex paper holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from opbyte.workloads.catalog import CatalogModel, catalog_entry, list_models, load_model
from opbyte.workloads.errors import InputError, SpecError
from opbyte.workloads.hf import model_from_keys
from opbyte.workloads.layers import FeedForward, MixtureOfExperts

from ..processes import environment
from ..tables import tables

# Duplex (arXiv 2409.01141), Table I: parameters [1e9], layers, hidden size, width of a block,
# query heads over key/value heads, experts, top-k, and matrices per feed-forward block.
TABLE_I = tables(__file__)["table i"]


@pytest.mark.parametrize("name", TABLE_I)
def test_duplex_table(name):
    params, layers, hidden, width, heads, group, experts, top_k, matrices = TABLE_I[name]
    spec = load_model(name)
    assert spec.total_params / 1e9 == pytest.approx(params, rel=0.009)
    assert (len(spec.layers), spec.hidden) == (layers, hidden)
    mixer, ffn = spec.layers[-1].mixer, spec.layers[-1].ffn
    assert (mixer.heads, mixer.heads // mixer.kv_heads, mixer.head_dim) == (heads, group, 128)
    assert (ffn.width, ffn.matrices) == (width, matrices)
    if experts is None:
        assert isinstance(ffn, FeedForward)
    else:
        assert isinstance(ffn, MixtureOfExperts)
        assert (ffn.experts, ffn.top_k) == (experts, top_k)
    assert spec.moe_layers == {"glam-143b": 16}.get(name, layers if experts else 0)


def test_entries():
    entries = [catalog_entry(name) for name in list_models()]
    names = [name.lower() for entry in entries for name in entry.names]
    assert len(names) == len(set(names))
    for entry in entries:
        assert isinstance(entry, CatalogModel)
        assert entry.title
        spec = load_model(entry.name)
        assert spec.name == entry.name
        assert spec.source == entry.source
        assert [catalog_entry(alias) for alias in entry.aliases] == [entry] * len(entry.aliases)


@pytest.mark.parametrize(("name", "total"), tables(__file__)["totals"])
def test_totals(name, total):
    assert load_model(name).total_params == pytest.approx(total, rel=0.007)


# Parameter counts that the hub shows, to the last one; less the stored copy of a tied head.
EXACT = {
    "llama-3.2-1b": 1_235_814_400, "llama-3.2-3b": 3_212_749_824, "qwen3-14b": 14_768_307_200,
    "qwen3-0.6b": 751_632_384 - 151_936 * 1024, "qwen3-1.7b": 2_031_739_904 - 151_936 * 2048,
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_exact_totals(name: str) -> None:
    assert load_model(name).total_params == EXACT[name]


# Of these `hf_published.json` holds the published totals; test_hf_published.py meets them.
PUBLISHED = json.loads((Path(__file__).parent / "hf_published.json").read_text())
BOTH = {name: name.lower() for name in PUBLISHED if name.lower() in list_models()}


@pytest.mark.parametrize("name", BOTH)
def test_entries_are_the_models_whose_totals_were_met(name: str) -> None:
    entry = load_model(BOTH[name])
    met = model_from_keys(PUBLISHED[name]["config"], name=name, where=name)
    assert (entry.total_params, entry.active_params) == (met.total_params, met.active_params)
    assert entry.kv_bytes_per_token == met.kv_bytes_per_token
    assert entry.kv_window == met.kv_window
    assert len(BOTH) >= 45


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("unsloth/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("DeepSeek-R1", "deepseek-v3"),
        ("GLM-4.6", "glm-4.5"),
        ("MIXTRAL-8x7B", "mixtral-8x7b"),
        ("meta-llama/llama-2-7b-HF", "llama-2-7b"),
    ],
)
def test_aliases(alias, name):
    assert load_model(alias).name == name


def test_paths_and_wrong_names(tmp_path):
    keys = '{"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 4,'
    file = tmp_path / "config.json"
    file.write_text(keys + ' "vocab_size": 10}')
    assert load_model(tmp_path) == load_model(str(file))
    with pytest.raises(SpecError, match="does not exist"):
        load_model("nowhere.json")
    with pytest.raises(InputError, match="did you mean 'mixtral-8x7b'"):
        load_model("mixtrol-8x7b")
    with pytest.raises(InputError, match="did you mean 'llama-3-8b'"):
        load_model("someone/Llama-3-8")
    with pytest.raises(InputError, match=r"give llama-3\.1-70b and --dtype fp8 or fp8_block"):
        load_model("nvidia/Llama-3.3-70B-Instruct-FP8")
    with pytest.raises(InputError, match="neither a model of the catalog"):
        load_model("a\0b")


def test_importing_the_reader_stays_light():
    code = "import sys, opbyte.workloads.hf; print(*sys.modules)"
    env = environment()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert not {"pandas", "numba", "matplotlib", "pydantic", "yaml"} & set(run.stdout.split())


def test_a_folder_is_the_users_model_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path whose last part is a catalog name must not be taken for a hub's identifier."""
    config = {**PUBLISHED["Qwen3-4B"]["config"], "num_hidden_layers": 3}
    folder = tmp_path / "mine" / "Llama-3-8B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    for path in (str(folder), folder, "mine/Llama-3-8B", "./mine/Llama-3-8B"):
        assert len(load_model(path).layers) == 3
    assert len(load_model("meta-llama/Llama-3-8B").layers) == 32
    assert catalog_entry("nowhere/deep/Llama-3-8B") is None
