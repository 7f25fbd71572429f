"""Are quoted benchmarks scored by their rules, without contradiction?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from opbyte import InputError, benchmark
from opbyte.analysis.answers import benchmarks
from opbyte.analysis.answers.benchmarks import BENCHMARKS, Score, best_score
from opbyte.analysis.names import catalog
from opbyte.analysis.studies.benchmark import study
from opbyte.devices.catalog import load_system
from opbyte.simulator.scenario import Scenario


def test_the_server_keeps_its_level_and_all_at_once_is_never_slower() -> None:
    found = benchmark("mlperf-llama2-70b", "h100-x2", model="llama-3.2-1b", tolerance=0.2)
    offline, server = found.to_dict()["rows"]
    assert offline["output_tokens_per_s"] >= server["output_tokens_per_s"] > 0
    assert server["ttft_s_p99"] <= 2.0
    assert server["tpot_s_p99"] <= 0.2
    # Below overload the rate is the load times the mean answer, of 294 tokens.
    assert server["output_tokens_per_s"] == pytest.approx(294 * server["requests_per_s"], rel=0.06)
    assert offline["output_tokens_per_s_per_device"] == offline["output_tokens_per_s"] / 2
    assert all(p["version"].startswith("MLPerf Inference v4.1") for p in found.to_dict()["published"])
    assert "trademark" in found.blocks()[-1]


def test_a_curve_has_a_point_for_each_closed_loop() -> None:
    found = benchmark("inferencex-1k1k", "h100-x1", model="llama-3.2-1b")
    rows = found.to_dict()["rows"]
    assert [row["clients"] for row in rows] == [4, 8, 16, 32, 64, 128, 256]
    rates = [row["output_tokens_per_s"] for row in rows]
    assert rates == sorted(rates)
    paces = [row["tpot_s_mean"] for row in rows]
    assert paces == sorted(paces)


@pytest.mark.parametrize(
    ("pp", "budget", "tried"), [(1, None, [None]), (2, None, [None, study.CHUNK]), (2, 4096, [4096])]
)
def test_stages_are_tried_with_small_steps_too(
    pp: int, budget: int | None, tried: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int | None] = []

    def closed(base: Scenario, *_: object) -> Score:
        seen.append(base.serving.token_budget)
        return Score("offline", 1, "", float(len(seen)))

    monkeypatch.setattr(study, "_closed", closed)
    monkeypatch.setattr(study, "CLIENTS", (128,))
    rules = replace(BENCHMARKS["mlperf-llama3.1-405b"], prompts=None)
    base = rules.scenario(None, tp=1, pp=pp, token_budget=budget)
    best = study._at_once(rules, base, load_system("h100-x2"), 1, None, 0.0)
    assert seen == tried
    assert best.output_tokens_per_s == len(tried)


@pytest.mark.parametrize(("most", "rate", "load"), [(None, 101.0, 2.0), (200.0, 101.0, 2.0), (50.5, 50.5, 1.0)])
def test_arrivals_get_no_more_than_all_at_once(
    most: float | None, rate: float, load: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load is found to a tolerance, and a run's rate is that of the answers it drew."""
    monkeypatch.setattr(benchmarks, "SCORERS", {"server": lambda *_: Score("server", None, "", 101.0, 2.0)})
    rules = BENCHMARKS["mlperf-llama2-70b"]
    at_once = None if most is None else Score("offline", 1, "", most)
    found = best_score(rules, rules.scenario(), load_system("h100-x1"), "server", most=at_once)
    assert (found.output_tokens_per_s, found.requests_per_s) == (rate, load)


def test_what_cannot_be_asked() -> None:
    with pytest.raises(InputError, match="'mlperf': unknown benchmark; known: "):
        benchmark("mlperf", "h100-x8")
    with pytest.raises(InputError, match="is set by mlperf-llama2-70b"):
        benchmark("mlperf-llama2-70b", "h100-x8", input_len=3)
    with pytest.raises(InputError, match="does not fit"):
        benchmark("mlperf-llama3.1-405b", "l4-x1" if "l4" in _names() else "rtx-4090-x1")


def _names() -> set[str]:
    return {row["name"] for row in catalog("devices")}


def test_what_spreads_does_not_slow_what_is_saturated() -> None:
    rules = BENCHMARKS["mlperf-llama3.1-405b"]
    even = replace(rules, lengths="fixed")
    one, other = (best_score(r, r.scenario(), load_system("h200-x8"), "offline", size=8) for r in (rules, even))
    assert one.output_tokens_per_s == pytest.approx(other.output_tokens_per_s, rel=0.03)


def test_benchmarks_are_listed() -> None:
    assert {"mlperf-llama2-70b", "inferencex-1k1k"} <= {row["name"] for row in catalog("benchmarks")}
