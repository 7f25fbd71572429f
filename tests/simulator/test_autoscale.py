"""Do replicas come and go as their autoscaler says, without losing a request or a second of a device?

Expected values: fleets of a fixed number, which an autoscaler that changes nothing must equal;
closed forms of rules and start-up; sums over spans against the integral of the replica count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.policies import Policy, make_policy
from opbyte.simulator.engine.state import LogColumn
from opbyte.simulator.fleet.collect import collect, left_of_parts
from opbyte.simulator.fleet.pools import Fleet, pools_of
from opbyte.simulator.fleet.routers import ROUTERS
from opbyte.simulator.fleet.run import run
from opbyte.simulator.fleet.run_state import RunState
from opbyte.simulator.parts.autoscale.asked import Autoscale, parse_autoscale
from opbyte.simulator.parts.autoscale.replicas import ENGINE_START_S, PHASES, Scaling, start_up_s
from opbyte.simulator.parts.autoscale.scalers import SCALERS, Seen
from opbyte.simulator.parts.autoscale.scaling import Firsts, scaled_fleet
from opbyte.simulator.parts.failures.failing import Faults
from opbyte.simulator.results.record import Run
from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import RequestStream, open_requests

from .deployments import small
from .pieces import served_on

RATE = 400.0
"""Requests a second: about what one of the small replicas can serve."""


def stream(rate: float = RATE, count: int = 120, turns: float | None = None) -> RequestStream:
    return open_requests(rate=rate, input_len=200, output_len=40, lengths="uniform", limit=count, seed=1, turns=turns)


def run_of(deployment: Deployment, load: RequestStream, fleet: Fleet) -> Run:
    return run(deployment, make_policy("chunked", max_sequences=8), load, fleet=fleet)


def scaled(spec: Autoscale, router: str = "round-robin", faults: Faults | None = None) -> Fleet:
    return Fleet(router, spec.most, faults, autoscale=spec)


def same(one: Run, other: Run, exact: bool = False) -> None:
    for name, column in one.requests.columns().items():
        theirs = other.requests.columns()[name]
        if exact:
            assert column.tobytes() == theirs.tobytes(), name
        np.testing.assert_allclose(theirs, column, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("router", ["round-robin", "least-loaded", "sticky"])
@pytest.mark.parametrize("count", [1, 3])
def test_equal_bounds_are_a_fixed_fleet_byte_for_byte(router: str, count: int) -> None:
    d = small("llama-3-8b", "duplex-gpu-x1")
    fixed = run_of(d, stream(), Fleet(router, count))
    found = run_of(d, stream(), scaled(Autoscale(count, count, slo=0.01), router))
    same(fixed, found, exact=True)
    assert found.joules_per_token == fixed.joules_per_token
    assert found.watts_per_device == pytest.approx(fixed.watts_per_device, rel=1e-12)
    assert found.parts["autoscale"].held_s() == pytest.approx(count * found.makespan_s, rel=1e-12)
    waited = fixed.requests.first_token_s - fixed.requests.arrival_s
    assert found.parts["autoscale"].attained == np.mean(waited <= 0.01)


@pytest.mark.parametrize("router", ["round-robin", "least-loaded"])
def test_a_rule_that_changes_nothing_is_a_fixed_fleet(always: str, router: str) -> None:
    d = small("llama-3-8b", "duplex-gpu-x1")
    spec = Autoscale(1, 5, always, 2.0, begin=2, start=0.05, every=0.1)
    same(run_of(d, stream(), Fleet(router, 2)), run_of(d, stream(), scaled(spec, router)))


def test_bounds_of_start_up(always: str) -> None:
    """One that never starts is the least fleet; one that starts at once has the most at the first look."""
    d = small("llama-3-8b", "duplex-gpu-x1")
    late = Autoscale(1, 3, always, 3.0, start=1e6, every=0.1)
    found = run_of(d, stream(), scaled(late))
    same(run_of(d, stream(), Fleet(replicas=1)), found)
    assert found.parts["autoscale"].held_s("starting") == pytest.approx(2 * (found.makespan_s - 0.1))
    soon = run_of(d, stream(), scaled(replace(late, start=0.0)))
    times, counts = soon.parts["autoscale"].counts()
    assert counts[times <= 0.1][-1].tolist() == [0, 3, 0]
    assert soon.makespan_s < found.makespan_s


def served_by(deployment: Deployment, load: RequestStream, fleet: Fleet) -> tuple[RunState, Run]:
    """A run with the logs of its engines."""
    policy = make_policy("vllm", max_sequences=8)
    pools, how = pools_of(deployment, fleet), {"router": fleet.router, "faults": fleet.faults}
    return with_logs(deployment, pools, policy, load, fleet.replicas, autoscale=fleet.autoscale, **how)


def with_logs(
    deployment: Deployment, pools: Any, policy: Policy, load: RequestStream, copies: int, **how: Any
) -> tuple[RunState, Run]:
    served = served_on(pools, policy, load, keep_log=True, **how)
    found = collect(
        served, deployment, policy, "", seed=0, warmup=0, copies=copies, clients=None, stop=False, wall_s=0.0
    )
    return served, left_of_parts(found, served, load, 0)


def check_spans(scaling: Scaling, engines: Sequence[Engine], found: Run) -> None:
    """Nothing runs outside of spans that serve, and spans add up to the count over time."""
    times, counts = scaling.counts()
    assert (counts >= 0).all()
    assert (counts.sum(axis=1) <= scaling.spec.most).all()
    integral = (counts[:-1].sum(axis=1) * np.diff(times)).sum()
    assert scaling.held_s() == pytest.approx(integral, rel=1e-9)
    assert scaling.held_s() == pytest.approx(sum(scaling.held_s(p) for p in PHASES), rel=1e-9)
    assert scaling.device_hours == pytest.approx(scaling.held_s() * scaling.devices / 3600, rel=1e-12)
    each = len(engines) // scaling.spec.most
    for i, engine in enumerate(engines):
        if not engine.logs:
            continue
        log = np.concatenate(engine.logs)
        start, end = log[:, LogColumn.START], np.minimum(log[:, LogColumn.END], found.makespan_s)
        inside = np.zeros(len(log), dtype=bool)
        mine = [s for s in scaling.spans if s.replica == i // each and s.phase != "starting"]
        for span in mine:
            more = [t for t in mine if t.start_s == span.end_s and t.phase == "draining"]
            last = more[0].end_s if more else span.end_s
            inside |= (start >= span.start_s - 1e-9) & (end <= last + 1e-9)
        assert inside.all()


@given(
    bounds=st.tuples(st.integers(0, 2), st.integers(1, 3)), rule=st.sampled_from(
        [("requests", 6.0), ("queue", 2.0), ("kv", 0.05), ("slo", 0.01)]
    ),
    router=st.sampled_from(sorted(ROUTERS)), start=st.sampled_from([0.0, 0.03, 0.3]),
    hold=st.sampled_from([0.0, 0.2]), fails=st.lists(st.tuples(st.integers(0, 1), st.floats(0.0, 0.8)), max_size=3),
    turns=st.sampled_from([None, 2.0]), system=st.sampled_from(["duplex-gpu-x1", "duplex-gpu-2x1"]),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_nothing_is_lost_whatever_comes_and_goes(
    bounds: tuple[int, int], rule: tuple[str, float], router: str, start: float,
    hold: float, fails: list[tuple[int, float]], turns: float | None, system: str,
) -> None:  # fmt: skip
    """Every request ends once, with all its tokens, on replicas that are there."""
    least, more = bounds
    spec = Autoscale(least, least + more, *rule, start=start, every=0.1, hold=hold, window=0.3)
    faults = Faults(at=tuple(fails), repair_s=0.02) if fails else None
    served, found = served_by(small("llama-3-8b", system), stream(150.0, 90, turns), scaled(spec, router, faults))
    rows = found.requests
    assert found.output_tokens == rows.output_tokens.sum()
    assert sorted(rows.request_id) == list(range(90))
    assert sorted(rows.order) == list(range(90))
    assert (rows.first_token_s > rows.arrival_s).all()
    if not found.restarts and not found.cached_tokens:
        assert found.prompt_tokens >= rows.input_tokens.sum()
    check_spans(found.parts["autoscale"], served.engines, found)


def test_a_replica_that_drains_ends_what_it_has_and_comes_back_empty(always: str) -> None:
    """Two at first; one is let go at the first decision with requests on it, and not asked for again."""
    d = small("llama-3-8b", "duplex-gpu-x1")
    spec = Autoscale(1, 2, always, 1.0, begin=2, start=0.0, every=0.1, hold=0.0)
    served, found = served_by(d, stream(2000.0, 300), scaled(spec))
    scaling = found.parts["autoscale"]
    assert scaling is not None
    assert [(s.replica, s.phase) for s in scaling.spans] == [(0, "ready"), (1, "ready"), (1, "draining")]
    drained = scaling.spans[-1]
    assert drained.start_s == pytest.approx(0.1)
    log = np.concatenate(served.engines[1].logs)
    assert drained.end_s == pytest.approx(log[-1, LogColumn.END], rel=1e-9)
    assert drained.end_s > drained.start_s
    check_spans(found.parts["autoscale"], served.engines, found)


def test_idle_and_starting_devices_draw_power(always: str) -> None:
    """Static energy is that of all devices held over the window, which the spans say."""
    d = small("llama-3-8b", "h100-x1")
    spec = Autoscale(1, 4, always, 4.0, start=0.2, every=0.1)
    found = run_of(d, stream(), scaled(spec))
    held = found.parts["autoscale"].held_s(None, found.window.start_s, found.window.end_s)
    idle = d.device.board.idle_joules(held)
    assert idle > 0
    assert found.interval_static_joules == pytest.approx(idle, rel=1e-12)
    assert found.mean_devices == pytest.approx(held / found.interval_s, rel=1e-12)


def test_rules() -> None:
    """Knative's and KEDA's sums over the target, and Dynamo's one at a time."""
    assert SCALERS["requests"](Seen(2, 2, waiting=10, running=35), 20.0) == 2.25
    assert SCALERS["queue"](Seen(2, 2, waiting=10, running=35), 4.0) == 2.5
    assert SCALERS["kv"](Seen(3, 2, kv=1.4), 0.7) == pytest.approx(2.0)
    ttft = np.array([0.1, 0.4, 0.9, 2.0])
    for share, limit, wanted in ((0.9, 1.0, 4), (0.75, 1.0, 3), (0.5, 1.0, 2), (0.75, 2.0, 2)):
        assert SCALERS["slo"](Seen(3, 3, ttft_s=ttft, share=share), limit) == wanted
    assert SCALERS["slo"](Seen(3, 2, ttft_s=ttft, share=0.9), 1.0) == 3
    assert SCALERS["slo"](Seen(3, 3, share=0.9), 1.0) == 2


