"""Does a cache of experts hit as often as its policy says, and is nothing better than Belady?

Expected values: a slow reference that looks every rule up anew in the whole history, an exhaustive
search for the fewest misses, and closed forms (Mattson et al., IBM Systems Journal 1970: uniform
independent accesses hit a cache of c of n at c / n, whatever the policy).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.analysis.papers.read_me import next_uses, replay
from opbyte.devices.lines import TierSpec
from opbyte.simulator.parts.expert_cache.cache import ExpertCache, one_of
from opbyte.simulator.parts.expert_cache.cache_state import chances_of, named_by
from opbyte.simulator.parts.expert_cache.policies import BUILT_IN, CACHE_POLICIES
from opbyte.simulator.parts.expert_cache.store import ExpertStore, MemoryTiers, expert_store
from opbyte.workloads.errors import CapacityError, InputError

from ..tables import tables

EXPERTS = 6
steps_of = st.lists(st.sets(st.integers(0, EXPERTS - 1), min_size=1, max_size=4), min_size=1, max_size=25)
sizes = st.integers(1, EXPERTS)


def slow(
    policy: str, steps: Sequence[Collection[int]], names: Sequence[Collection[int]], size: int
) -> list[tuple[int, int, int]]:
    """Hits, misses and fetches ahead of every step; each decision looks at all that has happened."""
    history: list[tuple[str, int]] = []  # ("came" or "used", expert), one tick each
    inside: set[int] = set()
    out = []

    def last(kind: Collection[str], e: int) -> int:
        return max(i for i, (k, x) in enumerate(history) if k in kind and x == e)

    def uses(e: int) -> int:
        """Uses since it came; the use for which it came is one, once its step has come to it."""
        return sum(1 for k, x in history[last(("came", "named"), e) :] if x == e and k != "named")

    def again(e: int, t: int) -> float:
        return next((float(s - t) for s in range(t + 1, len(steps)) if e in steps[s]), inf)

    def leave(t: int, spared: Collection[int]) -> None:
        choice = sorted(inside - set(spared))
        used = {e: last(("came", "used", "named"), e) for e in choice}
        if policy == "random":
            numbers = dict(zip(sorted(inside), one_of(len(history) + 1, sorted(inside)), strict=True))
            victim = min(choice, key=lambda e: (numbers[e], used[e]))
        else:
            victim = min(choice, key=lambda e: {
                "lru": (used[e],),
                "fifo": (last(("came", "named"), e),),
                "lfu": (uses(e), used[e]),
                "belady": (-again(e, t), used[e]),
                "predictive": (e in names[t], used[e]),
                "transient": (e in names[t], used[e]),
            }[policy])  # fmt: skip
        inside.discard(victim)

    for t, (step, named) in enumerate(zip(steps, names, strict=True)):
        room = size - len(inside & set(named))
        early = [e for e in sorted(named) if e not in inside][:room]
        for e in early:
            if len(inside) == size:
                leave(t, named)
            history.append(("named", e))
            inside.add(e)
        hits = sorted(inside & set(step))
        history += [("used", e) for e in hits]
        misses = sorted(set(step) - inside, key=lambda e: (-again(e, t), e) if policy == "belady" else e)
        for e in misses:
            if len(inside) == size:
                leave(t, ())
            history.append(("came", e))
            inside.add(e)
        if policy == "transient":
            inside.clear()
        out.append((len(hits), len(misses), len(early)))
    return out


@pytest.mark.parametrize("policy", BUILT_IN)
@given(steps=steps_of, size=sizes, data=st.data())
def test_every_policy_hits_as_a_slow_reference_does(
    policy: str, steps: list[set[int]], size: int, data: st.DataObject
) -> None:
    named = [data.draw(st.sets(st.integers(0, EXPERTS - 1))) for _ in steps]
    names = named if CACHE_POLICIES[policy].predicts else [set() for _ in steps]
    cache, found = ExpertCache(size, policy), []
    ahead = next_uses(steps) if CACHE_POLICIES[policy].looks_ahead else [{} for _ in steps]
    for step, known, name in zip(steps, ahead, names, strict=True):
        touched = cache.touch(step, known, name)
        found.append((len(touched.hits), len(touched.misses), len(touched.fetched)))
        assert set(touched.hits) | set(touched.misses) == step
        assert len(cache) <= size
    assert found == slow(policy, steps, names, size)


def fewest(steps: Sequence[Collection[int]], size: int) -> int:
    """Fewest misses of any choice of what to keep, found by trying all."""
    states: dict[tuple[int, ...], int] = {(): 0}
    for step in steps:
        after: dict[tuple[int, ...], int] = {}
        for inside, misses in states.items():
            lacking = len(set(step) - set(inside))
            known = sorted(set(inside) | set(step))
            for kept in combinations(known, min(size, len(known))):
                after[kept] = min(after.get(kept, 10**9), misses + lacking)
        states = after
    return min(states.values())


OTHERS = [name for name in BUILT_IN if not CACHE_POLICIES[name].predicts and name != "belady"]


@given(steps=steps_of, size=sizes, seed=st.integers(0, 5))
@settings(max_examples=60)
def test_belady_is_never_beaten(steps: list[set[int]], size: int, seed: int) -> None:
    best = replay(steps, size, "belady", staging=True)
    assert best.misses == fewest(steps, size)
    for policy in OTHERS:
        assert replay(steps, size, policy, seed=seed).misses >= best.misses
    for ahead in (1, 2, 5):
        assert replay(steps, size, "belady", look_ahead=ahead, staging=True).misses >= best.misses


@given(steps=st.lists(st.integers(0, EXPERTS - 1).map(lambda e: (e,)), max_size=60), size=sizes)
def test_belady_is_never_beaten_where_all_that_comes_has_a_slot(steps: list[tuple[int]], size: int) -> None:
    best = replay(steps, size, "belady").misses
    assert replay(steps, size, "belady", staging=True).misses <= best
    for policy in OTHERS:
        assert replay(steps, size, policy).misses >= best


def test_victims_of_an_fpga_are_drawn_as_ever() -> None:
    cache, held, rng = ExpertCache(3, "random"), [], np.random.default_rng(0)
    for clock, e in enumerate(rng.integers(0, 8, 500), 1):
        assert cache.ask(int(e)) == (e in held)
        if e not in held:
            if len(held) == 3:
                held.remove(sorted(held)[int(np.random.default_rng(clock).integers(3))])
            held.append(int(e))


def test_a_predictor_names_as_often_as_it_is_said_to() -> None:
    needed = np.arange(128) < 40
    named = np.mean([named_by(1, 0, step, 3, needed, 0.9, 0.05) for step in range(400)], axis=0)
    assert named[:40].mean() == pytest.approx(0.9, abs=0.01)
    assert named[40:].mean() == pytest.approx(0.05, abs=0.01)
    assert named_by(1, 0, 5, 3, needed, 1.0, 0.0).tolist() == needed.tolist()


def test_draws_are_those_of_their_key() -> None:
    one, same, other = (chances_of(seed, 0, 2, 8) for seed in (4, 4, 5))
    assert one(7, (1, 3)) == same(7, (1, 3)) != other(7, (1, 3))


def test_options_of_an_expert_cache() -> None:
    assert expert_store(None) is None
    store = expert_store("0.25", "belady:3")
    assert store == ExpertStore(0.25, True, "belady", 3)
    assert (store.slots(8, "x"), store.slots(2, "x")) == (2, 1)
    assert expert_store("4", "predictive", "0.9:0.1", "layer").false_rate == 0.1  # type: ignore[union-attr]


@pytest.mark.parametrize(("given_options", "said"), tables(__file__)["bad"])
def test_bad_options_are_one_line(given_options: tuple[str | None, ...], said: str) -> None:
    with pytest.raises(InputError) as error:
        expert_store(*given_options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cache_larger_than_the_experts_is_refused() -> None:
    store = expert_store("9")
    assert store is not None
    with pytest.raises(InputError, match="at most the 8 experts"):
        store.slots(8, "a40-x1")


def tier(size: float, rate: float, latency: float = 0.0) -> TierSpec:
    return TierSpec(capacity_bytes=size, bandwidth_bytes_per_s=rate, latency_s=latency)


def test_a_tier_of_zero_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="bandwidth_bytes_per_s"):
        tier(1.0, 0.0)


def test_tiers_hold_what_they_can_and_cost_what_they_must() -> None:
    host, disk = tier(10.0, 2.0, 0.5), tier(100.0, 1.0, 3.0)
    assert MemoryTiers(host, disk).near(3.0, 5) == 3
    assert MemoryTiers(host).seconds(4.0, far=False) == 0.5 + 2.0
    assert MemoryTiers(host, disk).seconds(4.0, far=True) == 0.5 + 2.0 + 3.0 + 4.0
    with pytest.raises(CapacityError, match=r"host_memory\.capacity_GiB"):
        MemoryTiers(host).near(3.0, 5)
    with pytest.raises(CapacityError):
        MemoryTiers(host, disk).near(3.0, 50)
