"""Is a plan quick and still right: are probes like the runs that are shown, and bounds of a rate below it?

Expected values: the same runs with a draw of expert loads for every layer; the rate that a long closed loop measures.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from opbyte import plan
from opbyte.analysis.answers.interval import Interval
from opbyte.analysis.answers.run_interval import RunIntervals
from opbyte.analysis.answers.usual import as_usual
from opbyte.analysis.studies.backlog import DRAWS, ROUTED, full_rate, least_rate, sampled
from opbyte.analysis.studies.plan import best, trial
from opbyte.analysis.studies.plan.bounds import least_of
from opbyte.analysis.studies.plan.words import finished
from opbyte.simulator.results.record import Run
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import Made, deployment_of, run_scenario

WORK: dict[str, Any] = {"input_len": 512, "output_len": 128, "lengths": "lognormal"}
LEVEL = "ttft_p99=1,tpot_p99=0.03"


def asked(model: str, system: str, **options: Any) -> Scenario:
    return as_usual(Scenario(model=model, system=system).changed(**{"rate": 8.0, **WORK, **options}))


@pytest.mark.parametrize(
    ("model", "system", "options"),
    [("qwen3-30b-a3b", "h100-x1", {}), ("deepseek-v2-lite", "h100-x2", {"tp": 1, "dp": 2, "ep": 2})],
)
def test_probes_are_like_the_runs_that_are_shown(model: str, system: str, options: dict[str, Any]) -> None:
    """Layers are alike but for chance: fewer draws of their loads change no latency by more than noise."""
    scenario = asked(model, system, requests=2000, **options)
    made = deployment_of(scenario)
    probe = sampled(made)
    assert len(probe[0].experts) == DRAWS < len(made[0].experts)
    assert sum(p.layers for p in probe[0].experts) == sum(p.layers for p in made[0].experts)
    a, b = (run_scenario(scenario, made=each) for each in (probe, made))
    assert a.tpot_s.p99 == pytest.approx(b.tpot_s.p99, rel=0.01)
    assert a.tpot_s.mean == pytest.approx(b.tpot_s.mean, rel=0.002)
    assert a.joules_per_token == pytest.approx(b.joules_per_token, rel=0.002)
    assert a.ttft_s.p50 == pytest.approx(b.ttft_s.p50, rel=0.02)


def test_a_layer_that_is_drawn_is_one_of_those_it_stands_for() -> None:
    """Also where it stands for itself alone: layers with popular experts of their own are drawn more often."""
    made = deployment_of(asked("deepseek-v2-lite", "h100-x1", routing="power_law:0.8"))
    probe = sampled(made)[0].experts
    ends = np.cumsum([p.layers for p in probe])
    assert len(probe) == DRAWS * ROUTED < len(made[0].experts) == ends[-1]
    assert all(end - p.layers <= p.row < end for p, end in zip(probe, ends, strict=True))


def test_what_has_no_equal_layers_is_its_own_probe() -> None:
    for scenario in (asked("llama-3-8b", "h100-x1"), asked("qwen3-30b-a3b", "h100-x2", experts_resident="16")):
        made = deployment_of(scenario)
        assert sampled(made) is made


@pytest.mark.parametrize("model", ["llama-3-8b", "qwen3-30b-a3b"])
def test_a_short_loop_bounds_the_full_rate_from_below(model: str) -> None:
    scenario = asked(model, "h100-x1", framework="vllm")
    least, full = least_rate(scenario), full_rate(scenario)
    assert least is not None
    assert full is not None
    assert least.bound
    assert 0.2 * full.per_s < least.per_s < full.per_s
    assert least.mean_wait_s(0.1) >= full.mean_wait_s(0.1)


def test_what_may_be_faster_than_rates_say_has_no_bounds() -> None:
    deployment = deployment_of(asked("llama-3-8b", "h100-x1"))[0]
    assert least_of(deployment) is not None
    assert least_of(replace(deployment, kernels=("gemm",))) is None


@pytest.mark.parametrize("guess", [1, 5, 16, 64])
def test_the_fewest_copies_are_found_from_any_guess(guess: int) -> None:
    """In few simulations, none with far fewer copies than are known to suffice: a growing queue takes long."""
    for fewest in range(1, 66):
        asked: list[int] = []

        def holds(count: int, asked: list[int] = asked, fewest: int = fewest) -> bool:
            enough = min((n for n in asked if n >= fewest), default=0)
            assert count not in asked
            assert count >= enough - max(enough // 8, 1)
            asked.append(count)
            return count >= fewest

        assert trial._fewest(holds, 1, guess, 64) == (fewest if fewest <= 64 else None)


def test_latencies_are_shown_at_the_ends_of_their_interval() -> None:
    """Steps at the 10th and the 90th percentile of what they may take, here 0.6 and 1.4 times the predicted time."""
    one = Interval(1.0, 1.0)
    sure = RunIntervals(one, one, one, one, one, tuple(np.linspace(0.5, 1.5, 11)))
    task = SimpleNamespace(quick=False, sure=None)
    shown: Any = SimpleNamespace(
        task=task,
        point=lambda count, slow, *how, **more: SimpleNamespace(sure=sure, figures={"ttft_p99": slow}, missed={}),
    )
    found = trial.sure_of(shown, 1, 4)[1]
    assert found is not None
    assert found.ends["ttft_p99"] == pytest.approx((0.6, 1.4))


def test_every_layer_is_drawn_for_what_is_shown_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding U5: of a plan's simulations one a system draws all layers; rows come as they are known, the cheapest memory first."""
    whole: list[int] = []

    def counted(scenario: Scenario, made: Made | None = None, **how: Any) -> Run:
        assert made is not None
        whole.append(int(len(made[0].experts) > DRAWS))
        return run_scenario(scenario, made=made, **how)

    monkeypatch.setattr(trial, "run_scenario", counted)
    rows: list[str] = []
    given: dict[str, Any] = {"load": 20.0, "goal": "cost", "most_devices": 4, "workers": 1, **WORK}
    found = plan(
        "qwen3-30b-a3b",
        "h100-x1,h200-x1",
        LEVEL,
        on_row=rows.append,
        on_best=lambda s: rows.append(finished(s)),
        **given,
    )
    assert sum(whole) == 2 < len(whole)
    assert [row.split(":")[0] for row in rows] == ["h200-x1", "h200-x1", "h100-x1", "h100-x1"]
    whole.clear()
    quick = plan("qwen3-30b-a3b", "h100-x1,h200-x1", LEVEL, quick=True, **given)
    assert sum(whole) == 0
    for a, b in zip(quick.searched, found.searched, strict=True):
        assert a.chosen is not None
        assert b.chosen is not None
        assert a.chosen.devices == b.chosen.devices
        assert a.chosen.joules_per_token == pytest.approx(b.chosen.joules_per_token, rel=0.01)
    assert "not computed with --quick" in str(quick.blocks())


