"""Are capacities monotone? A looser level never holds less, whatever chance does to single loads.

Expected values: order alone, and the load at which a curve meets its limit. Systems are drawn as curves of latencies
over load, with noise that depends on the load only, and loads that no run can tell; the search is capacity's own.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from opbyte import capacity
from opbyte.analysis.studies.capacity import ends, highest
from opbyte.analysis.studies.loads import Tried

NAMES = ("ttft_p99", "tpot_p99")
TOLERANCE = 0.02


class World:
    """A system: two latencies that grow with load up to what it can do, and how far chance moves them."""

    def __init__(self, rng: Random) -> None:
        self.most = 10.0 ** rng.uniform(-1.0, 3.0)
        self.base = {name: 10.0 ** rng.uniform(-2.0, 0.0) for name in NAMES}
        self.noise, self.wide = rng.choice((0.0, 0.02, 0.3)), rng.choice((0.0, 0.01, 0.05))
        self.seed, self.start = rng.random(), self.most * 10.0 ** rng.uniform(-2.0, 1.5)

    def figures(self, load: float) -> dict[str, float]:
        """Latencies under a load, by the waiting of one server, moved by chance."""
        busy = load / self.most
        if busy >= 1.0:
            return dict.fromkeys(NAMES, math.inf)
        rng = Random(hash((self.seed, load)))
        return {n: x / (1.0 - busy) * (1.0 + self.noise * (2.0 * rng.random() - 1.0)) for n, x in self.base.items()}

    def run(self, load: float, level: dict[str, float]) -> Tried:
        """What a run says: missed beyond a limit, open within some width of it."""
        found = self.figures(load)
        missed = tuple(n for n, x in found.items() if x * (1.0 - self.wide) > level[n])
        left = () if missed else tuple(n for n, x in found.items() if x * (1.0 + self.wide) > level[n])
        if load >= self.most:
            missed = ("load", *missed)
        return Tried(load, None, dict(found), missed, open=left)

    def search(self, level: dict[str, float]) -> tuple[float | None, float | None, dict[float, Tried]]:
        tried: dict[float, Tried] = {}

        def passes(load: float) -> bool:
            tried[load] = self.run(load, level)
            return tried[load].holds

        return *highest(passes, tried, self.start, TOLERANCE), tried

    def truth(self, level: dict[str, float]) -> float:
        return max(min(self.most * (1.0 - self.base[n] / level[n]) for n in NAMES), 0.0)


class Slow:
    """Steps that are so many times as long, by chance."""

    def __init__(self, fast: float, late: float) -> None:
        self.ends = fast, late

    def slow(self, share: float) -> float:
        return self.ends[share > 0.5]


def check(draws: int, seed: int) -> None:
    rng = Random(seed)
    for _ in range(draws):
        world = World(rng)
        level = {n: world.base[n] * 10.0 ** rng.uniform(-0.3, 1.5) for n in NAMES}
        looser = {n: x * rng.uniform(1.0, 3.0) for n, x in level.items()}
        low, high, tried = world.search(level)
        more, _, _ = world.search(looser)
        assert low is None or (more is not None and more >= low)
        if low is None or high is None:
            continue
        assert tried[low].holds
        assert not tried[high].holds
        if world.noise == 0.0:
            truth = world.truth(level)
            assert low <= truth * (1.0 + 1e-6)
            if world.wide == 0.0:
                assert high >= truth * (1.0 - 1e-6)
                assert high <= low * (1.0 + TOLERANCE) * (1.0 + 1e-5)
        check_ends(world, level, low, tried, rng)


def check_ends(world: World, level: dict[str, float], low: float, tried: dict[float, Tried], rng: Random) -> None:
    """Of an interval both ends lie around what is found; where steps may be slower still, its low end is lower."""
    late, fast = rng.uniform(1.0, 2.0), rng.uniform(0.5, 1.0)
    inner: Any = Slow(fast, late)
    outer: Any = Slow(fast * rng.uniform(0.7, 1.0), late * rng.uniform(1.0, 1.5))

    def between(sure: Any) -> Any:
        return ends(list(tried.values()), low, level, sure, world.run)

    near, far = between(inner), between(outer)
    assert near.low <= 1.0 <= near.high
    if world.noise == world.wide == 0.0:
        assert far.low <= near.low * 1.1 * 1.001  # each end is found to 10 %
        assert far.high * 1.1 * 1.001 >= near.high


def test_random_what_ifs_are_monotone() -> None:
    check(1500, 3)


@pytest.mark.benchmark
def test_half_a_million_what_ifs_are_monotone() -> None:
    check(250_000, 4)


def check_simulated(draws: int, seed: int) -> None:
    """Capacities by simulation: a looser level, another system beside, and twice the copies."""
    rng = Random(seed)
    for _ in range(draws):
        work: dict[str, Any] = {
            "input_len": rng.randrange(64, 1500), "output_len": rng.randrange(8, 200), "lengths": "lognormal",
            "tolerance": 0.1, "workers": 1,
        }  # fmt: skip
        level = {"ttft_p99": rng.uniform(0.1, 2.0), "tpot_p99": rng.uniform(0.01, 0.1)}
        loose = {n: x * rng.uniform(1.0, 3.0) for n, x in level.items()}

        def held(systems: str, level: dict[str, float], **more: Any) -> float | None:
            return capacity("llama-3-8b", systems, level, **work, **more).found[-1].load_per_s  # noqa: B023

        here = held("h100-x1", level)
        assert here == held("a100-80gb-x1,h100-x1", level)
        if here is not None:
            wider, twice = held("h100-x1", loose), held("h100-x1", level, replicas=2)
            assert wider is None or wider >= here  # None: not decided
            assert twice is None or twice >= here


@pytest.mark.benchmark
def test_many_simulated_what_ifs_are_monotone() -> None:
    check_simulated(30, 2)
