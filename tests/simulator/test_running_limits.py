"""What runs at once, and how memory is split: SGLang's rules by version, model, card and memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.kv import kv_rules
from opbyte.simulator.frameworks.settings import EngineSettings
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import deployment_of
from opbyte.workloads.errors import InputError

from ..tables import tables

TABLES = tables(__file__)

Made = tuple[Deployment, EngineSettings]
Make = Callable[..., Made]
DRAFTS = {"speculative": "mtp:3", "acceptance": "0.7,0.7,0.7"}


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """A model on a system, and what an engine (SGLang) with such keys runs with there."""

    def make(model: str, system: str, version: str, options: dict[str, Any] | None = None, **keys: Any) -> Made:
        path = tmp_path / "engine.json"
        path.write_text(json.dumps({"engine": "sglang", "version": version, **keys}))
        load = {"rate": 1.0, "requests": 10, "input_len": 100, "output_len": 100}
        return deployment_of(Scenario.of(model, system=system, engine=str(path), **load, **(options or {})))

    return make


@pytest.mark.parametrize(
    ("model", "system", "version", "share"),  # by server_args.py, of cards with 81,559, 143,771, 183,359 and 196,608 MiB
    [
        ("llama-3.1-8b", "h100-x1", "0.5.2", 0.874), ("llama-3.1-70b", "h100-x8", "0.5.2", 0.831),
        ("llama-3.1-8b", "h200-x1", "0.5.2", 0.911), ("llama-3.1-70b", "h200-x8", "0.5.2", 0.886),
        ("llama-3.1-8b", "b200-x1", "0.5.2", 0.821), ("llama-3.1-8b", "h100-x1", "0.5.3", 0.835),
        ("llama-3.1-70b", "h100-x8", "0.5.9", 0.818), ("llama-3.1-8b", "h200-x1", "0.5.9", 0.907),
        ("llama-3.1-70b", "b200-x8", "0.5.9", 0.852), ("llama-3.1-8b", "h100-x1", "0.5.12", 0.830),
        ("llama-3.1-70b", "h100-x8", "0.5.12", 0.812), ("deepseek-v3", "h200-x8", "0.5.12", 0.886),
        ("llama-3.1-8b", "b200-x1", "0.5.19", 0.854), ("llama-3.1-8b", "mi300x-x1", "0.5.9", 0.867 * 0.85),
        ("llama-3.1-70b", "h100-x8", "0.4.0", 0.81), ("gemma-4-26b-a4b", "h200-x1", "0.5.9", 0.907 * 0.95 * 0.9576),
        ("minimax-m3", "h200-x8", "0.5.12", 0.897 * 0.95 * 0.89167),
        ("llama-4-scout", "h200-x8", "0.5.12", 0.897 * 0.95 * 0.83216),
        ("qwen3.5-35b-a3b", "h200-x1", "0.5.9", 0.907 * 0.95 * 0.97344),  # its file has `depth`: 24 layers
    ],
)  # fmt: skip
def test_the_share_of_memory_follows_from_the_card(
    model: str, system: str, version: str, share: float, made: Make
) -> None:
    d, settings = made(model, system, version, tp_size=int(system.rpartition("x")[2]))
    total = d.system.device.memory.capacity_bytes
    assert settings.cache.memory_bytes == pytest.approx(share * total, rel=1e-4)


def test_data_parallel_attention_keeps_more_memory(made: Make) -> None:
    keys = {"tp_size": 8, "dp_size": 8, "enable_dp_attention": True}
    d, settings = made("deepseek-v3", "h200-x8", "0.5.9", **keys)
    assert settings.cache.memory_bytes == pytest.approx(0.769 * d.system.device.memory.capacity_bytes, rel=1e-4)


@pytest.mark.parametrize(
    ("model", "system", "version", "options", "keys", "most", "why"),
    [
        ("deepseek-v4-flash", "h100-x8", "0.5.15", {}, {"tp_size": 8}, 256, "DeepSeek-V4"),
        ("deepseek-v4-flash", "b200-x4", "0.5.15", {}, {"tp_size": 4, "dp_size": 4, "enable_dp_attention": True},
         64, "over 4 ranks"),
        ("deepseek-v3", "b200-x8", "0.5.9", DRAFTS, {"tp_size": 8}, 48, "drafts"),
        ("deepseek-v3", "b200-x8", "0.5.9", DRAFTS, {"tp_size": 8, "max_running_requests": 100}, 100, "max_running"),
        ("deepseek-v4-flash", "h100-x8", "0.5.15", DRAFTS, {"tp_size": 8}, 256, "DeepSeek-V4"),
    ],
)  # fmt: skip
def test_defaults_of_models_and_drafts(
    model: str,
    system: str,
    version: str,
    options: dict[str, Any],
    keys: dict[str, Any],
    most: int,
    why: str,
    made: Make,
) -> None:
    policy = made(model, system, version, options, **keys)[1].policy
    assert policy.max_sequences == most
    assert why in policy.sequences_why


def test_early_versions_have_no_limit_with_drafts(made: Make) -> None:
    assert made("deepseek-v3", "b200-x8", "0.4.0", DRAFTS, tp_size=8)[1].policy.max_sequences >= 2048


def test_a_key_beats_what_the_deployment_would_have(made: Make) -> None:
    assert made("deepseek-v4-flash", "h100-x8", "0.5.15", {"max_seqs": 12}, tp_size=8)[1].policy.max_sequences == 12


@pytest.mark.parametrize(("version", "keys", "each", "overlap"), TABLES["states have a pool of their own"])
def test_states_have_a_pool_of_their_own(
    version: str, keys: dict[str, Any], each: int, overlap: bool, made: Make
) -> None:
    """States take 0.9 of what tokens take; a request counts with several, by how states are kept for others."""
    d, settings = made("qwen3.5-35b-a3b", "h200-x1", version, mem_fraction_static=0.8, **keys)
    kv = d.memories(settings.cache.memory_bytes)[0].kv
    state = d.shard.state_bytes_per_sequence
    slots = int(kv * 0.9 / 1.9 / state)
    assert (settings.policy.max_sequences, settings.policy.ahead) == (slots // each, overlap)
    assert "state cache" in settings.policy.sequences_why
    rules = kv_rules(d, settings.cache_for(d), True)
    assert rules.capacity + slots * state == pytest.approx(kv, rel=1e-3)
    assert rules.constant == 0.0
    assert rules.cached


def test_what_is_said_of_states_holds(made: Make) -> None:
    def most(**keys: Any) -> int:
        return made("qwen3.5-35b-a3b", "h200-x1", "0.5.16", mem_fraction_static=0.8, **keys)[1].policy.max_sequences

    assert most(max_mamba_cache_size=100) == 20
    assert most(mamba_full_memory_ratio=0.5) < most() < most(mamba_full_memory_ratio=2.0)
    with_drafts = made("qwen3.5-35b-a3b", "h200-x1", "0.5.16", DRAFTS, mem_fraction_static=0.8)[1].policy
    assert with_drafts.max_sequences < 48  # a state for every token that is verified
    assert "state cache" in with_drafts.sequences_why
    with pytest.raises(InputError, match="a request needs 5"):
        most(max_mamba_cache_size=4)


@pytest.mark.parametrize(
    ("model", "system", "version", "keys", "share"), TABLES["window layers have room for a share of all tokens"]
)
def test_window_layers_have_room_for_a_share_of_all_tokens(
    model: str, system: str, version: str, keys: dict[str, Any], share: float, made: Make
) -> None:
    d, settings = made(model, system, version, tp_size=2, **keys)
    rules, classes = kv_rules(d, settings.cache_for(d), True), d.shard.kv_classes()
    token = sum(size * (share if window else 1.0) for window, size in classes.items())
    assert rules.window.tolist() == [0]
    assert rules.block_bytes[0] == pytest.approx(token * rules.block)
    assert rules.cached


@pytest.mark.parametrize("model", ["qwen3.5-35b-a3b", "gpt-oss-120b", "llama-3.1-8b"])
def test_more_memory_never_runs_less(model: str, made: Make) -> None:
    """Places and tokens grow with the share of memory and with the card."""
    found = []
    for system, share in (("h100-x2", 0.8), ("h100-x2", 0.9), ("h200-x2", 0.9), ("b300-x2", 0.9)):
        d, settings = made(model, system, "0.5.16", tp_size=2, mem_fraction_static=share)
        rules = kv_rules(d, settings.cache_for(d), True)
        found.append((settings.policy.max_sequences, rules.blocks * rules.block))
    assert found == sorted(found)
    assert all(fewer[1] < more[1] for fewer, more in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("model", "system", "version", "keys", "limits"),  # tokens, sequences, and tokens of a block
    TABLES["vllms limits go by device model and exchange"],
)
def test_vllms_limits_go_by_device_model_and_exchange(
    model: str, system: str, version: str, keys: dict[str, Any], limits: list[int], made: Make
) -> None:
    _, settings = made(model, system, version, engine="vllm", **keys)
    policy = settings.policy
    assert [policy.token_budget, policy.max_sequences, settings.cache.block_tokens] == limits
    assert ("default" in policy.sequences_why) == ("max_num_seqs" not in keys)


def test_early_vllm_keeps_all_tokens_of_window_layers(made: Make) -> None:
    for version, keeps in (("0.8.5", True), ("0.9.2", False)):
        d, settings = made("gemma-3-27b", "h100-x1", version, engine="vllm")
        assert (kv_rules(d, settings.cache_for(d), True).window.tolist() == [0]) == keeps
