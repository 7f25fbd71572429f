"""Is the picture of a step true: nothing overlaps on one unit, and it ends when the step does?

Expected values are the step's own time and its critical ops (`step.explicit`); every way to overlap,
co-processing and pipelines among the draws.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.analysis.answers.step_timeline import Bar, bars_of, middle_of
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.parts.overlap.chunked import timelines_of
from opbyte.simulator.step.explicit import dealt, explicit_stage
from opbyte.workloads.catalog import load_model

CASES = (
    ("llama-3-8b", "h100-x4", {}),
    ("mixtral-8x7b", "duplex-x4", {}),
    ("mixtral-8x7b", "duplex-x4", {"placement": "op-per-byte"}),
    ("mixtral-8x7b", "duplex-split-x4", {}),
    ("mixtral-8x7b", "h100-x4", {"tp": 1}),
    ("mixtral-8x7b", "h100-x4", {"pp": 2}),
    ("deepseek-v3", "h200-x8", {}),
)
WAYS = ("none", "two-batch", "pipelined:2", "auto")


@cache
def deployed(case: int, overlap: str) -> Deployment:
    name, system, options = CASES[case]
    model = load_model(name)
    few = replace(model, layers=model.layers[:4])
    return deploy(few, load_system(system), overlap=overlap, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", range(len(CASES)))
@given(data=st.data())
@settings(max_examples=10)
def test_bars_are_the_step(case: int, data: st.DataObject) -> None:
    d = deployed(case, data.draw(st.sampled_from(WAYS)))
    decodes, prompt = data.draw(st.integers(0, 40)), data.draw(st.sampled_from((0, 1, 77, 3000)))
    chunks = [(prompt, data.draw(st.integers(0, 500)))] if prompt else []
    batches = dealt(d, decodes or not prompt, data.draw(st.integers(0, 9000)), chunks)
    expected = data.draw(st.booleans())
    stage = explicit_stage(d, batches, step=3, expected=expected)
    lines = timelines_of(d, batches, step=3, expected=expected)
    bars = bars_of(lines)
    # It ends when the step does, and no bar later.
    assert sum(line.makespan for line in lines) == pytest.approx(stage.seconds, rel=1e-9)
    assert max(bar.end_s for bar in bars) == pytest.approx(stage.seconds, rel=1e-9)
    # Nothing overlaps on one unit.
    lanes: dict[tuple[int, str], list[Bar]] = defaultdict(list)
    for bar in bars:
        lanes[bar.stage, bar.lane].append(bar)
    for own in lanes.values():
        for before, after in itertools.pairwise(own):
            assert after.start_s >= before.end_s - 1e-12 * stage.seconds
    # All that the step's time is made of is there, each op on its unit, and nothing else.
    told: dict[tuple[str, str], float] = defaultdict(float)
    for placed in stage.ops:
        if placed.critical and placed.cost.seconds > 0.0:
            told[placed.op.name, placed.processor] += placed.cost.seconds * placed.count
    drawn: dict[tuple[str, str], float] = defaultdict(float)
    for bar in bars:
        drawn[bar.op, bar.lane] += bar.end_s - bar.start_s
    assert drawn == pytest.approx(told, rel=1e-9, abs=1e-15)
    assert {bar.layer for bar in bars} >= set(range(4))


def test_experts_run_beside_each_other() -> None:
    """Duplex splits experts between both processors, which start together."""
    d = deployed(1, "none")
    bars = bars_of(timelines_of(d, dealt(d, 64, 2048), expected=True))
    both = [bar for bar in bars if bar.op == "experts" and bar.layer == 1]
    assert {bar.lane for bar in both} == {"xpu", "logic-pim"}
    assert len({bar.start_s for bar in both}) == 1


def test_the_middle_is_whole_layers() -> None:
    d = deployed(0, "none")
    bars = bars_of(timelines_of(d, dealt(d, 8, 100), expected=True))
    low, high = middle_of(bars)
    shown = [bar for bar in bars if low <= bar.start_s and bar.end_s <= high]
    assert {bar.layer for bar in shown} == {1, 2}
