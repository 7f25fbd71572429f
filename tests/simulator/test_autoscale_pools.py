"""Do both of two pools come and go by their own rules, without losing a request, a cache or a device's second?

Expected values: pools of a fixed number, which autoscalers that change nothing must equal; sums over spans
against the integral of the replica count, and against what engines did.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte import simulate
from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.fleet.driver import RunState
from opbyte.simulator.fleet.pools import KvLink, Pools
from opbyte.simulator.fleet.routers import ROUTERS
from opbyte.simulator.parts.autoscale.asked import Autoscale
from opbyte.simulator.parts.autoscale.replicas import Scaling
from opbyte.simulator.parts.failures.failing import Faults
from opbyte.simulator.results.record import Run
from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import RequestStream

from .deployments import small
from .test_autoscale import check_spans, same, stream, with_logs

LINK = KvLink("link", 50e9, 5e-6)


def ran(
    deployment: Deployment, load: RequestStream, counts: tuple[int, int],
    scales: tuple[Autoscale | None, Autoscale | None] = (None, None), router: str = "round-robin",
    faults: Faults | None = None,
) -> tuple[RunState, Run]:  # fmt: skip
    """A run of two pools of one small system, with the logs of its engines."""
    policy = make_policy("chunked", max_sequences=8)
    entry, decode = ((deployment,) * (deployment.replicas * count) for count in counts)
    pools = Pools(entry, decode, LINK, scales=scales)
    whole = replace(deployment, pools=(deployment, deployment))
    return with_logs(whole, pools, policy, load, copies=1, router=router, faults=faults)


def spans_of(found: Run) -> list[Scaling]:
    out = [pool.scaling for pool in found.parts["two-pools"].pools if pool.scaling is not None]
    assert len(out) == 2
    return out


@pytest.mark.parametrize("router", ["round-robin", "least-loaded"])
def test_equal_bounds_are_fixed_pools_byte_for_byte(router: str) -> None:
    """Both where pools run one after the other and where every event is played."""
    d = small("llama-3-8b", "duplex-gpu-x1")
    fixed, found = (
        ran(d, stream(), (2, 3), scales, router)[1]
        for scales in ((None, None), (Autoscale(2, 2, slo=0.01), Autoscale(3, 3)))
    )
    same(fixed, found, exact=True)
    assert found.parts["two-pools"].moves.end_s.tobytes() == fixed.parts["two-pools"].moves.end_s.tobytes()
    assert found.joules_per_token == pytest.approx(fixed.joules_per_token, rel=1e-12)
    assert found.watts_per_device == pytest.approx(fixed.watts_per_device, rel=1e-12)
    for pool, alike, scaling in zip(
        found.parts["two-pools"].pools, fixed.parts["two-pools"].pools, spans_of(found), strict=True
    ):
        assert replace(pool, scaling=None) == alike
        assert scaling.held_s() == pytest.approx(pool.replicas * found.makespan_s, rel=1e-12)
    waited = fixed.requests.first_token_s - fixed.requests.arrival_s
    assert spans_of(found)[0].attained == np.mean(waited <= 0.01)


def test_rules_that_change_nothing_are_fixed_pools(always: str) -> None:
    d = small("llama-3-8b", "duplex-gpu-x1")
    scales = tuple(Autoscale(1, 5, always, n, begin=int(n), every=0.1) for n in (2.0, 3.0))
    scales = tuple(replace(scale, start=0.01) for scale in scales)
    one, other = ran(d, stream(), (2, 3))[1], ran(d, stream(), (5, 5), scales)[1]  # type: ignore[arg-type]
    same(one, other)
    assert one.interval_static_joules == pytest.approx(other.interval_static_joules, rel=1e-9)
    assert [pool.stepping for pool in one.parts["two-pools"].pools] == pytest.approx(
        [p.stepping for p in other.parts["two-pools"].pools]
    )


def check_both(served: RunState, found: Run) -> None:
    first, engines = len(served.pools.entry), [node.engine for node in served.nodes]
    assert served.parts["two-pools"] is not None
    for scaling, pool in zip(spans_of(found), (engines[:first], engines[first:]), strict=True):
        check_spans(scaling, pool, found)


@given(
    least=st.tuples(st.integers(0, 1), st.integers(0, 1)), more=st.tuples(st.integers(0, 2), st.integers(1, 2)),
    rules=st.tuples(
        st.sampled_from([("requests", 6.0), ("queue", 2.0), ("kv", 0.02), ("slo", 0.01)]),
        st.sampled_from([("requests", 6.0), ("queue", 2.0), ("kv", 0.02)]),
    ),
    router=st.sampled_from(sorted(ROUTERS)), start=st.sampled_from([0.0, 0.03]), hold=st.sampled_from([0.0, 0.2]),
    fails=st.lists(st.tuples(st.integers(0, 1), st.floats(0.0, 0.8)), max_size=2),
    turns=st.sampled_from([None, 2.0]), system=st.sampled_from(["duplex-gpu-x1", "duplex-gpu-2x1"]),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_nothing_is_lost_whatever_comes_and_goes(
    least: tuple[int, int], more: tuple[int, int], rules: tuple[tuple[str, float], ...],
    router: str, start: float, hold: float, fails: list[tuple[int, float]], turns: float | None, system: str,
) -> None:  # fmt: skip
    """Every request ends once with all its tokens, its cache crosses once, on replicas that are there."""
    bounds = [(a, max(a + b, 1)) for a, b in zip(least, more, strict=True)]
    scales = tuple(
        Autoscale(low, high, *rule, start=start, every=0.1, hold=hold, window=0.3)
        for (low, high), rule in zip(bounds, rules, strict=True)
    )
    faults = Faults(at=tuple(fails), repair_s=0.02) if fails else None
    counts = (bounds[0][1], bounds[1][1])
    served, found = ran(
        small("llama-3-8b", system), stream(150.0, 80, turns), counts, scales, router, faults  # type: ignore[arg-type]
    )  # fmt: skip
    rows = found.requests
    assert found.output_tokens == rows.output_tokens.sum()
    assert sorted(rows.request_id) == list(range(80))
    if not found.restarts:
        assert found.parts["two-pools"].moves.count == (rows.output_tokens > 1).sum()
    for node in served.nodes:
        assert node.inbound == 0
        assert node.promised == pytest.approx(0.0, abs=1.0)
        assert (node.engine.state.free == node.engine.kv.capacity).all()
    check_both(served, found)


def test_a_pool_that_drains_keeps_its_caches_until_they_have_left(always: str) -> None:
    """Prefill goes from two to one at 0.1 s, while all caches wait for a decode pool that starts at 0.5 s."""
    d = small("llama-3-8b", "duplex-gpu-x1")
    scales = (
        Autoscale(1, 2, always, 1.0, begin=2, every=0.1, hold=0.0),
        Autoscale(0, 1, always, 1.0, start=0.4, every=0.1),
    )
    scales = (replace(scales[0], start=0.0), scales[1])
    served, found = ran(d, stream(2000.0, 60), (2, 1), scales)
    prefill, decode = spans_of(found)
    assert [(s.replica, s.phase) for s in prefill.spans] == [(0, "ready"), (1, "ready"), (1, "draining")]
    assert [(s.phase, s.start_s) for s in decode.spans] == [
        ("starting", pytest.approx(0.1)), ("ready", pytest.approx(0.5))
    ]  # fmt: skip
    assert np.nanmin(found.parts["two-pools"].moves.start_s) == pytest.approx(0.5)
    last = served.nodes[1].sent_s
    assert prefill.spans[-1].end_s == pytest.approx(last, rel=1e-9)
    assert last > 0.5
    check_both(served, found)


LOAD = {"rate": 20.0, "requests": 40, "input_len": 64, "output_len": 8}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prefill_autoscale": "1:4"}, "prefill_autoscale: needs by=RULE:TARGET"),
        ({"decode_autoscale": "1:4,by=slo:1,start=1"}, "decode_autoscale: must not have slo"),
        ({"decode": "h100-x1x2", "decode_autoscale": "1:2,by=kv:0.5"}, "cannot be combined with decode SYSTEMxN"),
        ({"autoscale": "1:2,by=kv:0.5"}, "is not for two pools; use prefill_autoscale and decode_autoscale"),
    ],
)
def test_what_cannot_be_is_one_line(options: dict[str, str], says: str) -> None:
    base = {"prefill": "h100-x1", "decode": "h100-x1"}
    with pytest.raises(InputError, match=says) as caught:
        simulate("llama-3-8b", **{**base, **options}, **LOAD)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
