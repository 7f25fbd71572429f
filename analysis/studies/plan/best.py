"""The best candidate of one system, in order of the least possible cost.

For every candidate, bounds or simulations give a number of replicas that is too small.

1. Each candidate with the lowest possible cost is simulated once.
2. The candidate with the fewest estimated devices is simulated with more replicas until it meets the SLO.
3. Each other candidate is simulated with the largest number of replicas that would be better. One simulation then
   rejects it: first by devices or cost, then by energy among candidates of equal cost.

More replicas are assumed never to increase latencies. After a failure, the number is scaled by the load or by half, then
bisected. Systems are searched independently.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ....workloads.catalog import load_model
from ....workloads.errors import CapacityError, InputError
from ....workloads.model import ModelSpec
from ....workloads.requests import RequestBlock
from ...answers.limits import limit_of, pool_limit
from .bounds import Bound, bound_of
from .candidates import Candidate, candidates, check_blocks, systems_of
from .points import BEATEN, OPEN, WORST, PlanTask, Point, Value
from .spares import Outage
from .trial import Sure, Trial, sure_of
from .tried import TriedCandidate, narrows, promising

MOST_STAGES = 2000
"""Maximum requests of the run with kept stages, which determines why fewer replicas fail."""
STICKS = 8.0
"""Step 2 stays with its candidate until the estimated devices exceed this multiple of the best other estimate.

Estimates rise with each simulation, so a candidate that was not simulated seems to need fewer devices than it does.
"""
SURELY_MORE = 1.05
"""A candidate of equal cost is rejected after a short run if it needs this multiple of the best candidate's energy;
in a quick plan, if it needs more."""


@dataclass(frozen=True, slots=True)
class Searched:
    """Result of the search over the systems of one name.

    Attributes
    ----------
    name : str or Path
    tried : tuple of TriedCandidate
        Every candidate.
    limit : str
        Reason why fewer devices, or any number, do not meet the SLO.
    refused : InputError or None
        Error of the first invalid layout.
    sure : Sure or None
        Replicas by probability, and latency intervals, of the best candidate.
    winner : TriedCandidate or None
        The best candidate, once it is found.
    chosen : Point or None
        Its values at predicted step times.
    outage : Outage or None
        Its latencies during a failure, if replicas can fail.
    """

    name: str | Path
    tried: tuple[TriedCandidate, ...]
    simulations: int = 0
    limit: str = ""
    refused: InputError | None = None
    sure: Sure | None = None
    winner: TriedCandidate | None = None
    chosen: Point | None = None
    outage: Outage | None = None

    @property
    def best(self) -> TriedCandidate | None:
        """Return the best candidate that is known to meet the SLO; None if there is none yet."""
        met = [t for t in self.tried if t.best is not None]
        return min(met, key=lambda t: t.value, default=None)

    def left(self, bar: Value) -> list[TriedCandidate]:
        """Return the candidates that may still be better than `bar`."""
        left = [t for t in self.tried if not t.done and t.least < bar]
        return promising(left, self.tried, self.best is not None) if left and narrows(left[0].task) else left

    @property
    def bar(self) -> Value:
        """Return the best value known so far; another candidate must have a lower one."""
        best = self.best
        return WORST if best is None else best.value


OnBest = Callable[[Searched], None] | None


def searched_on(task: PlanTask, on_best: OnBest, name: str | Path) -> Searched:
    """Search the systems of a name; return the best candidate and the outcome of all others.

    `on_best` is called with the search once its first candidate meets the SLO, which is then `chosen`.

    Raises
    ------
    InputError
        An unknown system.
    """
    sizes = systems_of(name)
    asked = task.scenario.changed(**task.load, requests=task.requests)
    block = asked.workload.open(task.scenario.seed).read()
    refused: InputError | None = None
    trials: dict[Candidate, Trial] = {}
    tried: list[TriedCandidate] = []
    with TemporaryDirectory(prefix="opbyte-plan-") as folder:
        try:
            for size, spec in sizes:
                for candidate in candidates(size, spec, _model(task), task.axes, len(sizes) > 1, asked.deployment):
                    trial = trials[candidate] = Trial(task, candidate, spec, Path(folder))
                    try:
                        tried.append(_bounded(trial, block))
                    except InputError as error:  # for example, degrees that do not divide the heads or experts
                        refused = refused or error
            searched = Searched(name, tuple(tried), refused=refused)
            return _searched(task, searched, trials, on_best) if tried else searched
        finally:
            gc.unfreeze()


def _bounded(trial: Trial, block: RequestBlock) -> TriedCandidate:
    """Return a candidate with its lower bound on replicas; prefill and decode pools have none."""
    task, bound = trial.task, Bound(1, "")
    check_blocks(trial.candidate, _model(task))
    try:
        made = trial.deployed()
        bound = bound if made is None else bound_of(*made, block, task.level)
    except CapacityError as error:
        bound = Bound(None, f"memory: {error.reason}")
    most = task.most_copies(trial.system, trial.candidate.devices)
    return TriedCandidate(
        task, trial.candidate, trial.system, bound, most, (bound.copies or 1) - 1, hopeless=bound.copies is None
    )


def _model(task: PlanTask) -> ModelSpec:
    """Return the model in its published formats."""
    model = task.scenario.model
    assert model is not None
    return model if isinstance(model, ModelSpec) else load_model(model)


def _searched(task: PlanTask, searched: Searched, trials: Mapping[Candidate, Trial], on_best: OnBest) -> Searched:
    """Simulate candidates in the order of their estimates until no other can be better; then confirm the best one."""
    while True:
        searched = narrowed(searched, partial(_simulated, trials, searched), on_best)
        best = searched.best
        if best is None or best.best is None:
            return limit_on(searched, trials)
        chosen, sure, more = sure_of(trials[best.candidate], best.best.copies, best.most)
        searched = replace(searched, simulations=searched.simulations + more)
        if not chosen.missed or task.quick:
            break
        best.best = None  # the probe met the SLO, but the run of all layers does not
        best.learn(chosen)
    searched = searched if task.quick else limit_on(searched, trials)
    outage = trials[best.candidate].outage(chosen.copies)
    return replace(searched, sure=sure, chosen=chosen, winner=best, outage=outage)


def narrowed(
    searched: Searched, simulated: Callable[[TriedCandidate, int, Value], Point], on_best: OnBest = None
) -> Searched:
    """Simulate candidates until none left can be better; return the search with their number of simulations.

    `simulated` returns the point of a candidate with a number of replicas; the point fails if it is not below a bar.
    Candidates of equal cost follow in the order of the energy in their last run, so that the first rejects most.
    """
    count = searched.simulations
    deep: TriedCandidate | None = None
    fewest = min((t.least for t in searched.left(WORST)), default=WORST)
    while True:
        bar = searched.bar
        cheaper = *bar[:-1], 0.0  # ignores energy, the tie-breaker
        left, strict = searched.left(cheaper), cheaper
        if not left:
            left, strict = searched.left(bar), bar
            left = left if bar == WORST else sorted(left, key=_last_joules)[:1]
        if not left:
            return replace(searched, simulations=count)
        untried = [t for t in left if bar == WORST and not t.points and t.least == fewest]
        first = min(untried or left, key=lambda t: t.guess)
        if not untried and deep is not None and any(t is deep for t in left):
            first = deep if deep.guess[0] <= STICKS * first.guess[0] else first
        if bar == WORST and not untried:
            deep = first  # followed until it meets the SLO
        count += 1
        try:
            first.learn(simulated(first, first.copies(strict), bar))
        except CapacityError as error:
            first.bound, first.hopeless = Bound(None, f"memory: {error.reason}"), True
        if on_best and bar == WORST and first.best:
            on_best(replace(searched, chosen=first.best))


def _last_joules(tried: TriedCandidate) -> float:
    return (tried.points[-1].joules_per_token or 0.0) if tried.points else 0.0


def _simulated(
    trials: Mapping[Candidate, Trial], searched: Searched, candidate: TriedCandidate, copies: int, bar: Value
) -> Point:
    """Simulate a candidate with steps as slow as the plan's probability requires; a short run may decide."""
    task, trial, best = candidate.task, trials[candidate.candidate], searched.best
    glances = task.grows and task.scenario.workload.cv is None
    if glances and candidate.slow is None:  # exceeding limits at predicted step times implies it with slower steps
        p = trial.glance(copies)
        if p.missed not in ((), OPEN):
            return p
    tied = task.goal in ("devices", "cost") and bar[:2] == candidate.at(copies)[:2]
    if tied and glances and best is not None and best.best is not None:
        p, other = trial.glance(copies), trials[best.candidate].glance(best.best.copies)
        more = 1.0 if narrows(task) else SURELY_MORE
        if (p.joules_per_token or 0.0) > more * (other.joules_per_token or float("inf")):
            return replace(p, missed=BEATEN)
    if candidate.slow is None:
        candidate.slow = trial.slow(candidate.bound.copies or 1)
    shown = trial.predicted(copies) if tied else None
    if shown is not None and task.worth(shown) >= bar:
        return replace(shown, missed=BEATEN)
    p = trial.point(copies, candidate.slow)
    return p if p.missed else replace(shown or trial.predicted(copies), missed=())


