"""Do KV cache tiers find, keep and move what they should, and is nothing lost in them?

Expected values: an engine whose own memory never ends (tiers of infinite rate are that, stamp for stamp) and one
without tiers (those that nothing is ever loaded from), closed forms of one load, and `reference_tiers`, a slow
scheduler over dictionaries in order of use.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.kv import CacheSettings
from opbyte.simulator.engine.policies import POLICIES, make_policy
from opbyte.simulator.fleet.pools import Fleet
from opbyte.simulator.fleet.run import run
from opbyte.simulator.parts.failures.failing import Faults
from opbyte.simulator.parts.kv_tiers.run import block_bytes
from opbyte.simulator.parts.kv_tiers.settings import KvTier, TierSettings
from opbyte.simulator.parts.kv_tiers.state import DOWN, P_BLOCK, new_shelves
from opbyte.simulator.parts.kv_tiers.store import entry_of, put, touch
from opbyte.workloads.errors import CapacityError, InputError
from opbyte.workloads.jit import compiled
from opbyte.workloads.requests import RequestBlock, RequestStream

from .deployments import small
from .pieces import GAP_S, cache_of, check_served, play, slow_engine, slow_requests, small_engine, stamps
from .reference_tiers import Piped, Tier, Tiered, TieredPipeline, TieredReference
from .test_scheduler import workloads

SETUPS: tuple[tuple[str, str, str, dict[str, int]], ...] = (
    ("llama-3-8b", "h100-x1", "uniform", {}),
    ("mixtral-8x7b", "h100-2x2", "measured", {}),
    ("llama-3-8b", "h100-x2", "uniform", {"pp": 2}),
)


@st.composite
def tiered(draw: st.DrawFn) -> dict[str, Any]:
    """Three texts asked again and again in prompts of one to three pieces, with room for little more than one
    of them; a policy that may have tiers, and one to three of them, some tiny."""
    load, n = draw(workloads()), draw(st.integers(5, 12))
    times = {"min_size": n, "max_size": n}
    texts, pieces = (draw(st.lists(st.integers(low, 2 + low), **times)) for low in (0, 1))
    load["hashes"] = tuple(tuple(8 * text + j for j in range(many)) for text, many in zip(texts, pieces, strict=True))
    short = draw(st.lists(st.sampled_from([0, 0, 1, 70]), **times))
    load["inputs"] = [512 * many - less for many, less in zip(pieces, short, strict=True)]
    load["outputs"] = draw(st.lists(st.integers(1, 70), **times))
    load["gaps"] = draw(st.lists(st.floats(0.0, 20.0), **times))
    load["block"], load["room"] = draw(st.sampled_from([64, 128, 512])), draw(st.floats(1.0, 1.8))
    load["policy"] = replace(
        load["policy"], caching=True, prompts_alone=False, poll_steps=1, gather_steps=0,
        even_steps=0, token_budget=draw(st.integers(90, 2500)),
    )  # fmt: skip
    names = ("host", "disk", "shared")[: draw(st.sampled_from([1, 2, 2, 3]))]
    seconds = st.one_of(st.just(0.0), st.floats(1e-9, 0.1 * GAP_S), st.floats(1e-9, 3 * GAP_S))
    blocks = st.one_of(st.integers(1, 12), st.integers(30, 400))
    load["tiers"] = [(name, draw(blocks), draw(seconds), draw(seconds)) for name in names]
    load["write"] = draw(st.sampled_from(["through", "back"]))
    load["load"] = draw(st.sampled_from(["always", "cheaper"]))
    load["prefetch"] = len(names) > 1 and draw(st.sampled_from([True, True, False]))
    if load["prefetch"]:  # something to bring nearer
        load["tiers"][:2] = [(x[0], most, *x[2:]) for x, most in zip(load["tiers"], (9, 99), strict=False)]
    return load


def settings_of(deployment: Deployment, load: dict[str, Any], cache: CacheSettings) -> TierSettings:
    """Tiers of so many blocks a rank (a shared one in all), each so many seconds of its link."""
    whole, each = block_bytes(deployment, cache), Engine(deployment, load["policy"], cache=cache).kv.block_bytes[0]
    tiers = tuple(
        KvTier(
            name,
            blocks * whole * (1 if name == "shared" else deployment.ranks),
            each / pace if pace else math.inf,
            latency,
        )
        for name, blocks, pace, latency in load["tiers"]
    )
    return TierSettings(tiers, load["write"], load["load"], load["prefetch"])


def engine_for(deployment: Deployment, load: dict[str, Any], spare: int = 0, **options: Any) -> Engine:
    """An engine with as little KV memory as the workload says, and its tiers."""
    cache = cache_of(load, spare)
    cache = replace(cache, tiers=settings_of(deployment, load, cache))
    return small_engine(deployment, load, cache=cache, **options)


def with_tiers(engine: Engine, load: dict[str, Any]) -> dict[str, Any]:
    """What a slow scheduler must know of an engine's tiers, and its memories."""
    d, t = engine.deployment, engine.parts["kv-tiers"]
    ranks: list[list[Tier]] = [[] for _ in range(d.ranks)]
    for level, (name, blocks, _, _) in enumerate(load["tiers"]):
        pace = t.pace[level].tolist()
        for tiers in ranks:
            tiers.append(Tier(blocks, *pace, worth=load["load"] != "cheaper"))
            if name == "shared" and tiers is not ranks[0]:
                tiers[-1].items, tiers[-1].ever = ranks[0][-1].items, ranks[0][-1].ever
    kind = Tiered if d.layout.pp == 1 else Piped
    memories = [
        kind(engine.kv.block, list(range(engine.kv.blocks)), engine.kv.bare_first, tiers=tiers,
               through=load["write"] == "through")
        for tiers in ranks
    ]  # fmt: skip
    return {"memories": memories, "cheaper": load["load"] == "cheaper", "ahead_of": load["prefetch"]}


