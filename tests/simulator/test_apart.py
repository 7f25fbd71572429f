"""Attention and experts on separate devices: does a step lose nothing?

Reference: over a free link and in one piece, a step takes what the explicit path takes on
devices that do both, without their exchanges; both groups' weights are those of such devices.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from opbyte import compare
from opbyte.analysis.answers.comparison import SystemRow
from opbyte.analysis.answers.evidence import apart_evidence
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.parts.drafts.speculating import speculating
from opbyte.simulator.parts.experts_apart.holders import expert_bytes
from opbyte.simulator.parts.experts_apart.one_step import apart_of
from opbyte.simulator.scenario.options import DeployOptions
from opbyte.simulator.step.explicit import dealt, explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.model import ModelSpec
from opbyte.workloads.speculators import read_asked

from ..tables import tables


@cache
def few(name: str = "deepseek-v3", layers: int = 6) -> ModelSpec:
    model = load_model(name)
    return replace(model, layers=model.layers[:layers])


def step(attention: str = "h200-x8", link: str = "free", batches: int | None = 1, name: str = "deepseek-v3",
         batch: int = 960, context: int = 4000) -> SystemRow:  # fmt: skip
    """Of a few layers, experts on eight H200."""
    asked = {"experts_on": "h200-x8", "experts_link": link, "micro_batches": batches}
    options = {"tp": 1, "routing": "measured", "framework": "typical"}
    return compare(few(name), [attention], batch=batch, context=context, **asked, **options).table[1]


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3-235b-a22b"])
def test_in_one_piece_it_is_the_explicit_step_without_exchanges(name: str) -> None:
    options = DeployOptions(tp=1, routing="measured")
    a = apart_of(few(name), load_system("h200-x8"), load_system("h200-x8"), options, "free")
    plain = deploy(few(name), load_system("h200-x8"), tp=1, routing="measured")
    for each in (1, 37):
        stage = explicit_stage(plain, dealt(plain, 8 * each, 1000), expected=True)
        found = explicit_stage(a, dealt(a, 8 * each, 1000), expected=True)
        exchanged = stage.times(lambda p: p.op.layer)["communication"]
        assert found.seconds == pytest.approx(stage.seconds - exchanged, rel=1e-9)
    assert a.apart is not None
    assert a.memory().weights + expert_bytes(a.apart.holder)[0] == pytest.approx(plain.memory().weights)


def test_drafts_reach_the_devices_with_the_experts() -> None:
    """A decode brings all its drafts to them too, so that what they rest on can be asked (it was a traceback)."""
    made = apart_of(few(), load_system("h200-x8"), load_system("h200-x8"), DeployOptions(tp=1))
    drafting = speculating(made, read_asked("ngram:3"), (0.8, 0.7, 0.6), "uniform", 3)
    assert drafting.apart is not None
    assert drafting.apart.holder.several == drafting.several == 4
    assert apart_evidence(drafting, {}, {}, None, [Batch.of([100], new=4)])


def test_more_micro_batches_cost_weights_and_links_cost_time() -> None:
    rows = [step(link=link, batches=6) for link in ("free", "400", "50", "1")]
    assert [row.latency_s for row in rows] == sorted(row.latency_s or 0.0 for row in rows)
    assert "communication" in rows[-1].longest
    assert step(batches=1).joules != rows[0].joules
    tried = [step(link="50", batches=n).latency_s or 0.0 for n in (1, 2, 3, 4)]
    assert step(link="50", batches=None).latency_s == min(tried)


def test_groups_may_be_different_devices() -> None:
    rows = [
        step(name, batches=2, name="qwen3-235b-a22b", batch=256, context=8000)
        for name in ("h100-logic-pim-x8", "h100-x8")
    ]
    times = [{x.layer: x.seconds for x in row.layers} for row in rows]
    assert times[0]["attention"] < times[1]["attention"]  # the PIM reads the cache faster
    assert {entry["applies_to"].rpartition(", ")[2] for entry in rows[0].evidence()} >= {"attention", "experts"}


@pytest.mark.parametrize(("asked", "part"), tables(__file__)["bad"])
def test_what_cannot_be_split_is_one_line(asked: tuple, part: str) -> None:  # type: ignore[type-arg]
    model, attention, experts, more = asked
    with pytest.raises(InputError, match=part) as caught:
        compare(model, [attention], experts_on=experts, context=4000, **more)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_says_so() -> None:
    asked = {"context": 4000, "tp": 1, "micro_batches": 2}
    few_devices, many = (compare("deepseek-v3", ["h200-x8"], experts_on=f"h200-x{n}", batch=b, **asked).table[1].reason
                         for n, b in ((4, 8), (8, 100_000)))  # fmt: skip
    assert "experts of deepseek-v3 do not fit" in few_devices
    assert "KV cache of 12,500 sequences does not fit" in many
