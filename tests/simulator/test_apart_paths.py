"""Experts on separate devices in a step of serving: do both paths agree, and lose nothing?

The explicit path (`step.explicit`, with the list scheduler) is the definition; its own reference is devices that do both
where the link is free and a step is one micro-batch (`test_apart`). Closed form of the schedule: MegaScale-Infer (arXiv 2504.02263), equation 5.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.limits import MAX_MICRO_BATCHES
from opbyte.simulator.parts.experts_apart.one_step import apart_of, spent
from opbyte.simulator.parts.experts_apart.side import Worker
from opbyte.simulator.parts.overlap.chunking import MOST_CHUNKS, micro_moments
from opbyte.simulator.scenario.options import DeployOptions
from opbyte.simulator.step.explicit import dealt, explicit_stage
from opbyte.simulator.step.lowering import LoweredModel, lower
from opbyte.simulator.step.step_totals import T_JOULES, totals
from opbyte.workloads.catalog import load_model
from opbyte.workloads.model import ModelSpec

from .pieces import batches_with, contexts_up_to
from .two_paths import check_paths, some_work, with_next

CASES = (
    ("deepseek-v3", "h200-x2", "h100-x4", {"tp": 1, "routing": "measured", "costs": "roofline"}),
    ("deepseek-v3", "h200-x4", "h200-x2", {"tp": 2, "redundant_experts": 8}),
    ("mixtral-8x7b", "h100-x1", "h100-x2", {}),
    ("qwen3-235b-a22b", "h100-logic-pim-x2", "h200-x4", {"tp": 1, "routing": "power_law:1"}),
    ("mixtral-8x7b", "h100-x2", "duplex-x4", {"tp": 1}),
    ("mixtral-8x7b", "h100-x4", "h100-x4", {"tp": 2, "pp": 2, "routing": "measured"}),
    ("mixtral-8x7b", "h100-x2", "h100-x2", {"tp": 2, "adapters": 5, "adapter_popularity": "power_law:1"}),
)
LINKS = ("free", "50,5", "2", "400,0")

contexts = contexts_up_to(20_000)
batches_of = batches_with(st.lists(contexts, max_size=9), contexts)


@cache
def few(name: str, layers: int = 5) -> ModelSpec:
    model = load_model(name)
    return replace(model, layers=model.layers[:layers])


@cache
def deployed(case: int, link: str, batches: int) -> Deployment:
    name, attention, experts, options = CASES[case]
    systems = load_system(attention), load_system(experts)
    return apart_of(few(name), *systems, DeployOptions().changed(**options), link, seed=3, batches=batches)


def step_seconds(attention: float, experts: float, crossing: float, batches: int, layers: int) -> float:
    """A step of equal layers: the first micro-batch's way through one, and the slower group's work on all others."""
    return attention + experts + 2.0 * crossing + max(attention, experts) * (batches * layers - 1)


def enough(attention: float, experts: float, crossing: float, batches: int) -> bool:
    """Whether the slower group never waits: the link is no slower, and others fill a round trip."""
    slower = max(attention, experts)
    return crossing <= slower and batches * slower >= attention + experts + 2.0 * crossing


@cache
def lowered(case: int, link: str, batches: int) -> LoweredModel:
    return lower(deployed(case, link, batches), 1)[0]


@pytest.mark.parametrize("case", range(len(CASES)))
@given(data=st.data())
@settings(max_examples=6)
def test_both_paths_agree(case: int, data: st.DataObject) -> None:
    link, batches = data.draw(st.sampled_from(LINKS)), data.draw(st.integers(1, 5))
    d, plan = deployed(case, link, batches), lowered(case, link, batches)
    step, captured = data.draw(st.integers(0, 10**6)), data.draw(st.sampled_from((0, 16)))
    steps = with_next(some_work([data.draw(batches_of) for _ in range(d.ranks)]))
    _, step_totals, stages = check_paths(d, steps, step, 1, captured, plan)
    stage = stages[-1]
    if case not in (3, 4):  # processors side by side count in full
        assert sum(stage.times(lambda p: p.op.layer).values()) == pytest.approx(stage.seconds, rel=1e-9)
    busy: Counter[str] = Counter()
    for line in (line for stage in stages for line in stage.timelines):
        busy.update(line.busy())
    names = {
        Worker.OUT: "link to experts",
        Worker.EXPERTS: "experts",
        Worker.BACK: "link back",
        Worker.ATTENTION: "compute",
    }
    for at, name in names.items():
        assert step_totals.aside.busy[at] == pytest.approx(busy[name], rel=1e-9)
    joules = sum(stage.joules for stage in stages)
    attention = float(totals(plan, step_totals.tally)[:, :, T_JOULES].sum())
    assert step_totals.busy[0, -1] == pytest.approx(joules - attention, rel=1e-6)


@pytest.mark.parametrize("case", range(3))
@given(sequences=st.integers(1, 300), batches=st.integers(1, 6), link=st.sampled_from(LINKS))
@settings(max_examples=6)
def test_a_step_takes_no_more_than_its_devices_may(case: int, sequences: int, batches: int, link: str) -> None:
    d = deployed(case, link, batches)
    stage = explicit_stage(d, dealt(d, sequences, 1000), expected=True)
    assert d.apart is not None
    for group in (d, d.apart.holder):
        model, devices = group.device.board.model, group.system.nodes * group.system.devices_per_node
        joules, static = spent(d, stage, group)
        if model is not None:
            assert 0.0 < static <= joules <= model.limit_W * devices * stage.seconds * (1 + 1e-9)


def test_equal_layers_take_the_closed_form() -> None:
    """Nothing but a final norm and the embedding comes beside: the form holds within them."""
    model = replace(load_model("mixtral-8x7b"), vocab=0)
    systems = load_system("h100-x2"), load_system("h100-x2")
    for link, sequences in (("free", 256), ("400,0", 256), ("200,2", 2048)):
        seen = set()
        for batches in (1, 2, 3, 4):
            d = apart_of(model, *systems, DeployOptions(tp=1), link, batches=batches)
            found = explicit_stage(d, dealt(d, sequences, 1000), expected=True)
            busy, runs = found.timelines[0].busy(), batches * len(model.layers)
            names = ("compute", "experts", "link back")
            attention, experts, crossing = (busy.get(name, 0.0) / runs for name in names)
            if enough(attention, experts, crossing, batches):
                form = step_seconds(attention, experts, crossing, batches, len(model.layers))
                assert found.seconds == pytest.approx(form, rel=0.01)
                seen.add(batches)
            elif batches == 1:
                once = attention + experts + 2 * crossing
                assert found.seconds == pytest.approx(once * len(model.layers), rel=1e-9)
        assert seen


@given(data=st.data())
@settings(max_examples=30)
def test_micro_batches_add_up(data: st.DataObject) -> None:
    batch, count = data.draw(batches_of), data.draw(st.integers(1, 16))
    m = batch.moments((0, 64)).values
    parts = np.zeros((count, len(m)))
    for place in range(count):
        micro_moments(m, 2, count, place, parts[place])
    tokens = [0, 2, 3]  # of all, decodes, tokens of prompts
    assert parts.sum(axis=0)[tokens] == pytest.approx(m[tokens])
    assert (parts >= 0).all()
    assert np.ptp(parts[:, 2]) <= 1
    assert np.ptp(parts[:, 3]) <= 1
    if count == 1:
        assert parts[0] == pytest.approx(m)
    assert MAX_MICRO_BATCHES == MOST_CHUNKS
