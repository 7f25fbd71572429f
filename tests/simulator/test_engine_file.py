"""Is an engine.json read as its engine means it, and refused in one clear line otherwise?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opbyte import simulate
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.engine.host import SYNC_GAP_S
from opbyte.simulator.engine.kv import kv_rules
from opbyte.simulator.engine.policies import POLICIES
from opbyte.simulator.frameworks.engine_file import read_engine
from opbyte.simulator.frameworks.engines import EARLY_GAP_S, ENGINES, LaunchSettings, upkeep_of
from opbyte.simulator.frameworks.vllm_file import NULL_BLOCKS
from opbyte.simulator.frameworks.vllm_rules import LOGIT_BYTES
from opbyte.simulator.step.launches import NO_LAUNCHES
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError

from ..tables import tables


def on_system(model: str, system: str) -> Deployment:
    return deploy(load_model(model), load_system(f"{system}-x1"))


@pytest.fixture
def engine_json(tmp_path: Path) -> Callable[[object], Path]:
    def write(content: object) -> Path:
        path = tmp_path / "engine.json"
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_keys_of_the_cache_may_stand_as_vllm_names_them(engine_json: Callable[[object], Path]) -> None:
    flat = {"gpu_memory_utilization": 0.8, "block_size": 32, "enable_prefix_caching": False}
    above = read_engine(engine_json(flat | {"num_gpu_blocks_override": 11}))
    assert above == read_engine(engine_json({"kv_cache": flat | {"num_gpu_blocks": 11}}))


def test_settings_are_taken_over(engine_json: Callable[[object], Path]) -> None:
    path = engine_json({
        "engine": "vllm", "engine_version": "0.19.0", "tensor_parallel_size": 2,
        "data_parallel_size": 3, "pipeline_parallel_size": 4, "enable_expert_parallel": True, "max_num_seqs": 77,
        "max_num_batched_tokens": 2048, "max_model_len": 4096, "dtype": "bfloat16",
        "kv_cache_dtype": "fp8", "async_scheduling": False,
        "kv_cache": {"num_gpu_blocks": 2588, "block_size": 32, "enable_prefix_caching": False},
        "hardware": {"device_name": "NVIDIA GeForce RTX 4090"},
    })  # fmt: skip
    found = read_engine(path)
    policy = found.policy
    assert (policy.token_budget, policy.max_sequences) == (2048, 77)
    assert (policy.ahead, policy.caching) == (False, False)
    assert (policy.lazy, policy.chunked, policy.reserve) == (True, True, False)
    # vLLM keeps one block as a placeholder.
    assert NULL_BLOCKS == 1
    assert (found.cache.block_tokens, found.cache.blocks) == (32, 2588 - NULL_BLOCKS)
    assert (found.tp, found.dp, found.pp, found.ep) == (2, 3, 4, 6)
    assert (found.max_model_len, found.dtype, found.kv_dtype) == (4096, "bf16", "fp8")


def test_what_is_not_said_is_vllms_default(engine_json: Callable[[object], Path]) -> None:
    found = read_engine(engine_json({"max_model_len": None}))
    usual = POLICIES["vllm"]
    assert found.policy == replace(usual, host=upkeep_of("vllm", (0, 19)).on(usual.host, 1))
    assert (found.cache.block_tokens, found.cache.blocks) == (16, None)
    assert (found.tp, found.dp, found.pp, found.ep, found.max_model_len) == (1, 1, 1, 1, None)
    assert (found.dtype, found.kv_dtype) == (None, None)


def test_a_folder_stands_for_its_file(engine_json: Callable[[object], Path]) -> None:
    path = engine_json({"max_num_seqs": 5})
    assert read_engine(path.parent) == read_engine(path)


@pytest.mark.parametrize("seen", [None, 25_250_627_584])
def test_blocks_follow_from_memory(engine_json: Callable[[object], Path], seen: int | None) -> None:
    """Without a number of blocks: the share of the memory that the engine saw, or the device's."""
    on = on_system("llama-3.1-8b", "rtx-4090")
    found = read_engine(
        engine_json({"kv_cache": {"gpu_memory_utilization": 0.8}, "max_num_seqs": 256,
                     "hardware": {"device_total_memory_bytes": seen}})
    )  # fmt: skip
    total = seen or on.system.device.memory.capacity_bytes
    logits = LOGIT_BYTES * 256 * 128_256
    assert found.cache_for(on).memory_bytes == pytest.approx(0.8 * total - logits)
    fixed = read_engine(engine_json({"kv_cache": {"num_gpu_blocks": 11}}))
    assert fixed.cache_for(on) == fixed.cache


@pytest.mark.parametrize(
    ("model", "system", "version", "tokens"),
    [("qwen3-8b", "h100", "0.30", 377_024), ("llama-3.1-8b", "rtx-4090", "0.19", 41_408)],
)
def test_caches_of_two_engines_that_said_how_much_they_hold(model: str, system: str, version: str, tokens: int) -> None:
    """With the defaults of the version on that device; both numbers are what `LOGIT_BYTES` was fitted to."""
    on = on_system(model, system)
    rules = kv_rules(on, ENGINES["vllm"](on, LaunchSettings(version=version)).cache)
    assert rules.blocks * rules.block == pytest.approx(tokens, rel=0.02)


