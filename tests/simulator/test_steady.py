"""Are rates those of a steady window: right, with an interval that holds, whatever --requests is?

Expected values: an M/G/infinity system, whose output rate is arrival rate times mean output
(Little's law), drawn here by NumPy; below saturation the same of simulated runs; tokens counted
from the requests' own stamps.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.fleet.run import run
from opbyte.simulator.results.record import Run
from opbyte.simulator.results.steady import FEWEST, Stamps, Window, find_window, mser
from opbyte.workloads.catalog import load_model
from opbyte.workloads.requests import open_requests

RATE, TOKENS, SERVICE_S = 5.0, 100.0, 2.0


def spread(times: np.ndarray, first: np.ndarray, last: np.ndarray, tokens: np.ndarray) -> Any:
    """Tokens by some times, each request's spread evenly from its first to its last."""
    share = (times[:, None] - first) / np.maximum(last - first, 1e-12)
    return (np.clip(share, 0.0, 1.0) * tokens).sum(axis=1)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Poisson arrivals, and the ends of their service."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / RATE, count))
    return arrival, arrival + SERVICE_S * rng.uniform(0.5, 1.5, count)


def unlimited(count: int, seed: int) -> Window:
    """The window of Poisson arrivals at a system that serves any number at once."""
    arrival, last = drawn(count, seed)
    tokens = np.full(count, TOKENS)
    stamps = Stamps(arrival, arrival, last, np.ones(count, dtype=bool))
    return find_window(
        lambda times: spread(times, arrival, last, tokens), stamps,
        begin=0.0, end=float(last.max()), clients=None, asked=False,
    )  # fmt: skip


def rate_of(window: Window, count: int, seed: int) -> float:
    arrival, last = drawn(count, seed)
    ends = np.array([window.start_s, window.end_s])
    return float(np.diff(spread(ends, arrival, last, np.full(count, TOKENS)))[0]) / window.length_s


def test_the_interval_holds_what_is_known() -> None:
    """Of 95 % intervals of 100 runs, at least 88 hold the true rate; all are of steady windows."""
    held, widths = 0, []
    for seed in range(100):
        window = unlimited(400, seed)
        assert window.kind == "steady", window
        assert window.half_width is not None
        found = rate_of(window, 400, seed)
        held += abs(found / (RATE * TOKENS) - 1) <= window.half_width
        widths.append(window.half_width)
        assert not window.overloaded
    assert held >= 88
    assert np.median(widths) < 0.15  # 400 arrivals: 5 % of noise, 10 % of interval


def test_the_window_begins_after_the_filling_and_ends_before_the_draining() -> None:
    window = unlimited(2000, 1)
    assert 1.5 * SERVICE_S * 0.9 < window.start_s < 200.0
    assert window.end_s == pytest.approx(2000 / RATE, rel=0.1)


def test_truncation_of_a_ramp() -> None:
    ramp = np.concatenate([np.linspace(0.0, 1.0, 20), np.ones(80)])
    assert 15 <= mser(ramp) <= 20
    assert mser(np.ones(10)) == 0


def test_short_and_drifting_runs_say_so() -> None:
    short = unlimited(15, 0)
    assert short.kind == "whole"
    assert "would be needed" in short.why
    at_once = Stamps(np.zeros(9), np.zeros(9), np.full(9, 5.0), np.ones(9, dtype=bool))
    burst = find_window(lambda t: t, at_once, begin=0.0, end=5.0, clients=None, asked=False)
    assert (burst.kind, burst.start_s, burst.end_s) == ("whole", 0.0, 5.0)
    assert "within the time that one is in service" in burst.why
    arrival = 100 * np.sqrt(np.linspace(0.0, 1.0, 900))  # comes ever faster
    rising = find_window(
        lambda times: spread(times, arrival, arrival + 1.0, np.ones(900)),
        Stamps(arrival, arrival, arrival + 1.0, np.ones(900, dtype=bool)),
        begin=0.0, end=101.0, clients=None, asked=False,
    )  # fmt: skip
    assert rising.kind == "whole"
    assert rising.batches == 0  # an interval of what is not steady says nothing
    assert "changes by +" in rising.why
    assert not rising.overloaded
    late = Stamps(np.array([0.0, 0.5, 0.5]), np.array([0.0, 0.5, 0.5]), np.array([0.01, 0.51, 0.51]), np.ones(3, bool))
    calm = find_window(  # all is output before and after the part that varies least
        lambda times: spread(times, late.arrival, late.last, np.ones(3)), late,
        begin=0.0, end=0.51, clients=None, asked=False,
    )  # fmt: skip
    assert (calm.kind, calm.start_s, calm.end_s) == ("whole", 0.0, 0.51)
    assert "no output rate" in calm.why


