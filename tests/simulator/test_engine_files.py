"""Are the files of SGLang and TensorRT-LLM read as those engines mean them?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.frameworks.engine_file import read_engine
from opbyte.simulator.frameworks.engines import ENGINES, LaunchSettings
from opbyte.simulator.frameworks.settings import EngineSettings
from opbyte.simulator.parts.sglang.state import SGLANG, SglangRules
from opbyte.simulator.parts.tensorrt_llm.rules import TRTLLM, TrtllmRules
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError

from ..tables import tables

Read = Callable[..., EngineSettings]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Settings of a file of an engine that says so much."""

    def settings(engine: str, **said: Any) -> EngineSettings:
        path = tmp_path / "engine.json"
        path.write_text(json.dumps({"engine": engine, **said}))
        return read_engine(path)

    return settings


def test_what_is_not_said_is_the_engines_default(read: Read) -> None:
    sglang, trtllm = read("sglang"), read("tensorrt-llm")
    deployment = deploy(load_model("llama-3-8b"), load_system("h100-x1"))
    padded = replace(TRTLLM, largest=128, exact=True)  # the option has a graph for each batch
    for own, usual, framework in ((sglang, SGLANG, "sglang"), (trtllm, padded, "trtllm")):
        assert replace(own.policy, host=usual.host) == usual
        known = LaunchSettings(version=own.version)
        assert own.policy.host == ENGINES[framework](deployment, known).policy.host  # as option --framework says
    assert (sglang.cache.block_tokens, trtllm.cache.block_tokens) == (1, 32)
    assert (sglang.doubts, trtllm.doubts) == ((), ())
    total = deployment.system.device.memory.capacity_bytes
    weights = deployment.memory(total).weights
    memory = trtllm.cache_for(deployment).memory_bytes
    assert memory == pytest.approx(weights + 0.9 * (total - weights))
    experts = deploy(load_model("qwen3-235b-a22b"), load_system("h200-x8"), tp=1, dp=8, ep=8, exchange="gather")
    held = experts.memory(total := experts.system.device.memory.capacity_bytes).weights
    places = 8 * 8192 * 8  # tokens of all ranks, eight experts each, in two buffers of 4,096 values; and there and back
    assert trtllm.cache_for(experts).memory_bytes == pytest.approx(
        held + 0.9 * (total - held - 2 * places * 2 * 4096 - 2 * 2 * 8 * 8192 * 4096)
    )
    total = deployment.system.device.memory.capacity_bytes
    kept = 2**20 * (512 + 1.5 * 8192 + 2 * 256 + 1024 / 8)  # server_args.py
    share = round((total - kept) / total, 3)
    assert sglang.on(deployment).cache_for(deployment).memory_bytes == pytest.approx(share * total)


def test_sglangs_options(read: Read) -> None:
    found = read(
        "sglang", version="0.5.9", max_running_requests=64, chunked_prefill_size=2048,
        max_prefill_tokens=4096, enable_mixed_chunk=True, schedule_policy="lpm", page_size=64,
        schedule_conservativeness=0.5, disable_overlap_schedule=True, disable_radix_cache=True,
        max_total_tokens=6500, mem_fraction_static=0.8, scheduler_recv_interval=3,
        radix_eviction_policy="lru", host={"step_ms": 1},
    )  # fmt: skip
    policy = found.policy
    assert policy.rules == SglangRules(4096, 2048, True, True, False, False, 0.5)
    assert (policy.max_sequences, policy.poll_steps, policy.ahead) == (64, 3, False)
    assert policy.host.step_s == 1e-3
    assert found.limits is not None
    assert (found.cache.block_tokens, found.cache.blocks, found.limits.fraction) == (64, 101, 0.8)
    assert read("sglang", chunked_prefill_size=-1).policy.rules == SglangRules(chunked_prefill_size=0)


@pytest.mark.parametrize(("said", "drafts"), tables(__file__)["sglangs drafts"])
def test_sglangs_drafts(said: dict[str, Any], drafts: str | None, read: Read) -> None:
    found = read("sglang", **said).speculative
    assert (None if found is None else str(found)) == drafts


def test_sglangs_priorities(read: Read) -> None:
    """Defaults of server_args.py: the larger value first, more than 10 apart to preempt."""
    found = read("sglang", enable_priority_scheduling=True)
    assert found.policy.order == "priority"
    assert found.policy.rules == SglangRules(priority=True, low_first=False, threshold=10)
    found = read("sglang", enable_priority_scheduling=True, priority_scheduling_preemption_threshold=2,
                 schedule_low_priority_values_first=True, abort_on_priority_when_disabled=True)  # fmt: skip
    assert found.policy.rules == SglangRules(priority=True, low_first=True, threshold=2)
    assert make_policy("sglang+priority").rules == SglangRules(priority=True, low_first=True)
    (doubt,) = read("sglang", schedule_low_priority_values_first=True).doubts
    assert "has no effect: without enable_priority_scheduling" in doubt


