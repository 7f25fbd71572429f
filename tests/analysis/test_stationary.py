"""Is a load held only where the queue is stationary over it, however many requests are asked for?

Expected values: the closed loop's rate, which no load exceeds; Little's law and the conservation of
requests; queues whose growth is known; the order of levels.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte import capacity, simulate
from opbyte.analysis.studies import stationary
from opbyte.analysis.studies.capacity_result import SystemCapacity
from opbyte.analysis.studies.loads import knob_of, too_long
from opbyte.analysis.studies.stationary import BATCHES, FIRST, MOST_REQUESTS, _queue, counted, decide, judge
from opbyte.analysis.studies.sweep.point import metrics_of
from opbyte.simulator.results.record import Run
from opbyte.simulator.results.steady import Window, trend_share
from opbyte.simulator.scenario import Scenario

MODEL, SYSTEM = "llama-3.1-8b", "h100-x1"
WORK: dict[str, Any] = {"input_len": 150, "output_len": 294, "lengths": "lognormal", "framework": "vllm"}
NOISE = 0.03
ASKED = Scenario(model=MODEL, system=SYSTEM)


def found(requests: int | None) -> SystemCapacity:
    (each,) = capacity(MODEL, SYSTEM, "ttft_p99=2,tpot_p99=0.2", requests=requests, workers=1, **WORK).found
    return each


@pytest.fixture(scope="module")
def by_default() -> SystemCapacity:
    return found(None)


def test_a_burst_is_no_capacity(by_default: SystemCapacity) -> None:
    """Finding 0: A run of 1,000 requests held 294 a second, a burst that never filled the queue; a closed loop of
    as many clients as the engine takes serves 63."""
    most = simulate(MODEL, SYSTEM, closed_loop=1024, requests=9000, **WORK).run
    assert most.output_tokens_per_s is not None
    rate = most.output_tokens_per_s / (most.output_tokens / 9000)
    assert by_default.load_per_s is not None
    assert 0.9 * rate < by_default.load_per_s < rate * (1 + NOISE)


def test_load_times_mean_output_is_the_output_rate(by_default: SystemCapacity) -> None:
    """Findings 0 and 5 of a trial: rates hold no ramp and no drain."""
    for t in by_default.tried:
        assert t.output_tokens_per_s is not None
        assert t.output_tokens_per_s <= t.load_per_s * 294 * (1 + 2 * NOISE)
        if t.holds:
            assert t.output_tokens_per_s == pytest.approx(t.load_per_s * 294, rel=1.2 * NOISE)


@pytest.mark.parametrize("requests", [600, 20_000])
def test_the_number_of_requests_does_not_matter(by_default: SystemCapacity, requests: int) -> None:
    assert found(requests).load_per_s == pytest.approx(by_default.load_per_s, rel=NOISE)


def test_a_sweep_says_what_a_capacity_says(by_default: SystemCapacity) -> None:
    """Of the same load and requests; far beyond what is held no second run is needed."""
    held = [t for t in by_default.tried if t.holds]
    missed = [t for t in by_default.tried if t.missed]
    for t in (held[0], held[-1], missed[-1]):
        asked = simulate(MODEL, SYSTEM, rate=t.load_per_s, requests=t.requests, **WORK)
        said = metrics_of(asked)["stationary"]
        assert said == 1 if t.holds else said in (0, None)
    far = 3 * held[-1].load_per_s
    once = decide(lambda n: run(far, n), far, {"ttft_p99": 2.0}, 1).tried
    assert (once.requests, once.missed[0]) == (FIRST, "ttft_p99")
    closed = simulate(MODEL, SYSTEM, closed_loop=8, requests=40, **WORK)
    assert metrics_of(closed)["stationary"] is None


def test_counts_are_shared_by_all_that_ask() -> None:
    assert {counted(n) for n in (1, 600, FIRST)} == {FIRST}
    assert all(counted(n) >= n for n in range(1, 5000, 37))


def test_a_part_of_a_run_without_arrivals_gives_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stationary, "values_of", lambda run, measure: (np.ones(40), np.repeat([0.5, 2.5], 20)))
    run: Any = SimpleNamespace(window=SimpleNamespace(edges=(0.0, 1.0, 2.0, 3.0)))
    assert stationary._spread(run, "ttft_mean", 1.0) == 1.0


def test_shares_that_stay_are_found() -> None:
    """Of arrivals at rate 1, served at 1 / s, a share 1 - 1 / s stays."""
    came = np.cumsum(np.random.default_rng(1).exponential(1.0, 20_000))
    for slower, share in ((1.0, 0.0), (1.25, 0.2), (2.0, 0.5)):
        low, high = trend_share(came, came * slower + 5.0, np.linspace(1000.0, 19_000.0, 21))
        assert low - 0.01 <= share <= high + 0.01


def test_what_cannot_be_told_is_named_beside_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding U4: a number, and the load above it that no run could tell."""
    monkeypatch.setattr("opbyte.analysis.studies.stationary.MOST_REQUESTS", FIRST)
    each = found(None)
    assert each.undecided
    assert each.load_per_s is not None
    assert each.next_load_per_s is not None
    assert each.load_text == f"{each.load_per_s:.2f} ({each.next_load_per_s:.2f} not decided)"
    assert f"{FIRST:,} requests" in each.reason
    assert MOST_REQUESTS > FIRST


