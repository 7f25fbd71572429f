"""Experts on devices of their own in a step of serving: do both paths agree, and lose nothing?

The explicit path (`step.explicit`, with the list scheduler) is the definition; its own reference is the
step of ``opbyte afd`` (`scenario.apart`), and devices that do both where the link is free and a step is
one micro-batch. Closed form of the schedule: MegaScale-Infer (arXiv 2504.02263), equation 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.scenario.apart import Apart, apart_of, apart_step
from opbyte.simulator.scenario.beside import one_of
from opbyte.simulator.scenario.parts import DeployOptions
from opbyte.simulator.step.beside import W_ATTENTION, W_BACK, W_EXPERTS, W_OUT
from opbyte.simulator.step.books import T_FLOPS, T_J_DRAM, T_J_LINK, new_books, totals
from opbyte.simulator.step.explicit import dealt, explicit_stage
from opbyte.simulator.step.lowering import lower
from opbyte.simulator.streams.chunking import micro_moments
from opbyte.simulator.streams.pingpong import ATTENTION, enough, step_seconds
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.model import ModelSpec

CASES = (
    ("deepseek-v3", "h200-x2", "h100-x4", {"tp": 1, "routing": "measured"}),
    ("deepseek-v3", "h200-x4", "h200-x2", {"tp": 2, "redundant_experts": 8}),
    ("mixtral-8x7b", "h100-x1", "h100-x2", {}),
    ("qwen3-235b-a22b", "h100-logic-pim-x2", "h200-x4", {"tp": 1, "routing": "power_law:1"}),
    ("mixtral-8x7b", "h100-x2", "duplex-x4", {"tp": 1}),
)  # fmt: skip
LINKS = ("free", "50,5", "2", "400,0")

contexts = st.one_of(st.integers(0, 40), st.integers(0, 20_000))
batches_of = st.builds(
    Batch.of,
    st.lists(contexts, max_size=9),
    st.lists(st.tuples(st.one_of(st.integers(1, 40), st.integers(1, 4000)), contexts), max_size=3),
)


@cache
def few(name: str, layers: int = 5) -> ModelSpec:
    model = load_model(name)
    return replace(model, layers=model.layers[:layers])


@cache
def apart(case: int, link: str | None = None) -> Apart:
    name, attention, experts, options = CASES[case]
    systems = load_system(attention), load_system(experts)
    return apart_of(few(name), *systems, DeployOptions(**options), link, seed=3)


@cache
def deployed(case: int, link: str, batches: int) -> Deployment:
    return one_of(apart(case, link), batches)


@pytest.mark.parametrize("case", range(len(CASES)))
@given(data=st.data())
@settings(max_examples=8)
def test_both_paths_agree(
    case: int, compiled_step: Callable[..., float], data: st.DataObject
) -> None:
    d = deployed(case, data.draw(st.sampled_from(LINKS)), data.draw(st.integers(1, 5)))
    plan, slots = lower(d, 1)
    step, captured = data.draw(st.integers(0, 10**6)), data.draw(st.sampled_from((0, 16)))
    first = [data.draw(batches_of) for _ in range(d.ranks)]
    if not any(len(b.q_len) for b in first):
        first[0] = Batch.of([7])
    steps = [first]
    if not any((b.phase > 0).any() for b in first):  # a stretch: contexts grow by one
        steps.append([Batch.of((b.context + 1).tolist()) for b in first])
    books, before, wall = new_books(plan), 0.0, 0.0
    for i, batches in enumerate(steps):
        moments = [b.moments(d.shard.windows) for b in batches]
        found = compiled_step(plan, books, batches, moments, step + i, i == 0, captured)
        stage = explicit_stage(d, batches, step=step + i, replica=1, captured=captured)
        assert found == pytest.approx(stage.seconds, rel=1e-9)
        pairs = (plan, books), (plan.apart.plan, books.aside.books)
        sums = [totals(own, kept.tally) for own, kept in pairs]
        joules = sum(float(t[:, :, T_J_DRAM : T_J_LINK + 1].sum()) for t in sums)
        assert joules - before == pytest.approx(stage.joules, rel=1e-8)
        before, wall = joules, wall + found
        assert books.wall.sum() == pytest.approx(wall, rel=1e-9)
        counted = sum(stage.times(lambda p: p.op.layer).values())
        if case < 3:  # processors side by side count in full
            assert counted == pytest.approx(found, rel=1e-9)
        if i == 0:
            flops = sum(p.op.flops * p.count * p.devices for p in stage.ops)
            assert sum(t[:, :, T_FLOPS].sum() for t in sums) == pytest.approx(flops, rel=1e-9)
            (line,) = stage.timelines
            busy = line.busy()
            names = {W_OUT: "link to experts", W_EXPERTS: "experts", W_BACK: "link back",
                     W_ATTENTION: "compute"}  # fmt: skip
            for at, name in names.items():
                assert books.aside.busy[at] == pytest.approx(busy.get(name, 0.0), rel=1e-9)
    assert books.busy[0, -1] == pytest.approx(joules - float(sums[0][:, :, T_J_DRAM:].sum()), rel=1e-6)