def test_data_parallel_attention_divides_sglangs_limits(read: Read) -> None:
    """Of 8 devices in 4 ranks: chunks and places of a rank, 0.3 of the care (server_args.py)."""
    found = read("sglang", tp_size=8, dp_size=4, enable_dp_attention=True, max_running_requests=400)
    rules = found.policy.rules
    assert isinstance(rules, SglangRules)
    assert (found.tp, found.dp, found.policy.max_sequences) == (2, 4, 100)
    assert (rules.chunked_prefill_size, rules.conservativeness) == (2048, 0.3)


def test_tensorrt_llms_options(read: Read) -> None:
    found = read(
        "tensorrt-llm", version="1.2.0", max_batch_size=64, max_num_tokens=2048,
        enable_chunked_prefill=True, disable_overlap_scheduler=True, tensor_parallel_size=4,
        enable_attention_dp=True, batch_wait_timeout_iters=5, batch_wait_max_tokens_ratio=0.5,
        attention_dp_config={"enable_balance": True, "timeout_iters": 60, "batching_wait_iters": 0},
        scheduler_config={"capacity_scheduler_policy": "MAX_UTILIZATION"},
        kv_cache_config={"enable_block_reuse": False, "tokens_per_block": 64, "max_tokens": 6500,
                         "dtype": "fp8", "enable_partial_reuse": False},
    )  # fmt: skip
    assert found.policy.rules == TrtllmRules(2048, True, True, False, False, 5, 1024, True, 60, 0)
    assert (found.tp, found.dp, found.kv_dtype) == (1, 4, "fp8")
    assert (found.cache.block_tokens, found.cache.blocks) == (64, 102)
    assert (found.policy.max_sequences, found.policy.ahead) == (64, False)


@pytest.mark.parametrize(("said", "found"), tables(__file__)["graphs of tensorrt-llm"])
def test_tensorrt_llm_captures_what_its_file_says(read: Read, said: dict[str, Any], found: list[Any]) -> None:
    policy = read("tensorrt-llm", **said).policy
    assert [policy.largest, policy.exact, policy.eager] == found


@pytest.mark.parametrize(("engine", "said", "part"), tables(__file__)["refused"])
def test_what_cannot_be_used_is_refused(read: Read, engine: str, said: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        read(engine, **said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "patch", "chunks"),  # below 20, 35, 60 and 160 GiB, and above
    tables(__file__)["sglang has its version s rules and chunks"],
)
def test_sglang_has_its_version_s_rules_and_chunks(
    version: str, patch: int, chunks: tuple[int, ...], read: Read
) -> None:
    for gib, tokens in zip((16, 32, 48, 80, 180), chunks, strict=True):
        found = read("sglang", version=version, hardware={"device_total_memory_bytes": gib * 2**30}).policy
        assert isinstance(found.rules, SglangRules)
        assert (found.rules.patch, found.rules.chunked_prefill_size, found.token_budget) == (patch, tokens, tokens)
    assert bool(read("sglang", version=version).doubts) == (version == "0.6.0")
    assert read("sglang", chunked_prefill_size=512, version=version).policy.token_budget == 512


def test_misspelt_keys_and_other_versions_get_a_warning(read: Read) -> None:
    found = read("sglang", version="0.6.1", max_running_request=5, enable_mixed_chunks=True)
    assert [doubt.split(": ", 1)[1].split(" ")[0] for doubt in found.doubts] == [
        "version:", "max_running_request", "enable_mixed_chunks"
    ]  # fmt: skip
    for engine, version, taken in (
        ("vllm", "0.99.1", "vllm 0.33"),
        ("tensorrt-llm", "2.0", "trtllm 1.3"),
        ("vllm", "0.25", ""),
    ):
        told = [doubt for doubt in read(engine, version=version).doubts if "nearest version" in doubt]
        assert [taken in doubt for doubt in told] == [True] * bool(taken)
    found = read("tensorrt-llm", kv_cache_config={"enable_block_resuse": False})
    (doubt,) = found.doubts
    assert "kv_cache_config.enable_block_resuse is not read; did you mean 'enable_block_reuse'" in doubt
