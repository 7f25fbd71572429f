"""Do overlapped steps agree on both paths, and keep to physics?

The explicit path (`step.explicit`, with the list scheduler) is the definition. Every draw of a model,
system, way to overlap and batch must give equal seconds, joules and seconds by op, to 1e-9 relative;
no step is below its longest stream or above the sum of its own chunks; ``auto`` is never above ``none``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.parts.overlap.splitting import split_draw
from opbyte.simulator.parts.overlap.tracks import tracks_of
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.simulator.step.lowering import lower
from opbyte.simulator.step.sections import sections_of
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.ops import Loads

from .pieces import batches_with, contexts_up_to
from .two_paths import check_paths, some_work, with_next

WAYS = ("two-batch", "pipelined:2", "pipelined:4", "pipelined:16", "auto")
GATED = ("two-batch:3,40", "two-batch:alike", "two-batch:decodes")
CASES = (
    ("llama-3-8b", "h100-x4", {}),
    ("mixtral-8x7b", "h100-x4", {}),
    ("mixtral-8x7b", "h100-x4", {"tp": 1}),
    ("mixtral-8x7b", "h100-2x8", {"tp": 2}),
    ("gpt-oss-20b", "h100-x4", {"tp": 1}),
    ("mixtral-8x7b", "duplex-x4", {"placement": "co-process"}),
    ("mixtral-8x7b", "h100-x4", {"pp": 2}),
    ("mixtral-8x7b", "h100-x4", {"draws": "step"}),
    ("llama-3-8b", "h100-2x8", {"tp": 8, "pp": 2}),
    ("deepseek-v2-lite", "h100-x4", {"tp": 1}),
)
SHORT = (*range(7), 9)
DEEP = ((0, 32), (7, 10), (8, 20))
"""Cases with so many layers alike that the compiled path runs the first ones alone (`parts.overlap.maxplus`)."""

contexts = contexts_up_to(20_000)
batches_of = batches_with(st.lists(contexts, max_size=6), contexts)


@cache
def deployed(case: int, overlap: str, layers: int = 3) -> Deployment:
    """One of the cases, cut to few layers so that the explicit path is quick."""
    name, system, options = CASES[case]
    model = load_model(name)
    return deploy(replace(model, layers=model.layers[:layers]), load_system(system), overlap=overlap, **options)  # type: ignore[arg-type]


def step_of(deployment: Deployment, data: st.DataObject) -> list[Batch]:
    return some_work([data.draw(batches_of) for _ in range(deployment.ranks)])


@pytest.mark.parametrize(("case", "layers"), [*((case, 3) for case in SHORT), *DEEP])
@given(data=st.data())
@settings(max_examples=6)
def test_both_paths_agree(case: int, layers: int, data: st.DataObject) -> None:
    d = deployed(case, data.draw(st.sampled_from(WAYS + GATED)), layers)
    step, captured = data.draw(st.integers(0, 10**6)), data.draw(st.sampled_from((0, 16)))
    plan, slots = lower(d, 1)
    steps = with_next(step_of(d, data))
    _, step_totals, stages = check_paths(d, steps, step, 1, captured, plan)
    stage = stages[-1]
    counted = sum(stage.times(lambda p: p.op.layer).values())
    assert counted >= stage.seconds * (1 - 1e-9)
    if d.placement != "co-process":  # there ops side by side count in full
        assert counted == pytest.approx(stage.seconds, rel=1e-9)
    exchanged = [s.times(lambda p: p.op.name if p.op.layer == "communication" else "") for s in stages]
    for name in exchanged[0]:
        if name:
            spent = sum(w for w, n in zip(step_totals.wall, slots.name, strict=True) if n == name)
            assert spent == pytest.approx(sum(times[name] for times in exchanged), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("case", SHORT[:-1])  # cut prompts of latent attention make keys twice
@given(data=st.data())
@settings(max_examples=3)
def test_steps_keep_to_physics(case: int, data: st.DataObject) -> None:
    batches = step_of(deployed(case, "none"), data)
    plain = explicit_stage(deployed(case, "none"), batches, step=5)
    for way in WAYS:
        stage = explicit_stage(deployed(case, way), batches, step=5)
        if stage.way == "none":
            assert stage.seconds == plain.seconds
            assert way == "auto"
            continue
        for line in stage.timelines:
            assert max(line.busy().values(), default=0.0) <= line.makespan * (1 + 1e-12)
            assert line.makespan <= sum(t.seconds for t in line.graph.tasks) * (1 + 1e-12)
        if way == "auto":
            assert stage.seconds < plain.seconds
        # Nothing is lost: every FLOP once, every exchanged byte once; weights are read again.
        sums = [
            {
                "flops": sum(p.op.flops * p.count * p.devices for p in cost.ops),
                "sent": sum(p.op.act_bytes * p.count * p.devices for p in cost.ops if p.op.layer == "communication"),
                "weights": sum(p.op.weight_bytes * p.count * p.devices for p in cost.ops),
            }
            for cost in (plain, stage)
        ]
        assert sums[1]["flops"] == pytest.approx(sums[0]["flops"], rel=1e-9)
        assert sums[1]["sent"] == pytest.approx(sums[0]["sent"], rel=1e-9)
        assert sums[1]["weights"] >= sums[0]["weights"] * (1 - 1e-12)


@given(st.lists(st.integers(0, 900), min_size=8, max_size=8), st.sampled_from((2, 4, 8, 16)), st.integers(0, 10**6))
def test_expert_loads_are_split_whole(tokens: list[int], chunks: int, step: int) -> None:
    """Every token of every expert is in one chunk, and every chunk has the tokens it exchanges."""
    part = deployed(2, "two-batch").experts[0]
    total = sum(tokens) // part.router.top_k * part.router.top_k
    tokens[0] += total - sum(tokens) if tokens[0] >= sum(tokens) - total else 0
    if sum(tokens) != total:
        tokens[0] += part.router.top_k - (sum(tokens) - total)
        total = sum(tokens)
    each, over = divmod(total // part.router.top_k, chunks)
    wanted = [float(each + (i < over)) for i in range(chunks)]
    split = split_draw(part, Loads.drawn(np.array(tokens)), wanted, step, 0)
    assert np.sum([loads.tokens for loads in split], axis=0).tolist() == tokens
    assert [loads.routed for loads in split] == [w * part.router.top_k for w in wanted]


def test_a_half_touches_as_many_experts_as_a_draw_of_half_the_tokens() -> None:
    """An expert of a draw of n tokens is idle with chance (1 - k / E)^n.

    With coins it is (1 - k / 2E)^2n, a little more, as if halves were not quite of one size.
    """
    part = deployed(4, "two-batch").experts[0]  # 32 experts, 4 a token
    tokens, found = 16, []
    for step in range(400):
        loads = part.router.loads(step, part.row, Batch.of([9] * tokens))
        halves = split_draw(part, loads, [tokens / 2] * 2, step, 0)
        found += [half.active for half in halves]
    expected = 32 * (1 - (1 - 4 / 32) ** (tokens / 2))
    assert np.mean(found) == pytest.approx(expected, rel=0.03)
    assert np.mean(found) < expected


def test_one_token_cannot_be_halved() -> None:
    """A half of nothing costs nothing, so the step takes what it takes uncut."""
    batches = [Batch.of([100]), *[Batch.of()] * 3]
    for case in (1, 2):
        plain, halved = (
            explicit_stage(deployed(case, way), batches[: deployed(case, way).ranks], step=3).seconds
            for way in ("none", "two-batch")
        )
        assert halved == pytest.approx(plain, rel=1e-12)


def test_what_pipelining_cuts() -> None:
    """From attention's output to the end of a layer; what depends on contexts stays whole."""
    d = deployed(2, "pipelined:2")
    section = sections_of(d)[1]
    names = [op.name for op in section.build(Batch.of([5], [(3, 0)]).moments(d.shard.windows))]
    cut = [names[i] for t in tracks_of(d, section) if t.cut for i in range(t.start, t.stop)]
    whole = [name for name in names if name not in cut]
    assert {"dispatch_all_to_all", "collect_all_to_all", "router"} <= set(cut)
    assert any(name.startswith("attention") for name in whole)
    assert sum(t.part == 0 and t.cut for t in tracks_of(d, section)) == 1