def check_tiers(engine: Engine, slow: TieredReference) -> None:
    """What was loaded and stored, and how long it was waited for."""
    t = engine.parts["kv-tiers"]
    for level in range(len(slow.memories[0].tiers)):  # type: ignore[union-attr]
        tiers = [kv.tiers[level] for kv in slow.memories]  # type: ignore[union-attr]
        told = [sum(getattr(x, name) for x in tiers) for name in ("loaded", "stored", "evicted", "prefetched")]
        assert t.counts[level].tolist() == tuple(told)
        assert t.link_s[level, DOWN] == pytest.approx(told[1] * t.pace[level, P_BLOCK])  # every stored block is written
    assert t.totals[0].loads == slow.loads
    assert t.seconds[0].waited == pytest.approx(slow.waited, rel=1e-6, abs=1e-12)
    assert t.seconds[0].held == pytest.approx(slow.stood, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("model", "system", "routing", "degrees"), SETUPS)
@given(load=tiered())
@settings(max_examples=8)
def test_same_schedule_as_the_reference(
    model: str, system: str, routing: str, degrees: dict[str, int],
    load: dict[str, Any],
) -> None:  # fmt: skip
    """In stages load by `always`: what computing instead takes is priced as one step, not stage by stage."""
    d = small(model, system, routing, **degrees)
    load = load if d.layout.pp == 1 else load | {"load": "always"}
    engine = engine_for(d, load)
    kind = TieredReference if d.layout.pp == 1 else TieredPipeline
    slow, requests = slow_engine(engine, load["clients"], kind, **with_tiers(engine, load)), slow_requests(load)
    play(engine, load)
    slow.serve(requests)
    check_served(engine, slow, requests)
    check_tiers(engine, slow)


def turns(seed: int, n: int) -> RequestBlock:
    """Sixteen texts asked again and again, in prompts of one to three pieces."""
    rng = np.random.default_rng(seed)
    which, pieces = rng.integers(0, 16, n), rng.integers(1, 4, n)
    hashes = tuple(tuple(int(w) * 8 + j for j in range(p)) for w, p in zip(which, pieces, strict=True))
    return RequestBlock(
        np.arange(n), np.cumsum(rng.exponential(30 * GAP_S, n)), pieces * 512, rng.integers(1, 30, n), hashes
    )


def served(tiers: TierSettings | None, blocks: int) -> Engine:
    policy = make_policy("vllm", max_sequences=3)
    engine = Engine(small("llama-3-8b"), policy, cache=CacheSettings(16, blocks, tiers=tiers))
    engine.submit(turns(0, 40))
    engine.advance(math.inf)
    return engine


FREE = math.inf, 0.0
OWN = KvTier("host", 1e10, 50e9, 1e-5)
written = pytest.mark.parametrize("write", ["through", "back"])


@written
def test_infinite_rate_is_a_cache_without_end(write: str) -> None:
    """Memory for three running prompts, and all that ever was in tiers of no time: all is found."""
    settings_ = TierSettings((KvTier("host", 1e8, *FREE), KvTier("disk", 1e10, *FREE)), write)
    endless, found, short = served(None, 100_000), served(settings_, 320), served(None, 320)
    assert np.array_equal(stamps(endless, 40), stamps(found, 40))
    for counter in ("hits", "prompt_tokens", "steps"):
        assert endless.state.counters[0][counter] == found.state.counters[0][counter]
    assert short.state.counters[0].hits < found.state.counters[0].hits  # there was something to find
    assert (found.parts["kv-tiers"].counts.loaded > 0).all() or write == "through"


@written
def test_what_is_never_cheaper_is_no_tier(write: str) -> None:
    """A link of a byte a second: nothing is written or loaded, and no step waits."""
    slow = TierSettings((KvTier("host", 1e10, 1.0, 0.0),), write, "cheaper")
    without, found = served(None, 320), served(slow, 320)
    assert np.array_equal(stamps(without, 40), stamps(found, 40))
    assert not any(found.parts["kv-tiers"].counts.tolist()[0])


