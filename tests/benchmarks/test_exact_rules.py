"""What do an engine's exact rules cost a step?

CPU time of a step, the least of several repetitions that take turns: machines are shared. Policy
``vllm`` is held against the same engine with the rules that its exact ones replaced (`served.py` says which);
the exact engines of SGLang and TensorRT-LLM against `vllm` on the same load.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

TURNS = 7
"""Repetitions of each load."""

MOST = 1.10
"""Bar: a step by the exact rules takes at most 10 % more."""

PEERS = 1.5
"""Most that a step of another exact engine takes of vLLM's, where content is not shared: what that
engine does is not the same."""


class Server:
    """A process that serves loads by one set of rules."""

    def __init__(self, rules: str, cache: Path) -> None:
        script = Path(__file__).parent / "served.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script), rules], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=os.environ | {"OPBYTE_CACHE": str(cache)},
        )  # fmt: skip

    def step_s(self, policy: str, load: str) -> tuple[float, float]:
        """CPU seconds of a step and of a request."""
        ask, answer = self.process.stdin, self.process.stdout
        assert ask is not None
        assert answer is not None
        ask.write(f"{policy} {load}\n")
        ask.flush()
        seconds, requests, steps = answer.readline().split()
        return float(seconds) / int(steps), float(seconds) / int(requests)

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """Both sets of rules, each with compiled code of its own."""
    with ExitStack() as stack:
        found = {}
        for rules in ("exact", "before"):
            found[rules] = Server(rules, tmp_path_factory.mktemp(rules))
            stack.callback(found[rules].close)
        yield found


@pytest.mark.parametrize("load", ["open", "sessions", "tight", "stages"])
def test_exact_rules(load: str, servers: dict[str, Server], capsys: pytest.CaptureFixture[str]) -> None:
    least = dict.fromkeys(servers, (float("inf"), float("inf")))
    for _ in range(TURNS):
        for rules, server in servers.items():
            least[rules] = min(least[rules], server.step_s("vllm", load))
    ratio = least["exact"][0] / least["before"][0]
    with capsys.disabled():
        print(
            f"\n{load}: {least['exact'][0] * 1e6:.2f} us a step, {least['before'][0] * 1e6:.2f} "
            f"before the exact rules: {ratio:.3f}", end="",
        )  # fmt: skip
    assert ratio <= MOST


@pytest.mark.parametrize("load", ["open", "sessions", "tight"])
def test_other_engines(load: str, servers: dict[str, Server], capsys: pytest.CaptureFixture[str]) -> None:
    policies = ["vllm", "sglang", "sglang-fields", "tensorrt-llm", "tensorrt-llm-fields"]
    least = dict.fromkeys(policies, (float("inf"), float("inf")))
    for _ in range(TURNS):
        for policy in policies:
            least[policy] = min(least[policy], servers["exact"].step_s(policy, load))
    with capsys.disabled():
        for policy, (step, request) in least.items():
            print(
                f"\n{load}, {policy}: {step * 1e6:.2f} us a step, {request * 1e6:.2f} us a request, "
                f"{step / least['vllm'][0]:.2f} and {request / least['vllm'][1]:.2f} of vLLM's", end="",
            )  # fmt: skip
    if load != "sessions":
        assert max(least[p][0] for p in ("sglang", "tensorrt-llm")) < PEERS * least["vllm"][0]