def test_an_overlap_of_nothing_is_refused() -> None:
    model, system = load_model("llama-3-8b"), load_system("h100-x1")
    with pytest.raises(InputError, match="--overlap two-batch: has no exchange to overlap"):
        deploy(model, system, overlap="two-batch")
    assert explicit_stage(deploy(model, system, overlap="auto"), [Batch.of([9])]).way == "none"


def test_links_of_one_medium_are_one_stream() -> None:
    """Peer copies and network traffic on PCIe wait for each other."""
    model = load_model("mixtral-8x7b")
    streams = {}
    for system in ("l40s-2x8", "h100-2x8"):
        d = deploy(model, load_system(system), tp=8, overlap="two-batch")
        streams[system] = {t.resource for section in sections_of(d) for t in tracks_of(d, section)}
    assert streams["l40s-2x8"] == {"compute", "pcie"}
    assert len(streams["h100-2x8"]) == 3


@pytest.mark.parametrize("way", ["two-batch", "auto"])
def test_a_device_is_busy_at_most_all_of_the_time_and_below_its_limit(way: str) -> None:
    scenario = Scenario.of("llama-3-70b", "h100-x8", rate=4.0, requests=60, input_len=2000, output_len=60, overlap=way)
    run = run_scenario(scenario, keep_stages=True)
    device = run.deployment.system.device
    length = 8 * (run.stages["end_s"] - run.stages["start_s"])
    for name in ("busy_xpu_s", "busy_links_s"):
        assert (run.stages[name] <= length * (1 + 1e-9)).all()
    assert device.limit_W is not None
    assert (run.stages["watts"] <= device.limit_W * (1 + 1e-9)).all()
    assert (run.stages["busy_xpu_s"] + run.stages["busy_links_s"] > length * (1 + 1e-9)).any()
    clock = sum(op.wall_s for op in {(o.layer, o.name, o.kind): o for o in run.ops}.values())
    assert clock <= run.makespan_s * (1 + 1e-9)
