"""Is the rate of full engines what a long backlog is served at, and does a load that is named recover from one?

Expected values: a queue with one server and exponential times (M/M/1), whose waits are known; Little's law;
a closed loop of as many clients as an engine takes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from opbyte import simulate
from opbyte.analysis.answers.usual import as_usual
from opbyte.analysis.studies import backlog
from opbyte.analysis.studies.backlog import LONGER, SKEW, STAYS, FullRate, fills, full_rate, in_service, unseen
from opbyte.analysis.studies.loads import BACKLOG
from opbyte.analysis.studies.stationary import decide, stationary
from opbyte.simulator.results.record import Run
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import run_scenario

MODEL, SYSTEM = "llama-3-8b", "h100-x1"
WORK: dict[str, Any] = {"input_len": 512, "output_len": 512, "lengths": "lognormal", "framework": "vllm"}
LEVEL = {"ttft_p99": 2.0, "tpot_p99": 0.1}


def asked(**options: Any) -> Scenario:
    return as_usual(Scenario(model=MODEL, system=SYSTEM).changed(**{"rate": 1.0, **WORK, **options}))


@pytest.fixture(scope="module")
def full() -> FullRate:
    found = full_rate(asked())
    assert found is not None
    return found


def run(rate: float, count: int, **options: Any) -> Run:
    return simulate(MODEL, SYSTEM, rate=rate, requests=count, **{**WORK, **options}).run


def test_waits_and_spells_are_those_of_a_single_server() -> None:
    """M/M/1 at rate 10, load 8: who waits waits 0.5 s (here times `LONGER`); it forgets in 2 / (10 x 0.04) = 5 s."""
    one = FullRate(10.0, 0.0, 1.0, 1, None, Scenario())
    assert one.mean_wait_s(8.0) == pytest.approx(0.5 * LONGER)
    assert one.spells(8.0, 50.0) == pytest.approx(10.0)
    assert one.of(4).mean_wait_s(32.0) == pytest.approx(0.5 * LONGER)
    rng = np.random.default_rng(1)
    come, work = np.cumsum(rng.exponential(1 / 8, 400_000)), rng.exponential(0.1, 400_000)
    free = np.cumsum(work) + np.maximum.accumulate(come - np.cumsum(work) + work)
    waits = free - work - come
    assert waits[waits > 1e-9].mean() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("engines", "apart_s", "times"), [(1, 10.0, 1), (4, 10.0, 1), (1, 0.5, 5), (2, 0.5, 2.5)])
def test_an_engine_fills_as_often_as_a_normal_sum_exceeds_it(
    engines: int, apart_s: float, times: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By two deviations, whatever share of a load it takes; a spell of M/D/1 then lasts 2.5 s at rate 10, load 8."""
    series = engines * 100.0 + engines**0.5 * 10.0 * np.tile([1.0, -1.0], backlog.SAMPLES // 2)
    monkeypatch.setattr(backlog, "in_service", lambda _: (series, series))
    requests = SimpleNamespace(scheduled_s=np.zeros(1), last_token_s=np.full(1, apart_s / STAYS))
    found: Any = SimpleNamespace(requests=requests, window=SimpleNamespace(length_s=1e12))
    full = FullRate(10.0, 0.0, 0.0, 1, (120.0, 120.0), Scenario()).of(engines)
    assert fills(found, 8.0 * engines, full) == pytest.approx(times * SKEW * ndtr(-2.0), rel=1e-3)


def test_a_full_engine_serves_what_a_long_backlog_is_served_at(full: FullRate) -> None:
    """Finding G1: 19.6 requests/s with 1,024 clients."""
    long = simulate(MODEL, SYSTEM, closed_loop=1024, requests=12 * 1024, **WORK).run
    assert long.output_tokens_per_s is not None
    assert full.per_s == pytest.approx(long.output_tokens_per_s / 512, rel=0.025)
    assert full.half_width < 0.025
    fleet = full_rate(asked(replicas=3, router="round-robin"))
    assert fleet is not None
    assert fleet.per_s == pytest.approx(3 * full.per_s)


def test_a_load_that_full_engines_do_not_serve_is_not_sustained(full: FullRate) -> None:
    """Finding G1: 20.5 requests/s look steady in 20,000 requests and collapse within 200,000."""
    for rate, holds in ((20.5, False), (0.9 * full.per_s, True)):
        alone = decide(lambda n, rate=rate: run(rate, n), rate, LEVEL, 1).tried  # type: ignore[misc]
        both = decide(lambda n, rate=rate: run(rate, n), rate, LEVEL, 1, full=lambda: [full]).tried  # type: ignore[misc]
        assert alone.holds
        assert both.holds is holds
        assert both.missed == (() if holds else (BACKLOG,))
        assert stationary(run(rate, 16_000), asked(rate=rate)) is holds


def test_bursts_rarer_than_a_run_leave_it_open() -> None:
    """Finding G1: TensorRT-LLM's rules at 19.27 requests/s keep 2 s for 20,000 requests, and take 13 s in 200,000."""
    options = {"framework": "trtllm"}
    rate = full_rate(asked(**options))
    assert rate is not None
    short, lighter = run(19.0, 16_000, **options), run(14.0, 16_000, **options)
    assert unseen(short, 19.0, LEVEL, rate)[0]
    assert unseen(lighter, 14.0, LEVEL, rate)[0] == ()
    tight = {"ttft_p99": 1e-3}  # the looser the level, the less is open
    assert set(unseen(lighter, 14.0, LEVEL, rate)[0]) <= set(unseen(lighter, 14.0, tight, rate)[0])


def test_tokens_in_service_follow_from_littles_law(full: FullRate) -> None:
    low, high = run(12.0, 16_000), run(18.0, 16_000)
    _, running = in_service(low)
    r = low.requests
    assert running.mean() == pytest.approx(12.0 * (r.last_token_s - r.scheduled_s).mean(), rel=0.05)
    assert fills(low, 12.0, full) < fills(high, 18.0, full)
    assert fills(low, 12.0, replace(full, holds=None)) == 1.0  # of pools nothing is known


def test_a_short_trace_cannot_fill_an_engine(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(f"{i},200,20\n" for i in range(60)))
    scenario = as_usual(Scenario(model=MODEL, system=SYSTEM).changed(trace=str(path), framework="vllm"))
    assert full_rate(scenario) is None
    assert backlog.least_rate(scenario) is None


@pytest.mark.parametrize("more", [{}, {"kv_tiers": "host:64GiB"}])
def test_sessions_recover_from_a_backlog_too(more: dict[str, Any]) -> None:
    """A load is of sessions that begin; behind a backlog their turns find less in the cache. Little's law of clients."""
    options: dict[str, Any] = {"turns": 3.0, "think": 5.0, "input_len": 300, "output_len": 150, **more}
    found = full_rate(asked(**options))
    assert found is not None
    served = run_scenario(found.asked).requests
    span = float(np.ptp(served.last_token_s))
    assert found.per_s == pytest.approx(len(served) / span / 3.0, rel=0.15)
    clients, loop = found.asked.workload.closed_loop, backlog._loop_of(asked(**options), None)
    assert clients is not None
    assert loop is not None
    assert clients - loop.clients >= 5.0 * len(served) / span  # those who think are in no engine
    over, below = ((1.2 * found.per_s, False), (0.7 * found.per_s, True))
    for rate, holds in (over, below):
        level = {"ttft_p99": 1e6}
        tried = decide(lambda n, rate=rate: run(rate, n, **options), rate, level, 1, full=lambda: [found]).tried  # type: ignore[misc]
        assert tried.holds is holds