@pytest.mark.parametrize(("load", "told"), [(1.0, False), (1.1, True), (1.3, True)])
def test_a_growing_queue_is_overload_in_a_short_run_too(load: float, told: bool) -> None:
    """Without a steady part: 1,000 arrivals within one service time, of whom one a second is let in."""
    arrival = np.arange(1000.0) / load
    scheduled = np.arange(1000.0)
    stamps = Stamps(arrival, scheduled, scheduled + 2000.0, np.ones(1000, dtype=bool))
    window = find_window(lambda t: t, stamps, begin=0.0, end=3000.0, clients=None, asked=False)
    assert (window.kind, window.overloaded) == ("whole", told)


@pytest.mark.parametrize("load", [0.9, 1.02, 1.05, 1.1])
def test_a_queue_that_surely_grows_is_overload(load: float) -> None:
    """Finding G2: 2 to 5 % more than is served grow unsaid in a steady window; one that recovers is no overload."""
    told = []
    for seed in range(5):
        arrival = np.cumsum(np.random.default_rng(seed).exponential(1.0 / load, 30_000))
        at = np.arange(30_000.0)  # one a second is let in, in order
        scheduled = np.maximum.accumulate(arrival - at) + at
        last = scheduled + SERVICE_S
        stamps = Stamps(arrival, scheduled, last, np.ones(30_000, dtype=bool))
        window = find_window(
            lambda t, first=scheduled, last=last: 100.0 * np.searchsorted((first + last) / 2, t), stamps,
            begin=0.0, end=float(last.max()), clients=None, asked=False,
        )  # fmt: skip
        told.append(window.overloaded)
    assert told == [load > 1.0] * 5


@pytest.fixture(scope="module")
def served() -> Any:
    found: Deployment = deploy(load_model("llama-3-8b"), load_system("h100-x1"))

    def serve(requests: int, seed: int = 0, policy: str = "chunked", **load: Any) -> Run:
        load = {"input_len": 300, "output_len": 40, "lengths": "lognormal", **load}
        stream = open_requests(limit=requests, seed=seed, **load)
        return run(found, make_policy(policy), stream, keep_stages=True)

    return serve


def inside(one: Run, other: Run) -> bool:
    """Whether two rates differ by no more than both their intervals allow."""
    a, b = one.output_tokens_per_s, other.output_tokens_per_s
    assert a is not None
    assert b is not None
    allowed = (one.window.half_width or 0) * a + (other.window.half_width or 0) * b
    return abs(a - b) <= allowed + 1e-12 * a  # fixed lengths repeat to the last digits


@given(rate=st.floats(5.0, 25.0), seed=st.integers(0, 1000))
def test_below_saturation_what_comes_is_served(served: Any, rate: float, seed: int) -> None:
    """The steady rate is that of the tokens asked for by the requests of the window."""
    found: Run = served(600, seed, rate=rate)
    window, rows = found.window, found.requests
    assert window.kind == "steady"
    assert not window.overloaded
    within = (rows.arrival_s >= window.start_s) & (rows.arrival_s < window.end_s)
    asked = float(rows.output_tokens[within].sum()) / window.length_s
    assert window.half_width is not None
    assert abs(found.output_tokens_per_s / asked - 1) <= window.half_width  # type: ignore[operator]
    ends = np.array([window.start_s, window.end_s])
    own = np.diff(spread(ends, rows.first_token_s, rows.last_token_s, rows.output_tokens))[0]
    assert found.interval_output_tokens == pytest.approx(own, rel=0.01)


