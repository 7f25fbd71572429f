"""Serving with experts on separate devices: is it the devices that do both, and is nothing lost?

Reference: over a free link and in one micro-batch, the devices that do both, without exchanges (one that
attends and one that holds all experts exchange nothing), stamp for stamp. What goes on behind pools and through failures
is in `test_parts_together`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from opbyte.analysis.answers.simulate import simulate
from opbyte.analysis.studies.capacity import capacity
from opbyte.simulator.results.record import Run
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError
from opbyte.workloads.model import ModelSpec

LOAD: dict[str, Any] = {
    "rate": 400.0, "requests": 60, "input_len": 300, "output_len": 30, "lengths": "lognormal",
    "costs": "roofline",
}  # fmt: skip


@cache
def few(name: str = "deepseek-v2-lite", layers: int = 4) -> ModelSpec:
    model = load_model(name)
    return replace(model, layers=model.layers[:layers])


@cache
def ran(**options: Any) -> Run:
    return run_scenario(Scenario.of(few(), **{**LOAD, **options}), keep_stages=True)


def stamps(run: Run) -> np.ndarray:  # type: ignore[type-arg]
    rows = run.requests
    return np.column_stack([rows.scheduled_s, rows.first_token_s, rows.last_token_s])


def test_a_free_link_and_one_micro_batch_are_the_devices_that_do_both() -> None:
    plain = ran(system="h100-x1")
    apart = ran(system="h100-x1", experts_on="h100-x1", experts_link="free", micro_batches=1)
    assert stamps(apart) == pytest.approx(stamps(plain), rel=1e-9)
    assert apart.iterations == plain.iterations
    whole = {(op.name, op.processor): op for op in plain.ops}
    for op in apart.ops:
        if op.layer == "communication":
            assert op.wall_s == 0.0
            continue
        same = whole.pop((op.name, op.processor))
        for name in ("wall_s", "busy_s", "flops", "bytes", "runs"):
            assert getattr(op, name) == pytest.approx(getattr(same, name), rel=1e-9), op.name
    assert not whole
    # Energy of the work is counted once, idle power on both devices, and caches have more room.
    assert apart.devices == 2 * plain.devices
    assert apart.interval_static_joules == pytest.approx(2 * plain.interval_static_joules, rel=1e-6)
    assert apart.interval_busy_joules == pytest.approx(plain.interval_busy_joules, rel=1e-6)
    assert apart.joules == pytest.approx(plain.joules, rel=1e-6)
    assert apart.kv_capacity > plain.kv_capacity
    stages = apart.stages
    busy = stages["busy_xpu_s"] + stages["busy_xpu with experts_s"]
    assert busy == pytest.approx(plain.stages["busy_xpu_s"], rel=1e-9)


def test_more_micro_batches_and_a_slower_link_take_longer() -> None:
    how = {"system": "h100-x2", "experts_on": "h100-x4", "tp": 1}
    links = [ran(**how, experts_link=link, micro_batches=2) for link in ("free", "50,5", "1")]
    times = [run.e2e_s.mean or 0.0 for run in links]
    assert times == sorted(times)
    slow = links[-1].parts["experts-apart"]
    assert slow is not None
    assert slow.link_busy > max(slow.attention, slow.experts)
    for run in links:
        a = run.parts["experts-apart"]
        assert a is not None
        assert (a.attention_devices, a.experts_devices, a.batches) == (2, 4, 2)
        assert 0.0 < max(a.attention, a.experts, a.link_busy) <= 1.0 + 1e-9
        assert sum(op.wall_s for op in {op.name: op for op in run.ops}.values()) == pytest.approx(
            float((run.stages["end_s"] - run.stages["start_s"]).sum()), rel=1e-9
        )


def test_the_answer_names_both_groups() -> None:
    found = simulate(few(), "h100-x2", experts_on="h200-x2", tp=1, keep_stages=True, **{**LOAD, "costs": "auto"})
    told = found.to_dict()
    board = found.run.parts["experts-apart"].deployment.device.board.model  # 700 W, as those of the others
    assert board is not None
    assert 0.0 < (found.run.watts_per_device or 0.0) <= board.limit_W
    assert found.run.stages["watts"].max() <= board.limit_W * (1 + 1e-9)
    own = told["experts_apart"]
    assert own["experts_on"] == "h200-x2"
    assert own["limit"] in ("attention", "experts", "link", "round trip")
    where = [entry["applies_to"] for entry in told["evidence"]]
    assert any(text.startswith("MoE experts, experts") for text in where)
    assert any(text.endswith(", attention") for text in where)
    assert not any("MoE" in text and text.endswith(", attention") for text in where)
    assert told["system"] == "h100-x2 with experts on h200-x2"
    assert {op["processor"] for op in told["layers"] if op["kind"] == "experts"} == {"xpu of h200"}


def test_capacity_and_sweeps_take_it() -> None:
    found = capacity(
        few(), "h100-x1", "tpot_p90=0.05,ttft_p90=1", experts_on="h100-x1", tolerance=0.5,
        requests=30, input_len=100, output_len=10, costs="roofline",
    )  # fmt: skip
    (row,) = found.records()
    assert row["devices"] == 2
    assert "with experts on h100-x1" in row["system"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"micro_batches": 2}, "--micro-batches: needs --experts-on"),
        ({"experts_on": "h100-x1", "micro_batches": 17}, "--micro-batches"),
        ({"experts_on": "h100-x3"}, "--experts-on.*must divide the 64 experts"),
        ({"experts_on": "h100-x1", "ep": 1}, "--ep: cannot be combined with --experts-on"),
        ({"experts_on": "h100-x1", "overlap": "two-batch"}, "--overlap: cannot be combined"),
        ({"experts_on": "h100-x1", "experts_link": "nvlnk"}, "--experts-link: unknown link"),
        ({"experts_on": "duplex-split-x4"}, "--experts-on"),
        ({"experts_on": "zcu102-x1"}, "zcu102"),
    ],
)
def test_what_cannot_be_is_one_line(options: dict[str, Any], part: str) -> None:
    with pytest.raises((InputError, CapacityError), match=part) as caught:
        run_scenario(Scenario.of(few(), "h100-x1", **{**LOAD, **options}))
    assert "\n" not in str(caught.value)


def test_a_dense_model_and_single_steps_are_refused() -> None:
    with pytest.raises(InputError, match="has no experts"):
        run_scenario(Scenario.of("llama-3-8b", "h100-x1", experts_on="h100-x1", **LOAD))
    with pytest.raises(InputError, match=r"--steps.*remove --experts-on"):
        simulate(few(), "h100-x1", experts_on="h100-x1", steps="3", **LOAD)
    with pytest.raises(CapacityError, match="experts of deepseek-v3 do not fit"):
        run_scenario(Scenario.of("deepseek-v3", "h200-x8", experts_on="h200-x4", tp=1, **LOAD))