LIMITS = tables(__file__)["limits"]


@pytest.mark.parametrize(("system", "version", "tokens", "places"), LIMITS)
def test_a_servers_limits_go_by_device_and_version(
    engine_json: Callable[[object], Path], system: str, version: str, tokens: int, places: int
) -> None:
    on = on_system("llama-3.1-8b", system)
    policy = ENGINES["vllm"](on, LaunchSettings(version=version)).policy
    assert (policy.token_budget, policy.max_sequences) == (tokens, places)
    seen = {"device_total_memory_bytes": int(on.system.device.memory.capacity_bytes), "device_name": system}
    read = read_engine(engine_json({"version": f"{version}.0", "hardware": seen}))
    assert (read.policy.token_budget, read.policy.max_sequences) == (tokens, places)


@pytest.mark.parametrize(("content", "part"), tables(__file__)["bad"])
def test_bad_settings_are_refused(engine_json: Callable[[object], Path], content: Any, part: str) -> None:
    path = engine_json(content)
    with pytest.raises(InputError, match=part) as caught:
        read_engine(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothere\.json.*does not exist"):
        read_engine(tmp_path / "nothere.json")
    with pytest.raises(InputError, match=r"not a file of an engine's arguments.*--policy sglang"):
        read_engine("sglang")


@pytest.mark.parametrize(("said", "bare_first", "share"), tables(__file__)["versions are rule sets"])
def test_versions_are_rule_sets(
    engine_json: Callable[[object], Path], said: dict[str, str], bare_first: bool, share: float
) -> None:
    """Block order and memory share of the wheels 0.19.0 and 0.25.0."""
    found = read_engine(engine_json(said))
    assert (found.policy.bare_first, found.memory_share) == (bare_first, share)
    assert found.policy.serial_stages is not bare_first
    assert found.policy.host_delay(NO_LAUNCHES, 1).gap_s == (SYNC_GAP_S if said == {"version": "0.11.0"} else 0.0)
    fixed = read_engine(engine_json(said | {"kv_cache": {"gpu_memory_utilization": 0.5}}))
    assert fixed.memory_share == 0.5


@pytest.mark.parametrize(
    ("version", "gap_s"),
    [
        ("0.10.2", EARLY_GAP_S),
        ("0.11.0", SYNC_GAP_S),
        ("0.13.0", SYNC_GAP_S),
        ("0.14.0", SYNC_GAP_S),
        ("0.33.0", SYNC_GAP_S),
    ],
)
def test_devices_wait_between_the_steps_of_a_synchronous_vllm(
    version: str, gap_s: float, engine_json: Callable[[object], Path]
) -> None:
    """TPOT of synchronous scheduling differs from 0.9's by the gap, whatever the load and the version; nothing else differs."""
    old = {"version": version, "host": {"template_ms": 0}, "async_scheduling": False}
    new = old | {"version": "0.9.0"}
    for clients in (1, 12):
        early, later = (
            simulate("llama-3-8b", "h100-x1", engine=engine_json(keys), closed_loop=clients,
                     requests=clients, input_len=64, output_len=16)
            for keys in (old, new)
        )  # fmt: skip
        slower = early.to_dict()["tpot_s"]["mean"] - later.to_dict()["tpot_s"]["mean"]
        assert slower == pytest.approx(gap_s - EARLY_GAP_S, rel=1e-6)
    ahead = read_engine(engine_json(old | {"async_scheduling": True})).policy
    assert ahead.host_delay(NO_LAUNCHES, 1).gap_s == (EARLY_GAP_S if version == "0.10.2" else 0.0)


def test_options_that_bear_on_time(engine_json: Callable[[object], Path]) -> None:
    path = engine_json({
        "long_prefill_token_threshold": 300, "max_num_scheduled_tokens": 700,
        "max_num_batched_tokens": 4096, "max_model_len": 4096, "enable_chunked_prefill": True,
        "scheduling_policy": "priority", "max_num_partial_prefills": 1, "watermark": 0.0,
    })  # fmt: skip
    policy = read_engine(path).policy
    assert (policy.threshold, policy.token_budget, policy.chunked) == (300, 700, True)
    assert policy.order == "priority"
    whole = {"max_num_batched_tokens": 4096, "max_model_len": 4096, "enable_chunked_prefill": False}
    assert not read_engine(engine_json(whole)).policy.chunked


@pytest.mark.parametrize(("content", "part"), tables(__file__)["not simulated"])
def test_what_is_not_simulated_is_refused(
    engine_json: Callable[[object], Path], content: dict[str, Any], part: str
) -> None:
    with pytest.raises(InputError, match=part):
        read_engine(engine_json(content))


def test_misspelt_keys_get_a_warning(engine_json: Callable[[object], Path]) -> None:
    found = read_engine(engine_json({
        "max_num_seq": 5, "model": "m", "kv_cache": {"blok_size": 8, "num_cpu_blocks": 1},
        "enable_expert_paralel": True, "something_else": 1,
    }))  # fmt: skip
    named = [warning.split(": ", 1)[1].split(" ")[0] for warning in found.doubts]
    assert named == ["max_num_seq", "enable_expert_paralel", "kv_cache.blok_size"]
    assert "did you mean 'max_num_seqs'?" in found.doubts[0]