def test_a_probe_that_the_whole_run_contradicts_does_not_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search goes on with more copies, and the limit is kept by what is shown."""
    real, first = best.sure_of, []

    def doubted(*given: Any) -> Any:
        point, sure, count = real(*given)
        first.append(point.copies)
        return (replace(point, missed=("tpot_p99",)) if len(first) == 1 else point), sure, count

    monkeypatch.setattr(best, "sure_of", doubted)
    found = plan("qwen3-30b-a3b", "h100-x1", LEVEL, load=20.0, most_devices=8, workers=1, quick=False, **WORK)
    assert found.winner is not None
    assert found.winner.copies == first[0] + 1 == first[-1]


@pytest.mark.parametrize(
    ("model", "systems", "load", "slo", "goal"),
    [
        ("llama-3-8b", "h100", 200.0, "ttft_p99=1,tpot_p99=0.015", "cost"),
        ("qwen3-30b-a3b", "h200", 60.0, "ttft_p99=2,tpot_p99=0.02", "devices"),
        ("mixtral-8x7b", "a100-80gb", 30.0, "ttft_p99=2,tpot_p99=0.04", "cost"),
        ("llama-3-8b", "a100-80gb-x1", 60.0, "ttft_p99=1,tpot_p99=0.03", "energy"),
    ],
)
def test_a_quick_plan_costs_at_most_a_tenth_more(model: str, systems: str, load: float, slo: str, goal: str) -> None:
    """It simulates less, says what it skipped, and its best is within 10 % of that of the full plan."""
    given: dict[str, Any] = {"load": load, "goal": goal, "most_devices": 16, "workers": 1, **WORK}
    quick, full = (plan(model, systems, slo, quick=q, **given) for q in (True, False))
    for a, b in zip(quick.searched, full.searched, strict=True):
        assert a.chosen is not None
        assert b.chosen is not None
        assert full.task.worth(a.chosen)[0] == pytest.approx(full.task.worth(b.chosen)[0], rel=0.1)
        assert a.chosen.joules_per_token == pytest.approx(b.chosen.joules_per_token, rel=0.03)  # ties: finding U12
    assert sum(s.simulations for s in quick.searched) < sum(s.simulations for s in full.searched)
    assert "Skipped by --quick: " in str(quick.blocks())
    assert "Skipped by" not in str(full.blocks())
