"""The best candidate of one system, in order of the least possible cost.

Every candidate has a number of replicas that is too small by bounds or simulations. The candidate with the fewest
estimated devices is followed until it meets the SLO. The others are tried with the largest number of replicas that
would be better, so that one simulation rejects them. More replicas are assumed never to serve worse: after a failure
the number is scaled by the load or by half, then bisected. Systems are searched independently.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ....devices.spec import SystemSpec
from ....simulator.serving.growing import Growing
from ....workloads.catalog import load_model
from ....workloads.errors import CapacityError, InputError
from ....workloads.model import ModelSpec
from ....workloads.requests import RequestBlock
from ...answers.limits import limit_of
from ...answers.pools import pool_limit
from ..stationary import GLANCE
from .bounds import Bound, bound_of
from .candidates import Candidate, candidates, systems_of
from .points import BEATEN, OPEN, WORST, Look, PlanTask, Point, TrialBench, Value, point_of, predicted, slow_of
from .sure import Sure, sure_of

MOST_STAGES = 2000
"""Requests of the run that says what bounds the steps of fewer copies, whose stages are kept."""
STICKS = 8.0
"""How many times the devices of the best guess one may seem to need that is followed, with more copies, until it
serves: what has not been tried seems to need the least."""
LONGEST = 8.0
"""Limits that a latency counts as at most, where it says how many more copies are needed."""


@dataclass(slots=True)
class TriedCandidate:
    """What is known of one candidate.

    Attributes
    ----------
    fails : int
        Largest number of replicas that is known to fail.
    points : list of Point
        Simulated, in the order they were.
    best : Point or None
        With the fewest copies that are known to meet it.
    hopeless : bool
        Whether no number of copies does.
    slow : float or None
        How many times as long steps take, with the chance that the plan is for, as they are predicted to;
        None until it has been simulated.
    """

    candidate: Candidate
    system: SystemSpec
    bound: Bound
    most: int
    fails: int = 0
    points: list[Point] = field(default_factory=list)
    best: Point | None = None
    hopeless: bool = False
    slow: float | None = None

    @property
    def done(self) -> bool:
        """Whether its fewest copies are known, or that there are none."""
        settled = self.best is not None and self.best.copies == self.fails + 1
        return settled or self.hopeless or self.fails >= self.most

    def least(self, task: PlanTask) -> Value:
        """The best that it can still turn out to be."""
        return self.at(task, self.fails + 1)

    def at(self, task: PlanTask, copies: int) -> Value:
        """Return the best value of `copies` replicas."""
        devices = copies * self.candidate.devices
        return task.value(devices, task.usd_per_hour(self.system, devices), 0.0)

    def value(self, task: PlanTask) -> Value:
        """Return its value with the fewest replicas that meet the SLO."""
        assert self.best is not None
        return self.worth(task, self.best)

    @staticmethod
    def worth(task: PlanTask, point: Point) -> Value:
        """What a point is worth."""
        return task.value(point.devices, point.usd_per_hour, point.joules_per_token or float("inf"))

    def within(self, task: PlanTask, bar: Value) -> int:
        """The most copies with which it can still be better than `bar`."""
        copies = self.most
        while copies > self.fails and self.at(task, copies) >= bar:
            copies -= 1
        return copies

    def copies(self, task: PlanTask, bar: Value) -> int:
        """The number to simulate next.

        If the largest number of replicas that is better than `bar` fails, the candidate cannot win.
        """
        if self.best is not None:
            return (self.fails + min(self.best.copies, self.most + 1)) // 2
        most = self.within(task, bar)
        if most < self.most:
            return most
        return min(max(self.fails * 3 // 2, self.paced(task)), most)

    def paced(self, task: PlanTask) -> int:
        """Return the estimated number of replicas from the last failure.

        The more requests there are at once, the longer they stay: a time falls faster than the load of a copy.
        """
        if self.best is not None or not self.points:
            return self.fails + 1
        return max(self.fails + 1, math.ceil(self._seems(task, LONGEST)))

    def _seems(self, task: PlanTask, longest: float) -> float:
        """Return the estimated number of replicas from the last failure, as a fraction."""
        last = self.points[-1]
        over: float = min(last.paces(task.level), longest) ** (1 / 3)
        return last.copies * max(over, 1.0 / max(last.served, 0.1))

    def guess(self, task: PlanTask) -> tuple[float, float, Value, int]:
        """The devices that it seems to need, whole copies of them and not, and the best that it can be.

        Of equals the one first whose devices work together: it keeps latencies the soonest.
        """
        few, size = self._seems(task, 1e3 * LONGEST) if self.points and self.best is None else 0, self.candidate.devices
        return max(few, self.paced(task)) * size, few * size, self.least(task), self.candidate.parts

    def learn(self, point: Point) -> None:
        """Take a simulated point into account."""
        self.points.append(point)
        if not point.missed:
            self.best = point
        elif point.missed == BEATEN:
            self.most = point.copies - 1  # of so many nothing more need be known
        elif point.copies == self.most:
            self.hopeless = True
        else:
            self.fails = point.copies


@dataclass(frozen=True, slots=True)
class Searched:
    """What is known of the systems of one name.

    Attributes
    ----------
    name : str or Path
    tried : tuple of TriedCandidate
        Every candidate.
    limit : str
        What keeps fewer devices, or any, from serving.
    refused : InputError or None
        Why a layout cannot be, of the first that cannot.
    sure : Sure or None
        How sure the best is.
    winner : TriedCandidate or None
        The best, once it is found.
    chosen : Point or None
        The same as it is predicted.
    """

    name: str | Path
    tried: tuple[TriedCandidate, ...]
    simulations: int = 0
    limit: str = ""
    refused: InputError | None = None
    sure: Sure | None = None
    winner: TriedCandidate | None = None
    chosen: Point | None = None

    def best(self, task: PlanTask) -> TriedCandidate | None:
        """Return the best candidate that is known to meet the SLO."""
        met = [t for t in self.tried if t.best is not None]
        return min(met, key=lambda t: t.value(task), default=None)

    def left(self, task: PlanTask, bar: Value) -> list[TriedCandidate]:
        """Candidates that may turn out better than `bar`."""
        return [t for t in self.tried if not t.done and t.least(task) < bar]

    def bar(self, task: PlanTask) -> Value:
        """What has to be undercut: the best that is known."""
        best = self.best(task)
        return WORST if best is None else best.value(task)


def searched_on(task: PlanTask, name: str | Path) -> Searched:
    """The best of the systems of a name, and what became of all candidates."""
    with TemporaryDirectory(prefix="opbyte-plan-") as folder:
        bench = TrialBench(Path(folder))
        try:
            started = start_on(task, name, bench)
            return search_on(task, started, bench) if started.tried else started
        finally:
            gc.unfreeze()


def start_on(task: PlanTask, name: str | Path, bench: TrialBench) -> Searched:
    """Candidates on the systems of a name, with what bounds say of them.

    Raises
    ------
    InputError
        An unknown system.
    """
    sizes = systems_of(name)
    asked = task.scenario.changed(**task.load, requests=task.requests)
    block = asked.workload.open(task.scenario.seed).read()
    known: list[TriedCandidate] = []
    refused: InputError | None = None
    for size, spec in sizes:
        for candidate in candidates(size, spec, _model(task), task.axes, len(sizes) > 1, asked.deployment):
            try:
                known.append(_known(task, candidate, spec, block, bench))
            except InputError as error:  # heads or experts that the degrees do not divide
                refused = refused or error
    return Searched(name, tuple(known), refused=refused)


def search_on(task: PlanTask, searched: Searched, bench: TrialBench) -> Searched:
    """Simulate what may be the best of one system, best first, until nothing left can be better."""
    while True:
        searched = narrowed(task, searched, partial(_simulated, task, bench))
        best = searched.best(task)
        if best is None or best.best is None:
            return limit_on(task, searched, bench)
        chosen, sure, more = sure_of(task, best.candidate, best.system, best.best.copies, best.most, bench)
        searched = replace(searched, simulations=searched.simulations + more)
        if not chosen.missed or task.quick:
            break
        best.best = None  # its probe was within the limits, and it is not
        best.learn(chosen)
    searched = searched if task.quick else limit_on(task, searched, bench)
    return replace(searched, sure=sure, chosen=chosen, winner=best)


def narrowed(task: PlanTask, searched: Searched, simulated: Callable[[TriedCandidate, int, Value], Point]) -> Searched:
    """The same once nothing left can be better, `simulated` telling whether some copies of a candidate beat a bar."""
    count = searched.simulations
    deep: TriedCandidate | None = None
    while left := searched.left(task, bar := searched.bar(task)):
        first = min(left, key=lambda t: t.guess(task))
        if deep is not None and any(t is deep for t in left) and deep.guess(task)[0] <= STICKS * first.guess(task)[0]:
            first = deep
        deep = first if bar == WORST else deep  # until it serves: others are then tried once
        count += 1
        try:
            first.learn(simulated(first, first.copies(task, bar), bar))
        except CapacityError as error:
            first.bound, first.hopeless = Bound(None, f"memory: {error.reason}"), True
    return replace(searched, simulations=count)


def _simulated(task: PlanTask, bench: TrialBench, candidate: TriedCandidate, copies: int, bar: Value) -> Point:
    """A candidate with its steps as slow as the plan's chance has them, by a probe where that decides."""
    at = partial(point_of, task, candidate.candidate, candidate.system, copies, bench)
    far = not candidate.points or candidate.points[-1].requests == GLANCE
    look = far and task.grows and task.scenario.workload.cv is None
    looked, grown = 0.0, Growing() if task.grows else None
    if look and candidate.slow is None:  # what misses as predicted misses with slower steps too
        p, looked = at(Look(most=GLANCE, probe=True)), 1.0
        if p.missed not in ((), OPEN):
            return p
    if candidate.slow is None:
        candidate.slow = slow_of(task, candidate.candidate, candidate.bound.copies or 1, bench)
    if look and candidate.slow != looked:
        p = at(Look(candidate.slow, most=GLANCE, probe=True), grown)
        if p.missed not in ((), OPEN):
            return p
    tied = task.goal in ("devices", "cost") and bar[:2] == candidate.at(task, copies)[:2]
    shown = predicted(task, candidate.candidate, candidate.system, copies, bench) if tied else None
    if shown is not None and candidate.worth(task, shown) >= bar:
        return replace(shown, missed=BEATEN)
    p = at(Look(candidate.slow, probe=True), grown)
    if p.missed:
        return p
    return replace(shown or predicted(task, candidate.candidate, candidate.system, copies, bench), missed=())