def limit_on(searched: Searched, trials: Mapping[Candidate, Trial]) -> Searched:
    """Simulate the failed candidate nearest to the SLO once more; return the search with the reason of its failure."""
    best = searched.best
    most = best.best.devices if best is not None and best.best is not None else float("inf")
    failed = [p for t in searched.tried for p in t.points if p.missed and p.devices < most]
    if not failed:
        return replace(searched, limit=_ruled_out(searched, most))
    task = searched.tried[0].task
    p = min(failed, key=lambda p: (p.worst(task.level), p.devices))
    trial = trials[p.candidate]
    few = min(p.requests, MOST_STAGES) if task.grows else p.requests
    run = trial.run(trial.asked(p.copies, few), keep_stages=True)
    missed = {name: x for name, x in task.level.items() if name in p.missed}
    text = f"{p.copies} x {p.system}, {p.candidate.layout}: {p.misses(task.level)}"
    why = pool_limit if "two-pools" in run.parts else limit_of
    text += f"; {why(run, missed).why}"
    return replace(searched, simulations=searched.simulations + 1, limit=text)


def _ruled_out(searched: Searched, most: float) -> str:
    """Return the bound that excludes fewer than `most` devices without simulation; empty if none."""
    ruled = [t for t in searched.tried if t.bound.copies is None and t.candidate.devices < most]
    last = max(ruled, key=lambda t: t.candidate.devices, default=None)
    return "" if last is None else f"{last.system.name}, {last.candidate.layout}: {last.bound.why}"
