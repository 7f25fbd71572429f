"""Do engines by version schedule as that version does, and wait for its host?"""

from __future__ import annotations

from itertools import pairwise

import pytest

from opbyte import simulate
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.engine.policies import Policy
from opbyte.simulator.frameworks.engines import ENGINES, UPKEEP, LaunchSettings, upkeep_of
from opbyte.simulator.frameworks.keys import far_version
from opbyte.simulator.frameworks.vllm_rules import template_s
from opbyte.simulator.step.launches import NO_LAUNCHES
from opbyte.workloads.catalog import load_model


def policy(framework: str, version: str, tp: int = 1) -> Policy:
    d = deploy(load_model("llama-3-8b"), load_system(f"h100-x{tp}"), tp=tp)
    return ENGINES[framework](d, LaunchSettings(version=version)).policy


def test_early_vllm_runs_prompts_alone_and_waits() -> None:
    early, late = policy("vllm", "0.5.4"), policy("vllm", "0.19")
    assert (early.prompts_alone, early.chunked, early.caching, early.ahead) == (True, *[False] * 3)
    assert (late.prompts_alone, late.chunked, late.caching, late.ahead) == (False, *[True] * 3)
    assert policy("vllm", "") == late
    assert not policy("vllm", "0.10.2").ahead
    several = policy("vllm", "0.5.4", tp=2)
    assert several.host.gap_s - early.host.gap_s == pytest.approx(UPKEEP["vllm"][0].workers_s)


@pytest.mark.parametrize("framework", sorted(UPKEEP))
def test_hosts_never_take_longer_in_a_newer_version(framework: str) -> None:
    rows = UPKEEP[framework]
    assert [u.since for u in rows] == sorted(u.since for u in rows)
    for before, after in pairwise(r for r in rows if not r.hidden):
        for name in ("gap_s", "workers_s", "sequence_s"):
            assert getattr(after, name) <= getattr(before, name)
    assert upkeep_of(framework, (99, 0)) == rows[-1]


def test_early_tensorrt_llm_does_not_overlap() -> None:
    early, late = policy("trtllm", "0.11"), policy("trtllm", "1.0")
    assert early.host.gap_s > 0.0 == late.host.gap_s
    assert 0.0 < early.host.sequence_s < late.host.sequence_s  # a host in Python, behind the devices
    assert (early.ahead, late.ahead) == (False, True)


@pytest.mark.parametrize(("version", "stages", "hidden"), [("1.0", 1, True), ("1.1", 2, False), ("1.2", 2, True)])
def test_stages_of_early_tensorrt_llm_and_their_hosts_take_turns(version: str, stages: int, hidden: bool) -> None:
    """A stage's host waits for its own work: a step is the sum of both, not the longer one."""
    host_delay = policy("trtllm", version).host_delay(NO_LAUNCHES, stages)
    assert host_delay.sequence_s > 0.0
    assert host_delay.hidden == hidden


@pytest.mark.parametrize(
    ("asked", "taken"),
    [("vllm@0.34", "vllm 0.33"), ("vllm@0.3", "vllm 0.4"), ("sglang@0.3.9", "sglang 0.4"),
     ("trtllm@2.0", "trtllm 1.3")],
)  # fmt: skip
def test_a_version_that_was_not_read_says_which_stands_for_it(asked: str, taken: str) -> None:
    (told,) = far_version(asked)
    assert asked in told
    assert taken in told
    run = simulate("llama-3.2-1b", "h100-x1", framework=asked, requests=2, rate=1.0)
    assert told in run.warnings
    assert not [w for w in simulate("llama-3.2-1b", "h100-x1", requests=2, rate=1.0).warnings if "nearest version" in w]


@pytest.mark.parametrize("known", ["vllm", "vllm@0.4", "vllm@0.30.1", "sglang@0.5.14", "typical", ""])
def test_versions_that_were_read_say_nothing(known: str) -> None:
    assert not far_version(known)


def test_one_version_parses_every_chat_template() -> None:
    """vLLM 0.11 parses 50 chats at once before its engine has the first, in a time that depends on the model's template."""
    seen = {}
    for asked in ("vllm@0.10.2", "vllm@0.11", "vllm@0.12"):
        run = simulate(
            "llama-3.2-1b", "h100-x1", framework=asked, requests=50, closed_loop=50, input_len=32, output_len=4
        )
        seen[asked] = run.run.requests.first_token_s
        assert any("front end" in line for line in run.warnings)  # HTTP and tokens too, one after another
    assert 50 * template_s("llama-3.2-1b") < seen["vllm@0.11"].min() <= seen["vllm@0.11"].max() < 0.8
    assert max(seen["vllm@0.10.2"].max(), seen["vllm@0.12"].max()) < 0.2
    assert template_s("gpt-oss-120b") == 0.0 < template_s("qwen3-235b-a22b-2507") < 0.6 * template_s("qwen3-14b")
    assert template_s("a model of my own") == template_s("llama-3.1-8b")