def test_one_load_takes_its_bytes_over_the_link() -> None:
    """Of three blocks of 512 tokens another prompt pushes the later two out of five: the third request finds
    the first, waits for latency and bytes of the second, and computes the last one only."""
    d, policy = small("llama-3-8b"), make_policy("vllm", max_sequences=1)
    rate, latency = 20e9, 3e-4
    tiers = TierSettings((KvTier("host", 1e10, rate, latency),))
    engine = Engine(d, policy, cache=CacheSettings(512, 5, tiers=tiers))
    engine.submit(RequestBlock(
        np.arange(3), np.array([0.0, 1.0, 2.0]), np.array([1536, 2048, 1536]), np.array([1, 1, 1]),
        ((1, 2, 3), (4, 5, 6, 7), (1, 2, 3)),
    ))  # fmt: skip
    engine.advance(math.inf)
    t = engine.parts["kv-tiers"]
    seconds = engine.kv.block_bytes[0] / rate + latency
    assert t.counts.loaded[0] == 1
    assert t.seconds[0].waited == pytest.approx(seconds, rel=1e-12)
    arrival, scheduled, first, _ = stamps(engine, 3)[2]
    assert scheduled - arrival == pytest.approx(seconds, rel=1e-12)
    first_time = stamps(engine, 3)[0, 2]
    assert first - scheduled < 0.7 * first_time


@compiled
def accesses(x: Any, keys: Any, hits: Any) -> None:
    """Ask a store for contents, and keep each."""
    for i in range(keys.size):
        e = entry_of(x, 0, keys[i])
        hits[i] = e >= 0
        if e >= 0:
            touch(x, 0, e)
        else:
            put(x, 0, keys[i], 0)


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(0, 30))
@settings(max_examples=60)
def test_a_larger_tier_never_hits_less(seed: int, room: int, more: int) -> None:
    """Least recently used first: what a dictionary in order of use does; a stack algorithm.

    Lists that Hypothesis draws have five entries on average: nothing has to leave.
    """
    asked = np.random.default_rng(seed).integers(1, 41, 300) * 2 + 1
    found = []
    for size in (room, room + more):
        hits = np.zeros(len(asked), dtype=np.int64)
        accesses(new_shelves([size]), asked, hits)
        kept: OrderedDict[int, None] = OrderedDict()
        for key, hit in zip(asked.tolist(), hits.tolist(), strict=True):
            assert (key in kept) == bool(hit)
            kept[key] = None
            kept.move_to_end(key)
            if len(kept) > size:
                kept.popitem(last=False)
        found.append(hits)
    assert (found[0] <= found[1]).all()


def test_replicas_share_a_pool_through_failures() -> None:
    """Of two replicas that take turns each finds what the other has stored; a failure loses the one's memory
    and nothing of the pool but what was on its way."""
    d, stream = small("llama-3-8b"), RequestStream("turns", True, None, lambda: iter((turns(1, 60),)))
    pool = KvTier("shared", 1e10, 25e9, 1e-5)

    def found(*tiers: KvTier, faults: Faults | None = None) -> Any:
        cache = CacheSettings(16, 320, tiers=TierSettings(tiers))
        return run(d, make_policy("vllm", max_sequences=3), stream, fleet=Fleet(replicas=2, faults=faults), cache=cache)

    alone, shared = found(OWN), found(OWN, pool)
    assert shared.cached_tokens > alone.cached_tokens
    assert shared.parts["kv-tiers"].tiers[1].hit_tokens > 0
    again = found(OWN, pool, faults=Faults(((0, 300 * GAP_S),)))
    assert again.failures == 1
    assert len(again.requests.request_id) == 60
    assert again.parts["kv-tiers"].tiers[1].hit_tokens > shared.parts["kv-tiers"].tiers[1].hit_tokens
    for tier in again.parts["kv-tiers"].tiers:
        assert tier.peak_bytes <= tier.capacity_bytes


REFUSED = (
    ("llama-3-8b", "chunked", "has no prefix cache"),
    ("llama-3-8b", "sglang", "cannot be combined with --policy sglang"),
    ("windowed", "vllm", "windows or constant states"),
)


@pytest.mark.parametrize(("model", "policy", "reason"), REFUSED)
def test_what_is_not_simulated_is_refused(model: str, policy: str, reason: str) -> None:
    cache = CacheSettings(tiers=TierSettings((OWN,)))
    with pytest.raises(InputError, match=rf"--kv-tiers.*{reason}"):
        Engine(small(model), make_policy(policy), cache=cache)


def test_a_tier_smaller_than_a_block() -> None:
    cache = CacheSettings(tiers=TierSettings((KvTier("host", 10.0, 50e9, 1e-5),)))
    with pytest.raises(CapacityError, match=r"--kv-tiers host: is smaller than a block.*16 tokens"):
        Engine(small("llama-3-8b"), POLICIES["vllm"], cache=cache)