def test_five_generations_tell_nothing() -> None:
    """Of a queue that does not grow at all: a run of fewer than ten generations is open all the same."""
    came = np.arange(1000.0)
    requests = SimpleNamespace(arrival_s=came, scheduled_s=came, last_token_s=came + 5.0)
    for batches, state in ((5, "open"), (BATCHES - 1, "open"), (BATCHES, "holds")):
        window = Window(100.0, 900.0, "steady", edges=tuple(np.linspace(100.0, 900.0, batches + 1)))
        assert _queue(SimpleNamespace(window=window, requests=requests), None, True)[0] == state


@pytest.mark.parametrize(
    ("figure", "wide", "state"),
    [(0.5, 0.9, "holds"), (0.99, 0.04, "holds"), (1.01, 0.04, "missed"), (3.0, 0.6, "missed"), (2.0, 0.6, "open")],
)
def test_a_latency_surely_beyond_its_limit_is_missed(
    figure: float, wide: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However wide its interval is; one whose limit lies within a wide one is open, within a narrow one as measured."""
    monkeypatch.setattr(stationary, "_spread", lambda *_: wide)
    monkeypatch.setattr(stationary, "_far", lambda *_: False)
    calm: Any = SimpleNamespace(window=SimpleNamespace(overloaded=False))
    tried: Any = SimpleNamespace(figures={"ttft_p99": figure})
    assert stationary._latency(calm, tried, "ttft_p99", 1.0, None) == state


def test_a_rate_above_that_of_full_engines_is_not_sustained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the requests of a run came slower, and its queue is stationary."""
    monkeypatch.setattr(stationary, "_queue", lambda *_: ("holds", 0.0))
    monkeypatch.setattr(stationary, "full_rate", lambda _: SimpleNamespace(sustains_per_s=5.0))
    run: Any = SimpleNamespace(
        window=SimpleNamespace(length_s=2.0), requests=np.rec.fromarrays([np.arange(3.0)], names="arrival_s")
    )
    assert stationary.stationary(run, ASKED.changed(rate=7.0)) is False


@pytest.mark.parametrize(
    ("text", "knob"),
    [
        ("num_prefill_tokens,num_decode_tokens\n3,4\n3,4\n", ("rate", 1.0)),
        ("arrival_s,input_tokens,output_tokens\n0,3,4\n0,3,4\n", ("rate", 1.0)),
        ("arrival_s,input_tokens,output_tokens\n1,3,4\n2,3,4\n5,3,4\n", ("rate_scale", 0.5)),
    ],
)
def test_a_trace_without_times_has_its_load_as_a_rate(text: str, knob: tuple[str, float], tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(text)
    assert knob_of(ASKED.changed(trace=str(tmp_path / "trace.csv"))) == knob


def test_the_excess_over_a_limit_is_a_share_of_it() -> None:
    text = too_long(["ttft_p99"], {"ttft_p99": 3.0}, {"ttft_p99": 2.0}, "{name} by {over:.0%}")
    assert "ttft p99 by 50%" in text


RUNS: dict[tuple[float, int], Run] = {}


def run(rate: float, count: int) -> Run:
    if (rate, count) not in RUNS:
        RUNS[rate, count] = simulate(MODEL, SYSTEM, rate=rate, requests=count, **WORK).run
    return RUNS[rate, count]


@settings(max_examples=300)
@given(
    rate=st.sampled_from([20.0, 50.0, 60.0, 62.0, 64.0, 90.0]),
    ttft=st.floats(0.01, 30.0), tpot=st.floats(0.005, 0.1), looser=st.floats(1.0, 3.0),
    share=st.sampled_from(["p50", "p90", "p99", "mean"]),
)  # fmt: skip
def test_a_looser_level_is_never_held_less(rate: float, ttft: float, tpot: float, looser: float, share: str) -> None:
    """Of one run, and so of the runs that grow until they can tell."""

    def verdict(times: float, count: int | None) -> int:
        level = {f"ttft_{share}": ttft * times, f"tpot_{share}": tpot * times}
        if count is None:
            tried = decide(lambda n: run(rate, min(n, 16_000)), rate, level, 1).tried
        else:
            tried = judge(run(rate, count), rate, level, None, sampled=True)[0]
        return 0 if tried.missed else 2 if tried.holds else 1

    assert verdict(looser, 8000) >= verdict(1.0, 8000)
    assert verdict(looser, None) >= verdict(1.0, None)