def test_more_requests_stay_inside_the_interval(served: Any) -> None:
    """Twice and four times as many: rates, energy per token and so costs are those of before."""
    held = 0
    for seed in range(6):
        runs = [served(n, seed, rate=20.0) for n in (500, 1000, 2000)]
        assert [r.window.kind for r in runs] == ["steady"] * 3
        held += sum(inside(one, two) for one, two in itertools.pairwise(runs))
        for one, two in itertools.pairwise(runs):
            a, b = one.joules_per_token, two.joules_per_token
            allowed = one.joules_half_width * a + two.joules_half_width * b
            assert abs(a - b) <= allowed < 0.5 * a
    assert held >= 11
    whole = served(2000, 0, rate=20.0)
    assert whole.window.half_width < served(500, 0, rate=20.0).window.half_width


@pytest.mark.parametrize("policy", ["chunked", "mixed", "vllm"])
@pytest.mark.parametrize("lengths", ["fixed", "lognormal"])
def test_rounds_of_a_closed_loop(served: Any, policy: str, lengths: str) -> None:
    """Ten and forty rounds of 32 clients serve the same; three are too few, and say so."""
    load = {"closed_loop": 32, "rate": None, "lengths": lengths, "policy": policy}
    few, some, many = (served(32 * n, 1, **load) for n in (3, 10, 40))
    assert few.window.kind == "whole"
    assert "32 clients need some" in few.window.why
    assert (few.window.start_s, few.window.end_s) == (0.0, few.makespan_s)
    assert some.window.kind == many.window.kind == "steady"
    assert inside(some, many)
    assert some.output_tokens_per_s == pytest.approx(many.output_tokens_per_s, rel=0.06)


def test_overload_is_seen_at_any_length(served: Any) -> None:
    """Beyond saturation the queue grows by what is not served, and rates are the system's."""
    runs = [served(n, 2, rate=400.0, input_len=2000) for n in (600, 1200)]
    for found in runs:
        window = found.window
        assert window.overloaded
        left = 400.0 - found.output_tokens_per_s / found.requests.output_tokens.mean()
        assert window.queue_growth_per_s == pytest.approx(left, rel=0.25)
    assert runs[0].output_tokens_per_s == pytest.approx(runs[1].output_tokens_per_s, rel=0.1)


def test_stretches_carry_all_tokens_and_energy(served: Any) -> None:
    """Columns of stages.csv add up to the run's totals; no stretch is above the limit."""
    found: Run = served(200, rate=30.0)
    stages, device = found.stages, found.deployment.system.device
    assert stages["output_tokens"].sum() == found.output_tokens
    assert stages["joules"].sum() == pytest.approx(found.joules, rel=1e-9)
    assert sum(sum(op.joules.values()) for op in found.ops) == pytest.approx(found.joules)
    busy = sum(stages[name] for name in stages if name.startswith("busy_"))
    length = stages["end_s"] - stages["start_s"]
    board = found.deployment.device.board
    power = (stages["joules"] + board.busy_joules(1.0) * busy) / length + board.idle_W
    assert power.max() <= device.limit_W
    np.testing.assert_allclose(stages["watts"], power, rtol=1e-9)
    mean = (stages["watts"] * length).sum() + board.idle_W * (found.makespan_s - length.sum())
    assert found.window.kind == "steady" or mean / found.makespan_s == pytest.approx(found.watts_per_device, rel=1e-6)
    assert (stages["output_tokens"] >= stages["decodes"] * stages["steps"]).all()


def test_enough_batches_for_an_interval(served: Any) -> None:
    assert served(600, rate=20.0).window.batches >= FEWEST


def test_two_processors_at_once_make_a_device_busy_once() -> None:
    """Co-processed experts run on both for most of the time; the board stays below its limit all the same."""
    d = deploy(load_model("gpt-oss-20b"), load_system("b200-logic-pim-x1"))
    stream = open_requests(limit=24, seed=1, closed_loop=8, input_len=3000, output_len=32)
    found = run(d, make_policy("chunked"), stream, keep_stages=True)
    busy = sum(op.busy_s for op in found.ops)
    assert busy > 1.2 * found.makespan_s
    limit = found.deployment.system.device.limit_W
    assert limit is not None
    assert found.watts_per_device is not None
    assert found.stages["watts"].max() <= limit * (1 + 1e-9)
    assert found.watts_per_device <= limit
