"""Do tiers, drafts and priorities together do what each does alone, in one engine?

Expected values: `reference_tiers.Composed`, the slow scheduler that knows all three, stamp for stamp; and what every
schedule owes: all tokens come, blocks are conserved, and stops in between change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import opbyte
from opbyte.simulator.batching.host import Host
from opbyte.simulator.batching.kv import CacheSettings
from opbyte.simulator.batching.policies import Policy
from opbyte.simulator.batching.state import C_COMPLETED, C_EMITTED, C_HITS, C_STEPS, I_GENERATED, I_PREEMPTED
from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.parts.classes.lanes import LaneRules
from opbyte.simulator.parts.drafts.explicit import speculative_stage
from opbyte.simulator.parts.drafts.state import N_VERIFIED, N_WASTED
from opbyte.simulator.parts.kv_tiers.state import L_COUNT, N_LOADED, N_STORED, O_LOADS
from opbyte.simulator.serving.engine import Engine

from .pieces import block_of, stamps
from .reference import Request
from .reference_tiers import Composed, Tier, Tiered
from .test_kv_tiers import settings_of, tiered
from .test_scheduler import check_pool
from .test_speculation import SEED, drawn, speculative


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
    block, tokens = block_of(load), load["block"]
    assert deployment.parts.get("drafts") is not None
    spare = deployment.parts.get("drafts").spare(load["policy"].ahead)
    longest = int((block.input_tokens + block.output_tokens - 1 + spare).max())
    cache = CacheSettings(tokens, int(-(-longest // tokens) * load["room"]))
    cache = replace(cache, tiers=settings_of(deployment, load, cache))
    lanes = LaneRules(order) if order else None
    policy = replace(load["policy"], order=order)
    return Engine(deployment, policy, keep_log=True, cache=cache, seed=SEED, given={"classes": lanes} if lanes else {})


def slow_for(engine: Engine, load: dict[str, Any]) -> Composed:
    d, t = engine.deployment, engine.parts["kv-tiers"]
    tiers = [
        Tier(blocks, *t.pace[level].tolist(), worth=load["load"] != "cheaper")
        for level, (_, blocks, _, _) in enumerate(load["tiers"])
    ]
    memory = Tiered(
        engine.kv.block, list(range(engine.kv.blocks)), engine.kv.bare_first, tiers=tiers,
        through=load["write"] == "through",
    )  # fmt: skip
    assert d.parts.get("drafts") is not None
    policy, rates = engine.policy, load["rates"]
    launches = engine.launches
    return Composed(
        policy, [memory],
        lambda batches, step: speculative_stage(
            d, batches, step=step, captured=policy.captures(1 + len(rates))
        ).whole.seconds,
        None, launches, spare=engine.limits.spare, drafts=len(rates), lookahead=d.parts["drafts"].lookahead,
        accept=lambda request: drawn(request.index, request.generated, rates),
        cheaper=load["load"] == "cheaper", ahead_of=load["prefetch"],
    )  # fmt: skip


@given(load=loads())
@example(load=KEPT_WAITING)
@example(load=NOT_ALONE)
@settings(max_examples=5)
def test_same_schedule_as_the_reference(small: Callable[..., Deployment], load: dict[str, Any]) -> None:
    """Load by `always`: what computing instead takes is priced without drafts, which the slow one does not know."""
    load = load | {"load": "always"}
    d = speculative(small("llama-3-8b", "h100-x1", "uniform"), "eagle", load["rates"], 2)
    engine, block = engine_for(d, load, "priority"), block_of(load)
    slow, n = slow_for(engine, load), len(block)
    engine.submit(block)
    engine.advance(math.inf)
    requests = [
        Request(i, float(a), int(p), int(o), hashes, priority=u)
        for i, (a, p, o, hashes, u) in enumerate(
            zip(block.arrival_s, block.input_tokens, block.output_tokens, load["hashes"], load["urgent"], strict=True)
        )
    ]
    slow.serve(requests)
    counters, t, spec = engine.state.counters, engine.parts["kv-tiers"], engine.parts["drafts"]
    assert spec is not None
    preemptions = engine.state.ints[:n, I_PREEMPTED].tolist()
    assert preemptions == [r.preemptions for r in requests]
    assert counters[C_STEPS] == slow.steps
    assert counters[C_HITS] == sum(kv.hits for kv in slow.memories)
    expected = np.array([[r.arrival, r.scheduled, r.first, r.last] for r in requests])
    assert stamps(engine, n) == pytest.approx(expected, rel=1e-9)
    assert (spec.counts[N_VERIFIED], spec.counts[N_WASTED]) == (slow.verified, slow.wasted)
    assert t.totals[O_LOADS] == slow.loads
    for level, tier in enumerate(slow.memories[0].tiers):  # type: ignore[union-attr]
        assert t.counts[level, [N_LOADED, N_STORED]].tolist() == [tier.loaded, tier.stored]


@pytest.mark.parametrize("order", ["priority", "vtc"])
@given(load=loads(), cuts=st.lists(st.floats(0.0, 0.02), max_size=3).map(sorted))
@example(load=KEPT_WAITING, cuts=[0.01])
@settings(max_examples=4)
def test_what_every_schedule_owes(
    order: str, small: Callable[..., Deployment], load: dict[str, Any], cuts: list[float]
) -> None:
    """All tokens come, blocks are conserved at any time, nothing is left in a line; stops change nothing."""
    d = speculative(small("llama-3-8b", "h100-x1", "uniform"), "eagle", load["rates"], 2)
    whole, engine, block = engine_for(d, load, order), engine_for(d, load, order), block_of(load)
    whole.submit(block)
    whole.advance(math.inf)
    engine.submit(block)
    n = len(block)
    for cut in (*cuts, math.inf):
        engine.advance(cut)
        check_pool(engine, n)
    state = engine.state
    assert state.counters[C_COMPLETED] == n
    assert state.ints[:n, I_GENERATED].tolist() == load["outputs"]
    assert state.counters[C_EMITTED] == sum(load["outputs"])
    assert (state.free == engine.kv.capacity).all()
    assert not engine.parts["classes"].kinds[:, 0].any()
    assert not engine.parts["kv-tiers"].lines[:, L_COUNT].any()
    assert np.array_equal(stamps(whole, n), stamps(engine, n))


FIRST_STAMP = "stamps[col.F_FIRST] = "


def test_the_first_token_is_stamped_at_one_place() -> None:
    """One loop runs all steps, an engine's own scheduler's and pipelines' too, and they stamp by one function."""
    root = Path(opbyte.__file__).parent / "simulator" / "batching"
    found = [p.name for p in sorted(root.glob("*.py")) for _ in range(p.read_text().count(FIRST_STAMP))]
    assert found == ["stretch.py"]
    loops = [p.name for p in sorted(root.glob("*.py")) if "return LOG_FULL" in p.read_text()]
    assert loops == ["loop.py"]


