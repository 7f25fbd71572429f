"""Are plans monotone? More load never takes fewer devices, a looser level is never dearer, none depends on another.

Expected values: order alone. Candidates are drawn whose copies serve what they serve, at random, with bounds
that hold; the search is the one that plans run, and every candidate at every number of copies is tried beside it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from opbyte import plan
from opbyte.analysis.studies.plan.best import Searched, narrowed
from opbyte.analysis.studies.plan.bounds import Bound
from opbyte.analysis.studies.plan.points import BEATEN, PlanTask
from opbyte.analysis.studies.plan.tried import TriedCandidate
from opbyte.simulator.scenario import Scenario

MOST = 40
DRAWS = 1500


def system_of(devices: int, usd: float) -> Any:
    device = SimpleNamespace(price_USD_per_hour=usd, name="drawn")
    return SimpleNamespace(nodes=1, devices_per_node=devices, device=device, name="drawn")


class World:
    """Candidates of one system: what a copy serves within a level `loose`, which grows with it."""

    def __init__(self, rng: np.random.Generator) -> None:
        count = int(rng.integers(1, 7))
        self.usd = float(rng.uniform(1.0, 5.0))
        self.devices = rng.choice([1, 2, 4, 8], count)
        self.serves = rng.uniform(0.2, 3.0, count) * self.devices
        self.needs = rng.uniform(0.0, 2.0, count)  # looseness below which no number of copies meets it
        self.joules = rng.uniform(1.0, 4.0, count)
        self.bound = rng.uniform(0.0, 1.0, count)  # how near bounds come

    def fewest(self, i: int, load: float, loose: float) -> float:
        return load / (self.serves[i] * loose) if loose >= self.needs[i] else float("inf")

    def plan(self, task: PlanTask, load: float, loose: float) -> tuple[Any, int]:
        tried = []
        for i, d in enumerate(self.devices):
            n = self.fewest(i, load, loose)
            known = int(np.ceil(self.bound[i] * n)) if np.isfinite(n) else 1
            candidate: Any = SimpleNamespace(devices=int(d), place=i, parts=1)
            system = system_of(int(d), self.usd)
            tried.append(
                TriedCandidate(
                    task, candidate, system, Bound(1, ""), task.most_copies(system, int(d)), max(known, 1) - 1
                )
            )

        def simulated(candidate: TriedCandidate, copies: int, bar: Any) -> Any:
            i = candidate.candidate.place  # type: ignore[attr-defined]
            fewest = self.fewest(i, load, loose)
            missed: tuple[str, ...] = () if copies >= fewest else ("load",)
            joules = self.joules[i] * (1 + 0.1 * copies / max(load, 1e-9))
            here = task.value(
                copies * candidate.candidate.devices, self.usd * copies * candidate.candidate.devices, joules
            )
            if task.goal != "energy" and here >= bar:
                missed = BEATEN  # a run may end once it says that
            return SimpleNamespace(
                copies=copies, missed=missed, served=min(copies / max(fewest, 1e-9), 1.0), devices=copies * candidate.candidate.devices,
                usd_per_hour=self.usd * copies * candidate.candidate.devices, paces=lambda level: 1.0, joules_per_token=joules,
            )  # fmt: skip

        found = narrowed(Searched("drawn", tuple(tried)), simulated)
        best = found.best
        return (None if best is None else best.value), found.simulations

    def every(self, task: PlanTask, load: float, loose: float) -> Any:
        """The best by every candidate at every number of copies."""
        values = []
        for i, d in enumerate(self.devices):
            n = self.fewest(i, load, loose)
            copies = max(int(np.ceil(n)), 1) if np.isfinite(n) else MOST
            if np.isfinite(n) and copies * d <= MOST:
                joules = self.joules[i] * (1 + 0.1 * copies / max(load, 1e-9))
                values.append(task.value(int(copies * d), self.usd * copies * int(d), joules))
        return min(values, default=None)


def task_of(goal: str) -> PlanTask:
    return PlanTask(Scenario.of("llama-3-8b"), {"rate": 1.0}, 1.0, {"ttft_p99": 1.0}, goal, None, MOST, {})


def check_drawn(goal: str, draws: int, seed: int) -> None:
    rng, task = np.random.default_rng(seed), task_of(goal)
    runs = every = 0
    for _ in range(draws):
        world = World(rng)
        load, loose = float(rng.uniform(0.1, 30.0)), float(rng.uniform(0.0, 3.0))
        here, count = world.plan(task, load, loose)
        assert here == pytest.approx(world.every(task, load, loose))
        runs += count
        every += sum(MOST // int(d) for d in world.devices)
        more, _ = world.plan(task, load * float(rng.uniform(1.0, 3.0)), loose)
        looser, _ = world.plan(task, load, loose + float(rng.uniform(0.0, 2.0)))
        if goal != "energy":
            assert more is None or (here is not None and more[0] >= here[0])
            assert here is None or (looser is not None and looser[0] <= here[0])
    assert runs < every / 5  # what pruning is for


@pytest.mark.parametrize("goal", ["devices", "cost", "energy"])
def test_random_what_ifs_are_monotone(goal: str) -> None:
    check_drawn(goal, DRAWS, 7)


@pytest.mark.benchmark
@pytest.mark.parametrize("goal", ["devices", "cost", "energy"])
def test_a_hundred_thousand_what_ifs_are_monotone(goal: str) -> None:
    check_drawn(goal, 100_000, 8)


def check_simulated(draws: int, seed: int) -> None:
    """Plans by simulation: more load, a looser level, and another system beside."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        work: dict[str, Any] = {
            "input_len": int(rng.integers(64, 1500)), "output_len": int(rng.integers(8, 200)),
            "lengths": "lognormal", "requests": 200, "tp": 1, "most_devices": 8, "workers": 1,
            "goal": "cost",
        }  # fmt: skip
        load = float(rng.uniform(1.0, 60.0))
        level = {"ttft_p99": float(rng.uniform(0.1, 2.0)), "tpot_p99": float(rng.uniform(0.01, 0.1))}
        loose = {name: x * float(rng.uniform(1.0, 3.0)) for name, x in level.items()}
        more = load * float(rng.uniform(1.0, 2.0))
        here = plan("llama-3-8b", "h100-x1", level, load=load, **work)
        cost = here.searched[0].bar[0]
        for wider in (plan("llama-3-8b", "h100-x1", loose, load=load, **work),
                      plan("llama-3-8b", "a100-80gb-x1,h100-x1", level, load=load, **work)):  # fmt: skip
            assert min(s.bar[0] for s in wider.searched) <= cost
        heavier = plan("llama-3-8b", "h100-x1", level, load=more, **work)
        assert heavier.searched[0].bar[0] >= cost


def test_simulated_what_ifs_are_monotone() -> None:
    check_simulated(1, 1)


@pytest.mark.benchmark
def test_many_simulated_what_ifs_are_monotone() -> None:
    check_simulated(250, 2)