def test_start_up_reads_the_weights_and_starts_the_engine() -> None:
    d = small("llama-3-8b", "h100-x1")
    disk = d.system.device.disk
    assert disk is not None
    weights = d.memory(np.inf).weights
    assert start_up_s(d) == pytest.approx(weights / disk.bandwidth_bytes_per_s + ENGINE_START_S)
    with pytest.raises(InputError, match="add start=SECONDS"):
        start_up_s(small("llama-3-8b", "duplex-gpu-x1"))


@pytest.mark.parametrize(("text", "says"), [
    ("4", "MIN:MAX,by=RULE:TARGET"), ("a:4", "MIN:MAX"), ("1:4", "needs by=RULE:TARGET"),
    ("4:1,by=kv:0.5", "MIN <= MAX"), ("0:0", "MAX from 1"), ("1:4,by=load:3", "unknown rule 'load'"),
    ("1:4,by=kv", "by=RULE:TARGET must be a number"), ("1:4,by=kv:0", "target must be above 0"),
    ("1:4,by=kv:nan", "TARGET must be a number"), ("1:4,by=kv:1,every=0", "every must be above|every must be at least"),
    ("1:4,by=kv:1,begin=5", "begin must be from 1 to 4"), ("1:4,by=kv:1,share=2", "share must be"),
    ("1:4,by=kv:1,starts=3", "did you mean 'start'"), ("1:4,by=kv:1,start=3,start=4", "given twice"),
    ("1:4,by=kv:1,start=-1", "start must be at least 0"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as found:
        parse_autoscale(text)
    assert "\n" not in str(found.value)


def test_it_goes_with_neither_replicas_nor_two_pools() -> None:
    with pytest.raises(InputError, match="--replicas: cannot be combined with --autoscale"):
        scaled_fleet(None, "1:2,by=kv:1", 2)
    fleet = scaled_fleet(None, "1:2,by=kv:0.5,start=1", None)
    assert fleet.replicas == 2
    with pytest.raises(InputError, match="separate pools"):
        run_of(small("llama-3-8b", "duplex-split-x4"), stream(), fleet)


def test_requests_that_wait_count_once_they_are_late() -> None:
    """Of five in front of the replicas those that have waited longer than the level allows."""
    table = SimpleNamespace(arrival_s=np.arange(5.0), first_s=np.array([np.nan] * 4 + [4.5]))
    seen = Firsts(60.0, range(0)).look(
        cast(Any, SimpleNamespace(entry=[])), cast(Any, table), deque(range(5)), now=5.0, late=2.5
    )
    assert seen.tolist() == [5.0, 4.0, 3.0]
