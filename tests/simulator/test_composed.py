"""Do tiers, drafts and priorities together do what each does alone, in one engine?

Expected values: `reference_tiers.Composed`, the slow scheduler that knows all three, stamp for stamp; and what every
schedule owes: all tokens come, blocks are conserved, and stops in between change nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import opbyte
from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.host import Host
from opbyte.simulator.engine.policies import Policy
from opbyte.simulator.parts.classes.class_queues import LaneRules

from .deployments import small
from .pieces import block_of, check_ended, check_pieces, check_served, play, slow_engine, slow_requests
from .reference_tiers import Composed
from .test_kv_tiers import check_tiers, tiered, with_tiers
from .test_kv_tiers import engine_for as tiered_engine
from .test_scheduler import check_pool
from .test_speculation import SEED, speculative, verifying


@st.composite
def loads(draw: st.DrawFn) -> dict[str, Any]:
    """What `test_kv_tiers` draws, with drafts and priorities."""
    load = draw(tiered())
    n = len(load["inputs"])
    rate = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.2, 1.0))
    rates = tuple(draw(st.lists(rate, min_size=2, max_size=2)))
    urgent = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    policy = replace(load["policy"], chunked=True, ahead=draw(st.sampled_from([True, True, False])))
    return load | {"rates": rates, "urgent": urgent, "clients": None, "policy": policy}


KEPT_WAITING: dict[str, Any] = {
    "inputs": [1466, 1024, 1024, 1536, 1536, 1023, 1024, 1536],
    "outputs": [69, 43, 61, 49, 28, 32, 62, 16],
    "gaps": [0.0, 4.3, 1.5, 6.3, 0.0, 2.1, 8.9, 0.0],
    "hashes": ((0, 1, 2), (16, 17), (0, 1), (8, 9, 10), (8, 9, 10), (0, 1), (16, 17), (16, 17, 18)),
    "urgent": [0, 1, 1, 2, 2, 2, 0, 0],
    "clients": None, "block": 512, "room": 1.2, "rates": (0.775, 0.0),
    "policy": Policy(
        "random", 890, 6, chunked=True, reserve=False, lazy=False, ahead=True, caching=True,
        host=Host(1.7e-4, 1.9e-5, 2.1e-5),
    ),
    "tiers": [("host", 9, 0.0, 5e-5), ("disk", 99, 1e-7, 6e-5), ("shared", 352, 5e-8, 8e-7)],
    "write": "back", "load": "always", "prefetch": True,
}  # fmt: skip
"""A preempted request needs three of four blocks; two are held by one whose blocks have been loaded, which comes after
it, and nothing runs: what has been loaded must go first, or neither ever does."""


NOT_ALONE = KEPT_WAITING | {
    "inputs": [442, 1024, 1024, 511, 1536], "outputs": [13, 60, 11, 22, 2], "gaps": [7.7, 4.6e-4, 0.7, 0.0, 0.0],
    "hashes": ((0,), (16, 17), (16, 17), (0,), (0, 1, 2)), "urgent": [0, 1, 2, 2, 1], "block": 128, "room": 1.1,
    "policy": replace(KEPT_WAITING["policy"], token_budget=440, threshold=60, lone=True, eager=True),
    "tiers": [("host", 9, 4.4e-4, 0.0), ("disk", 99, 5.6e-4, 2e-5), ("shared", 201, 0.0, 5.7e-4)],
}  # fmt: skip
"""The last two, one of which waits for its blocks while the other runs: neither is alone."""


def engine_for(deployment: Deployment, load: dict[str, Any], order: str) -> Engine:
    """An engine with little KV memory, the workload's tiers, and a queue by priority or not."""
    spare = deployment.parts["drafts"].spare(load["policy"].ahead)
    policy = replace(load["policy"], order=order)
    given = {"classes": LaneRules(order)} if order else {}
    return tiered_engine(deployment, load, spare, policy=policy, seed=SEED, given=given)


@given(load=loads())
@example(load=KEPT_WAITING)
@example(load=NOT_ALONE)
@settings(max_examples=5)
def test_same_schedule_as_the_reference(load: dict[str, Any]) -> None:
    """Load by `always`: what computing instead takes is priced without drafts, which the slow one does not know."""
    load = load | {"load": "always"}
    d = speculative(small("llama-3-8b", "h100-x1", "uniform"), "eagle", load["rates"], 2)
    engine = engine_for(d, load, "priority")
    slow = slow_engine(engine, None, Composed, **with_tiers(engine, load), **verifying(engine, load))
    requests = slow_requests(load, more=[{"priority": u} for u in load["urgent"]])
    play(engine, load)
    slow.serve(requests)
    check_served(engine, slow, requests)
    check_tiers(engine, slow)
    spec = engine.parts["drafts"]
    assert (spec.counts[0].verified, spec.counts[0].wasted) == (slow.verified, slow.wasted)


@pytest.mark.parametrize("order", ["priority", "vtc"])
@given(load=loads(), cuts=st.lists(st.floats(0.0, 0.02), max_size=3).map(sorted), data=st.data())
@settings(max_examples=4)
def test_what_every_schedule_owes(order: str, load: dict[str, Any], cuts: list[float], data: st.DataObject) -> None:
    """All tokens come, blocks of the pool and of tiers are conserved at any time, nothing is left in a line; requests
    that come in pieces and stops in between change nothing."""
    d = speculative(small("llama-3-8b", "h100-x1", "uniform"), "eagle", load["rates"], 2)
    engine, n = engine_for(d, load, order), len(load["inputs"])
    engine.submit(block_of(load))
    tiers, stores = engine.parts["kv-tiers"], engine.parts["kv-tiers"].shelves.stores
    for cut in (*cuts, math.inf):
        engine.advance(cut)
        check_pool(engine, n)
        assert (stores.held <= stores.room).all()
        assert (stores.held <= stores.peak).all()
        for counts, own in zip(tiers.counts, tiers.which.T, strict=True):
            assert counts.stored + counts.prefetched - counts.evicted == stores.held[own].sum()
    check_ended(engine, load)
    assert not engine.parts["classes"].kinds.waiting.any()
    assert not any(line.count.any() for line in (tiers.loading, tiers.landed))
    counters = engine.state.counters[0]
    assert (tiers.totals[0].found + tiers.counts.loaded.sum()) * engine.kv.block == counters.hits
    assert counters.prompt_tokens + counters.hits >= sum(load["inputs"])
    splits = data.draw(st.lists(st.integers(1, n - 1), unique=True, max_size=2).map(sorted))
    check_pieces(lambda: engine_for(d, load, order), load, cuts, splits)


@pytest.mark.parametrize("order", ["priority", "vtc"])
def test_stops_change_nothing_where_one_waits_for_another(order: str) -> None:
    d = speculative(small("llama-3-8b", "h100-x1", "uniform"), "eagle", KEPT_WAITING["rates"], 2)
    check_pieces(lambda: engine_for(d, KEPT_WAITING, order), KEPT_WAITING, [0.01], [])


FIRST_STAMP = "request.first = now"


def test_the_first_token_is_stamped_at_one_place() -> None:
    """One loop runs all steps, an engine's own scheduler's and pipelines' too, and they stamp by one function."""
    root = Path(opbyte.__file__).parent / "simulator" / "engine"
    found = [p.name for p in sorted(root.glob("*.py")) for _ in range(p.read_text().count(FIRST_STAMP))]
    assert found == ["fast_forward.py"]
    loops = [p.name for p in sorted(root.glob("*.py")) if "return Status.LOG_FULL" in p.read_text()]
    assert loops == ["loop.py"]
