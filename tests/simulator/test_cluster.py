"""Do engines behind a router serve every request once, in the right order, at the right times?

Expected values: the same requests on one engine of the plain path; closed forms of link and
prefill times; conservation of requests and tokens through failures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.fleet.pools import Fleet
from opbyte.simulator.fleet.routers import ROUTERS, Load
from opbyte.simulator.fleet.run import run
from opbyte.simulator.parts.failures.failing import Faults, parse_faults
from opbyte.simulator.results.record import Run
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError, SpecError
from opbyte.workloads.requests import RequestStream, open_requests

from .deployments import small


def stream(rate: float | None = 40.0, count: int = 60, clients: int | None = None) -> RequestStream:
    return open_requests(
        rate=rate, closed_loop=clients, input_len=200, output_len=40, lengths="uniform", limit=count, seed=1
    )


def served(deployment: Deployment, requests: RequestStream, fleet: Fleet | None, policy: str = "mixed",
           warmup: int = 0, seed: int = 0, max_sequences: int = 16) -> Run:  # fmt: skip
    rules = make_policy(policy, max_sequences=max_sequences)
    return run(deployment, rules, requests, seed=seed, warmup=warmup, fleet=fleet, keep_stages=True)


@pytest.fixture(scope="module")
def split() -> Deployment:
    """Two layers of Mixtral on two devices that prefill and two that decode."""
    model = load_model("mixtral-8x7b")
    return deploy(replace(model, layers=model.layers[:2]), load_system("duplex-split-x4"))


INTERPOLATED = 1e-6
"""A window may cut a stretch, whose tokens are taken as even; drivers cut stretches differently."""
METRICS = (
    "iterations", "preemptions", "output_tokens", "prompt_tokens", "makespan_s", "interval_s",
    "interval_output_tokens", "interval_prompt_tokens", "joules", "interval_joules",
    "interval_static_joules", "interval_busy_joules", "output_tokens_per_s", "joules_per_token", "kv_peak",
)  # fmt: skip

WHOLE_RUN = ("iterations", "preemptions", "output_tokens", "prompt_tokens", "makespan_s", "joules", "kv_peak")


def assert_equal_runs(one: Run, other: Run) -> None:
    """Stamps, order of completions, latencies, rates and energy of two runs agree."""
    for name, column in one.requests.columns().items():
        np.testing.assert_allclose(other.requests.columns()[name], column, rtol=1e-9, err_msg=name)
    np.testing.assert_array_equal(other.requests.order, one.requests.order)
    for name in METRICS:
        exact = 1e-9 if name in WHOLE_RUN else INTERPOLATED
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=exact), name
    for name in ("ttft_s", "tbt_s", "tpot_s", "e2e_s"):
        ours, theirs = getattr(one, name).as_dict(), getattr(other, name).as_dict()
        assert theirs == pytest.approx(ours, rel=1e-9), name


@pytest.fixture
def looking() -> Iterator[str]:
    """A router that deals in turn, but may look at loads: requests are then dealt one by one."""
    name = "in-turn-but-looking"

    @ROUTERS.register(name)
    def in_turn(count: int, loads: Sequence[Load], home: int | None = None) -> int:
        """In turn."""
        return count % len(loads)

    yield name
    del ROUTERS._items[name]


@pytest.mark.parametrize("policy", ["mixed", "chunked", "vllm"])
@pytest.mark.parametrize("system", ["duplex-gpu-x1", "duplex-gpu-2x1"])
@pytest.mark.parametrize("warmup", [0, 25])
def test_metrics_do_not_depend_on_how_replicas_are_driven(looking: str, policy: str, system: str, warmup: int) -> None:
    """No router, the default router by name, one that looks, replicas by option, a late failure."""
    d = small("llama-3-8b", system)
    load = stream(400.0, count=120)
    plain = served(d, load, None, policy, warmup)
    late = Faults(at=((0, 1e6),))  # deals one by one, though nothing ever fails
    for fleet in (Fleet("round-robin"), Fleet(looking), Fleet(faults=late)):
        assert_equal_runs(plain, served(d, load, fleet, policy, warmup))
    if d.replicas == 2:
        ended = np.sort(plain.requests.last_token_s)[warmup - 1] if warmup else 0.0
        assert plain.window.start_s >= ended
        if plain.window.kind == "whole":
            assert plain.interval_s == pytest.approx(plain.makespan_s - ended, rel=1e-12)


def test_clients_of_replicas_go_through_the_router() -> None:
    """A closed loop of two replicas: the same with the default router by name; eight in flight."""
    d = small("llama-3-8b", "duplex-gpu-2x1")
    assert d.replicas == 2
    plain, node = (served(d, stream(None, clients=8), f, warmup=20) for f in (None, Fleet("round-robin")))
    assert_equal_runs(plain, node)
    middle = plain.makespan_s / 2
    rows = plain.requests
    assert ((rows.arrival_s <= middle) & (middle < rows.last_token_s)).sum() == 8


def test_replicas_that_fail_too_often_are_refused() -> None:
    """Prompts of 30,000 tokens take many times the millisecond that a replica then lives."""
    d = small("llama-3-8b", "duplex-gpu-x1")
    with pytest.raises(InputError, match=r"--mtbf: must be at least 0\.001 s"):
        Faults(mtbf_s=1e-7)
    long = open_requests(rate=50.0, input_len=30_000, output_len=40, limit=8, seed=1)
    with pytest.raises(InputError, match=r"--mtbf: request \d+ was requeued by 100 failures"):
        served(d, long, Fleet(replicas=2, faults=Faults(mtbf_s=1e-3)), "chunked")


@pytest.mark.parametrize(("router", "chosen"), [("round-robin", 1), ("least-loaded", 2), ("vllm", 1)])
def test_routers_choose_by_their_score(router: str, chosen: int) -> None:
    """Loads 9, 8, 7 in requests; 4 x waiting + running of 12, 8 and 13."""
    loads = [Load(1, 8), Load(0, 8), Load(2, 5)]
    assert ROUTERS[router](4, loads) == chosen


def test_ties_go_to_the_first() -> None:
    assert {ROUTERS[r](0, [Load(1, 1)] * 3) for r in ROUTERS} == {0}


def test_least_loaded_beats_round_robin_where_lengths_differ() -> None:
    d = small("llama-3-8b", "duplex-gpu-x1")
    requests = open_requests(rate=3000.0, input_len=300, output_len=60, lengths="lognormal", limit=300, seed=2)
    turn, least = (served(d, requests, Fleet(r, replicas=3)) for r in ("round-robin", "least-loaded"))
    assert least.ttft_s.mean is not None
    assert turn.ttft_s.mean is not None
    assert least.ttft_s.mean < turn.ttft_s.mean


def test_first_tokens_come_from_the_prefill_pool_and_the_rest_after_the_link(split: Deployment) -> None:
    """One request: prefill as on two devices alone; then its cache crosses two links at once."""
    one = open_requests(rate=1.0, input_len=500, output_len=3, lengths="fixed", limit=1, seed=0)
    got = served(split, one, None)
    alone = served(split.pools[0], one, None)
    assert got.requests.first_token_s[0] == pytest.approx(alone.requests.first_token_s[0], rel=1e-9)
    blocks = -(-500 // 16) * 16
    cache = blocks * 2 * 8 * 128 * 2 * 2  # K and V, 8 heads of 128, FP16, two layers
    assert got.parts["two-pools"].moves.total_bytes == pytest.approx(cache)
    move = 3.0e-6 + cache / (2 * 450e9)
    steps = served(split.pools[1], one, None).requests
    decode = float(steps.last_token_s[0] - steps.first_token_s[0])
    gaps = float(got.requests.last_token_s[0] - got.requests.first_token_s[0])
    assert gaps == pytest.approx(move + decode, rel=2e-2)  # other expert draws
    assert gaps > move


def test_the_decode_pool_holds_what_fits(split: Deployment) -> None:
    got = served(split, stream(1e6), None, max_sequences=5)
    assert got.stages["decodes"].max() == 5


def test_prompts_wait_while_finished_caches_fill_the_prefill_pool() -> None:
    """Whole Mixtral: each side has 78.4 GB beside the weights; 2 x 16384 tokens take 4.3 GB."""
    d = deploy(load_model("mixtral-8x7b"), load_system("duplex-split-x4"))
    requests = open_requests(rate=1e6, input_len=16384, output_len=16384, lengths="fixed", limit=80, seed=0)
    got = served(d, requests, None, max_sequences=64)
    room = d.memory().kv * 2
    assert got.stages["decodes"].max() == room // (32767 * 131072)
    assert got.kv_peak <= 1.0
    parked = room // (16384 * 131072)
    early = (got.requests.first_token_s < got.requests.last_token_s.min()).sum()
    assert early == parked + got.stages["decodes"].max()


@pytest.mark.parametrize("repair", [0.0, 0.05])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_failure_loses_caches_but_no_request(replicas: int, repair: float) -> None:
    d = small("llama-3-8b", "duplex-gpu-x1")
    middle = served(d, stream(400.0), Fleet(replicas=replicas)).makespan_s / 2
    faults = Faults(at=((0, middle),), repair_s=repair)
    got = served(d, stream(400.0), Fleet(replicas=replicas, faults=faults))
    assert got.failures == 1
    assert got.restarts > 0
    assert got.output_tokens == got.requests.output_tokens.sum()
    assert got.prompt_tokens > got.requests.input_tokens.sum()  # computed again
    rows = got.requests
    assert sorted(rows.order) == list(range(60))
    assert (rows.first_token_s <= rows.last_token_s).all()
    if replicas == 1:  # nothing happens while the only one is down, from the end of its step on
        stamps = np.concatenate([rows.first_token_s, rows.last_token_s])
        step = 5e-3
        assert not ((stamps > middle + step) & (stamps < middle + repair)).any()


def test_random_failures_have_their_mean_and_repeat() -> None:
    times = Faults(mtbf_s=10.0).times(0, seed=3)
    gaps = np.diff([next(times) for _ in range(4000)])
    assert gaps.mean() == pytest.approx(10.0, rel=0.05)
    assert gaps.std() == pytest.approx(10.0, rel=0.06)
    again = Faults(at=((0, 5.0), (1, 1.0)), mtbf_s=10.0)
    first = [x for x, _ in zip(again.times(0, 3), range(4), strict=False)]
    assert first == sorted(first)
    assert 5.0 in first or first[-1] < 5.0


def test_runs_with_failures_repeat() -> None:
    fleet = Fleet("vllm", 2, Faults(mtbf_s=0.05))
    d = small("llama-3-8b", "duplex-gpu-x1")
    first, second = (served(d, stream(400.0), fleet, seed=7) for _ in range(2))
    assert first.failures > 0
    assert first.requests.last_token_s.tobytes() == second.requests.last_token_s.tobytes()


def test_failures_are_read_as_typed() -> None:
    assert parse_faults() is None
    assert parse_faults(["0@1.5", "2@0"], 60.0, 5.0) == Faults(((0, 1.5), (2, 0.0)), 60.0, 5.0)
    for bad in ("0", "a@1", "0@", "@1", "0@x"):
        with pytest.raises(InputError, match="REPLICA@SECONDS"):
            parse_faults([bad])
    with pytest.raises(InputError, match="--repair"):
        parse_faults(repair=1.0)


def test_bad_fleets_are_refused() -> None:
    d = small("llama-3-8b", "duplex-gpu-x1")
    for fleet, what in ((Fleet("nearest"), "--router"), (Fleet(faults=Faults(at=((3, 1.0),))), "--fail")):
        with pytest.raises(InputError, match=what):
            served(d, stream(), fleet)
    with pytest.raises(InputError, match="--replicas"):
        Fleet(replicas=0)
    with pytest.raises(InputError, match="--mtbf"):
        Faults(mtbf_s=0.0)
    with pytest.raises(InputError, match="--fail"):
        Faults(at=((0, -1.0),))
    with pytest.raises(SpecError, match="prefill_share"):
        load_system("duplex-split-x3")


def test_a_run_that_stops_is_measured_while_full() -> None:
    """Sixteen clients all the time: tokens of the window over its length, and no draining end."""
    d = small("mixtral-8x7b", "duplex-x4")
    requests = stream(None, count=400, clients=16)
    got = run(d, make_policy("mixed", max_sequences=16), requests, warmup=32, stop=96, keep_stages=True)
    assert len(got.requests.order) == 96
    late = got.stages["start_s"] >= got.makespan_s - got.interval_s
    batch = (got.stages["decodes"] + got.stages["prompts"])[late]
    assert set(batch) == {16.0}
    steps = got.stages["steps"][late].sum()
    assert got.interval_output_tokens == pytest.approx(16 * steps, rel=1e-3)