@given(load=loads(), cuts=st.lists(st.floats(0.0, 0.02), max_size=2).map(sorted))
@settings(max_examples=4)
def test_stages_with_drafts_and_priorities_lose_nothing(
    small: Callable[..., Deployment], load: dict[str, Any], cuts: list[float]
) -> None:
    """A sequence's drafts are verified before it is in another batch; preempted meanwhile, it keeps its tokens."""
    d = speculative(small("llama-3-8b", "h100-x2", "uniform", pp=2), "eagle", load["rates"], 2)
    block, tokens, n = block_of(load), load["block"], len(load["inputs"])
    assert d.parts.get("drafts") is not None
    longest = int((block.input_tokens + block.output_tokens - 1).max())
    longest += d.parts.get("drafts").spare(False)
    cache = CacheSettings(tokens, int(-(-longest // tokens) * load["room"]))
    policy = replace(load["policy"], order="priority")

    def served(stops: list[float]) -> Engine:
        engine = Engine(d, policy, cache=cache, seed=SEED, given={"classes": LaneRules("priority")})
        engine.submit(block)
        for stop in (*stops, math.inf):
            engine.advance(stop)
            check_pool(engine, n)
        return engine

    engine, whole = served(cuts), served([])
    state, spec = engine.state, engine.parts["drafts"]
    assert spec is not None
    assert state.counters[C_COMPLETED] == n
    assert state.ints[:n, I_GENERATED].tolist() == load["outputs"]
    assert state.counters[C_EMITTED] == sum(load["outputs"])
    assert (state.free == engine.kv.capacity).all()
    assert not engine.parts["classes"].kinds[:, 0].any()
    assert spec.counts[N_VERIFIED] <= sum(load["outputs"])
    assert np.array_equal(stamps(whole, n), stamps(engine, n))