def _known(
    task: PlanTask, candidate: Candidate, system: SystemSpec, block: RequestBlock, bench: TrialBench
) -> TriedCandidate:
    """A candidate with what bounds say of it; of two pools they say nothing."""
    most, bound = task.most_copies(system, candidate.devices), Bound(1, "")
    if candidate.pools:
        return TriedCandidate(candidate, system, bound, most)
    try:
        deployment, settings = bench.deployed(candidate, candidate.scenario(task.scenario, bench.folder))
        bound = bound_of(deployment, settings, block, task.level)
    except CapacityError as error:
        bound = Bound(None, f"memory: {error.reason}")
    return TriedCandidate(candidate, system, bound, most, (bound.copies or 1) - 1, hopeless=bound.copies is None)


def _model(task: PlanTask) -> ModelSpec:
    """The model as it comes."""
    model = task.scenario.model
    assert model is not None
    return model if isinstance(model, ModelSpec) else load_model(model)


def limit_on(task: PlanTask, searched: Searched, bench: TrialBench) -> Searched:
    """Say what keeps the nearest of those that fail from serving, with one more simulation of it."""
    failed = [p for t in searched.tried for p in t.points if p.missed]
    best = searched.best(task)
    most = best.best.devices if best is not None and best.best is not None else float("inf")
    failed = [p for p in failed if p.devices < most]
    if not failed:
        return replace(searched, limit=_ruled_out(searched, most))
    p = min(failed, key=lambda p: (p.worst(task.level), p.devices))
    few = min(p.requests, MOST_STAGES) if task.grows else p.requests
    run = bench.run(p.candidate, task.asked(p.candidate, p.copies, bench, few), probe=True, keep_stages=True)
    missed = {name: x for name, x in task.level.items() if name in p.missed}
    text = f"{p.copies} x {p.system}, {p.candidate.layout}: {p.misses(task.level)}"
    why = pool_limit if "two-pools" in run.parts else limit_of
    text += f"; {why(run, missed).why}"
    return replace(searched, simulations=searched.simulations + 1, limit=text)


def _ruled_out(searched: Searched, most: float) -> str:
    """Why fewer devices, or any, need no simulation."""
    ruled = [t for t in searched.tried if t.bound.copies is None and t.candidate.devices < most]
    if not ruled:
        return "" if searched.tried or searched.refused is None else str(searched.refused)
    last = max(ruled, key=lambda t: t.candidate.devices)
    return f"{last.system.name}, {last.candidate.layout}: {last.bound.why}"
