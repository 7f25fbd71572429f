"""Attention and experts on separate devices: does a step lose nothing?

Reference: over a free link and in one piece, a step takes what the explicit path takes on
devices that do both, without their exchanges; both groups' weights are those of such devices.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest

from opbyte.analysis.answers.afd import afd, most_of
from opbyte.analysis.answers.apart import apart_evidence
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.parts.drafts.speculating import speculating
from opbyte.simulator.parts.experts_apart.one_step import Apart, apart_of, apart_step, memories, one_of
from opbyte.simulator.scenario.options import DeployOptions
from opbyte.simulator.step.explicit import dealt, explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError
from opbyte.workloads.model import ModelSpec
from opbyte.workloads.speculators import read_asked


@cache
def few(name: str = "deepseek-v3", layers: int = 6) -> ModelSpec:
    model = load_model(name)
    return replace(model, layers=model.layers[:layers])


@cache
def apart(attention: str, experts: str, link: str | None = None, name: str = "deepseek-v3") -> Apart:
    options = DeployOptions(tp=1, routing="measured")
    return apart_of(few(name), load_system(attention), load_system(experts), options, link)


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3-235b-a22b"])
def test_in_one_piece_it_is_the_explicit_step_without_exchanges(name: str) -> None:
    a = apart("h200-x8", "h200-x8", "free", name)
    plain = deploy(few(name), load_system("h200-x8"), tp=1, routing="measured")
    for each in (1, 37):
        stage = explicit_stage(plain, dealt(plain, 8 * each, 1000), expected=True)
        found = apart_step(a, 8 * each, 1000, 1)
        exchanged = stage.times(lambda p: p.op.layer)["communication"]
        assert found.seconds == pytest.approx(stage.seconds - exchanged, rel=1e-9)
    held = memories(a, 1000)
    assert held.attention_weights + held.experts_weights == pytest.approx(plain.memory().weights)


def test_drafts_reach_the_devices_with_the_experts() -> None:
    """A decode brings all its drafts to them too, so that what they rest on can be asked (it was a traceback)."""
    made = one_of(apart("h200-x8", "h200-x8"), 1)
    drafting = speculating(made, read_asked("ngram:3"), (0.8, 0.7, 0.6), "uniform", 3)
    assert drafting.apart is not None
    assert drafting.apart.holder.several == drafting.several == 4
    assert apart_evidence(drafting, {}, {}, None, [Batch.of([100], new=4)])


def test_more_micro_batches_cost_weights_and_links_cost_time() -> None:
    steps = [apart_step(apart("h200-x8", "h200-x8", link), 960, 4000, 6) for link in ("free", "400", "50", "1")]
    assert [s.seconds for s in steps] == sorted(s.seconds for s in steps)
    assert steps[-1].limit == "link"
    assert steps[0].link_s == 0.0
    joules = [sum(apart_step(apart("h200-x8", "h200-x8", "free"), 960, 4000, m).joules) for m in (1, 6)]
    assert joules[1] != joules[0]
    uneven = apart_step(apart("h200-x8", "h200-x8"), 97, 4000, 4)
    assert uneven.sizes == (25, 24, 24, 24)
    assert sum(uneven.sizes) == 97


def test_groups_may_be_different_devices() -> None:
    name = "qwen3-235b-a22b"
    step = apart_step(apart("h100-logic-pim-x8", "h200-x8", None, name), 256, 8000, 2)
    other = apart_step(apart("h100-x8", "h200-x8", None, name), 256, 8000, 2)
    assert step.attention_s < other.attention_s  # the PIM reads the cache faster
    assert step.experts_s == other.experts_s


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (("llama-3-8b", "h100-x1", "h100-x1", {}), "has no experts"),
        (("deepseek-v3", "h200-x8", "h200-x6", {}), "--experts-on.*must divide the 256 experts"),
        (("deepseek-v3", "h200-x8", "h200-x4", {}), "experts of deepseek-v3 do not fit"),
        (("deepseek-v3", "h200-x8", "h200-x8", {"batch": 100_000}), "KV cache of .* does not fit"),
        (("deepseek-v3", "h200-x8", "h200-x8", {"batch": 8, "tpot": 0.1}), "--tpot.*remove --batch"),
        (("deepseek-v3", "h200-x8", "h200-x8", {"tpot": 1e-3}), "--tpot: 1.00 ms is less than"),
        (("deepseek-v3", "h200-x8", "h200-x8", {"tpot": -1.0}), "--tpot: must be a time above 0"),
        (("deepseek-v3", "h200-x8", "h200-x8", {"link": "nvlnk"}), "--link: unknown link"),
        (("deepseek-v3", "h200-x8", "h200-x8", {"micro_batches": 0}), "--micro-batches"),
        (("deepseek-v3", "duplex-split-x4", "h200-x8", {}), "--attention-on"),
    ],
)
def test_what_cannot_be_split_is_one_line(asked: tuple, part: str) -> None:  # type: ignore[type-arg]
    model, attention, experts, more = asked
    with pytest.raises((InputError, CapacityError), match=part) as caught:
        afd(model, attention, experts, context=4000, **{"micro_batches": 2, **more})
    assert "\n" not in str(caught.value)


def test_the_search_finds_the_edge() -> None:
    for most in (0, 1, 5, 100):
        for edge in range(most + 1):
            assert most_of(lambda n, edge=edge: n <= edge, most) == edge  # type: ignore[misc]
    found = afd(few(), "h200-x8", "h200-x8", tp=1, tpot=0.006, micro_batches=2, against="h200-2x8")
    (row,) = found.found
    assert row.seconds <= 0.006
    above = apart_step(found.apart, row.sequences + 16, found.context, 2)
    assert above.seconds > 0.006
    assert found.against is not None
    assert found.against.seconds <= 0.006


def test_the_command_says_it() -> None:
    line = "afd qwen3-30b-a3b --attention-on h100-x2 --experts-on h100-x2 --tp 1 --batch 64 --json"
    done = subprocess.run([sys.executable, "-m", "opbyte", *line.split()], capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["micro_batches"] for row in found["rows"]] == [1, 2, 3, 4]
    assert found["ep"] == 2
    assert {row["devices"] for row in found["evidence"]} == {"attention", "experts"}
