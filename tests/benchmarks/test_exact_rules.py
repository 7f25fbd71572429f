"""What do the exact rules of SGLang and TensorRT-LLM cost a step, beside vLLM's on the same load?

CPU time of a step, the least of several repetitions that take turns: machines are shared.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.engine.kv import CacheSettings
from opbyte.simulator.engine.policies import POLICIES
from opbyte.simulator.fleet.run import run
from opbyte.workloads.catalog import load_model
from opbyte.workloads.requests import open_requests

pytestmark = pytest.mark.benchmark

TURNS = 7
"""Repetitions of each load."""

PEERS = 1.5
"""Most that a step of another exact engine takes of vLLM's, where content is not shared: what that
engine does is not the same."""

LOADS: dict[str, tuple[dict[str, Any], int | None]] = {
    # Workload, KV blocks (None: what fits).
    "open": ({"rate": 50.0, "limit": 10_000}, None),
    "sessions": ({"rate": 12.0, "turns": 4.0, "limit": 6_000}, 8_000),
    "tight": ({"closed_loop": 256, "limit": 6_000}, 6_000),
}
"""An ordinary load; content that is shared and evicted; a cache that preempts."""


def serve(policy: str, load: str, **options: Any) -> tuple[float, float]:
    """CPU seconds of a step and of a request."""
    work, blocks = LOADS[load]
    work = {"input_len": 512, "output_len": 128, "lengths": "lognormal", **work, **options}
    name = policy.removesuffix("-fields")
    rules = replace(POLICIES[name], rules=None) if policy != name else POLICIES[name]
    deployment, stream = deploy(load_model("llama-3-8b"), load_system("h100-x1")), open_requests(**work)
    began = time.process_time()
    found = run(deployment, rules, stream, cache=CacheSettings(blocks=blocks))
    took = time.process_time() - began
    return took / found.iterations, took / work["limit"]


@pytest.mark.parametrize("load", LOADS)
def test_other_engines(load: str, capsys: pytest.CaptureFixture[str]) -> None:
    policies = ["vllm", "sglang", "sglang-fields", "tensorrt-llm", "tensorrt-llm-fields"]
    for policy in policies:
        serve(policy, load, limit=40)  # compiles
    turns = [{policy: serve(policy, load) for policy in policies} for _ in range(TURNS)]
    least = {policy: min(turn[policy] for turn in turns) for policy in policies}
    with capsys.disabled():
        for policy, (step, request) in least.items():
            print(
                f"\n{load}, {policy}: {step * 1e6:.2f} us a step, {request * 1e6:.2f} us a request, "
                f"{step / least['vllm'][0]:.2f} and {request / least['vllm'][1]:.2f} of vLLM's", end="",
            )  # fmt: skip
    if load != "sessions":
        assert max(least[p][0] for p in ("sglang", "tensorrt-llm")) < PEERS * least["vllm"][0]
