"""Simulations of one candidate with a number of replicas: probes of the search, and the run that the plan reports.

A system with steps `r` times as long behaves like the simulated one with `r` times the load and a clock `r` times as
fast. So slower steps, and both ends of the latencies' intervals, are simulated as higher loads; the simulation shows
whether the queue then grows. Waiting outside of steps is not included.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ....devices.spec import SystemSpec
from ....simulator.fleet.growing import Growing
from ....simulator.results.record import Run
from ....simulator.scenario import Scenario
from ....simulator.scenario.build import Made, deployment_of, run_scenario
from ...answers.bases import bases_of
from ...answers.interval import LEVEL, MEDIAN, SURE
from ...answers.price import costs_of, gco2, worth_of
from ...answers.simulate import intervals_of, simulation_of
from ...answers.started import room_of
from ..backlog import FullRate, full_rate, least_rate, sampled
from ..loads import BACKLOG, judged
from ..stationary import GLANCE, decide
from .candidates import Candidate
from .points import OPEN, PlanTask, Point, paced
from .spares import Outage, latencies, met_by, one_failure, requests_around

MOST_REQUESTS = 16_000
"""Maximum requests of a simulation; an undecided one counts as failed."""
MOST_AT_ENDS = 8000
"""Maximum requests of a run with slower steps at the ends of an interval."""


@dataclass(slots=True)
class Trial:
    """A candidate with its deployments, which are built once for all loads and numbers of replicas.

    Probes sample the expert loads of some layers only (`backlog.sampled`); the reported run samples all.

    Attributes
    ----------
    made : tuple of Made
        Deployments of probes and of the reported run; empty until the first run.
    rates : dict of str to (FullRate or None)
        Service rate of full engines, by the name of the function that measured it.
    glances : dict of int to Point
        Points of short runs at predicted step times, by number of replicas.
    """

    task: PlanTask
    candidate: Candidate
    system: SystemSpec
    folder: Path
    made: tuple[Made, ...] = ()
    rates: dict[str, FullRate | None] = field(default_factory=dict)
    glances: dict[int, Point] = field(default_factory=dict)

    def asked(self, copies: int = 1, requests: int | None = None, slow: float = 1.0) -> Scenario:
        """Return the scenario with a number of replicas, under the load times `slow`."""
        task, load = self.task, self.task.load
        if slow != 1.0:
            load = {n: x * slow for n, x in (load or {"rate_scale": 1.0}).items()}
        scenario = task.scenario.changed(**load, requests=requests or task.requests)
        return self.candidate.scenario(scenario, self.folder, copies)

    def deployed(self, whole: bool = True) -> Made | None:
        """Return the deployment of the reported run (`whole`) or of probes; None with prefill and decode pools."""
        if self.candidate.pools:
            return None
        if not self.made:
            made = deployment_of(self.candidate.scenario(self.task.scenario, self.folder))
            self.made = sampled(made), made
        return self.made[whole]

    def full_rates(self, copies: int) -> Iterator[FullRate]:
        """Yield the service rate of N replicas with a backlog: a lower bound first, then the measured rate."""
        for measure in (least_rate, full_rate):
            name = measure.__name__
            if name not in self.rates:
                self.rates[name] = measure(self.asked(), self.deployed(False))
            known = self.rates[name]
            if known is not None:
                yield known.of(copies)

    def run(self, asked: Scenario, whole: bool = False, **how: Any) -> Run:
        """Simulate a scenario of the candidate."""
        try:
            return run_scenario(asked, made=self.deployed(whole), **how)
        finally:  # a run ends in rings of large arrays; what is older is not looked at again
            gc.collect()
            gc.freeze()

    def point(self, copies: int, slow: float = 1.0, most: int = MOST_REQUESTS, *, whole: bool = False) -> Point:
        """Simulate `copies` replicas until it is decided whether they meet the SLO at the load.

        Parameters
        ----------
        slow : float
            Factor on all step times. It is simulated as `slow` times the load with limits divided by `slow`; the
            resulting latencies are multiplied by `slow`.
        most : int
            Maximum requests of a run.
        whole : bool
            Whether the point is reported, with evidence and intervals. The run then samples all layers unless the plan is
            quick, and the first run within the limits suffices, because a probe has decided before.
        """
        task, started = self.task, self.task.started(copies)
        devices = started * self.candidate.devices

        def enough(run: Run) -> bool:
            return whole and not judged(run, task.load_per_s, task.level).missed

        grown = Growing() if task.grows and most > GLANCE else None
        decision = decide(
            lambda count: self.run(self.asked(copies, count, slow), whole and not task.quick, grown=grown),
            task.load_per_s * slow, task.at(slow), task.requests, grows=task.grows, most=most,
            enough=enough, full=lambda: self.full_rates(copies),
        )  # fmt: skip
        run, tried = decision.run, decision.tried
        asked = self.asked(copies, tried.requests, slow)
        unsure = OPEN if tried.open and not enough(run) else ()
        made = simulation_of(asked, run) if whole else None
        rate, worth = run.output_tokens_per_s, worth_of(run, asked)
        if started > copies:
            worth = worth.of_more(started / copies)
        price = costs_of(run, asked, rate)["device_usd_per_hour"]
        return Point(
            self.candidate, self.candidate.unit(self.system.name), copies, devices,
            None if price is None else price * devices, rate, worth,
            gco2(worth.joules_per_token, task.scenario.grid_gCO2_per_kWh),
            {n: None if x is None else x * slow for n, x in tried.figures.items()},
            tried.missed or unsure, tried.requests,
            min(paced(run), (tried.full_per_s or float("inf")) / (task.load_per_s * slow)), started - copies,
            *(() if made is None else (made.intervals, bases_of(run.deployment), tuple(made.evidence),
                                       made.ranges, room_of(asked, run), made.warnings)),
        )  # fmt: skip

    def glance(self, copies: int) -> Point:
        """Return the point of a short run at predicted step times, which detects only latencies far above a limit."""
        if copies not in self.glances:
            self.glances[copies] = self.point(copies, most=GLANCE)
        return self.glances[copies]

    def predicted(self, copies: int) -> Point:
        """Return the point of one run at predicted step times; candidates are compared by its energy."""
        return self.point(copies, most=self.task.requests)

    def outage(self, copies: int) -> Outage | None:
        """Return latencies during a failure of one of `copies` and their spares; None without failures, or with two pools."""
        task, outages = self.task, self.task.outages
        if outages is None or self.candidate.pools:
            return None
        started = outages.replicas(copies)
        least, load = task.requests, task.load_per_s
        count = requests_around(outages, load, least, MOST_REQUESTS) if task.grows else least
        usual = self.asked(started, count)
        asked, at = one_failure(outages, usual, load)
        failing = self.run(asked)
        met = met_by(failing, at, outages)
        without, during = (latencies(run, task.level, met) for run in (self.run(usual), failing))
        return Outage(copies, started, outages.share(copies, started), without, during, int(met.sum()))

    def slow(self, copies: int) -> float:
        """Return the factor on step times that the plan's probability requires, at least 1.

        Run a short simulation with the fewest replicas that bounds allow.
        """
        asked = self.asked(copies, GLANCE if self.task.grows else None)
        sure = intervals_of(asked, self.run(asked))
        return 1.0 if sure is None or not sure.slowdowns else max(sure.slow(self.task.sure or MEDIAN), 1.0)


@dataclass(frozen=True, slots=True)
class Sure:
    """Replicas and latencies of a candidate if steps are slower or faster than predicted.

    Attributes
    ----------
    copies : mapping of float to (int or None)
        Fewest replicas that meet the SLO, by probability; None if no allowed number suffices.
    slow : mapping of float to float
        Factor that true over predicted step time does not exceed, by the same probability.
    ends : mapping of str to (float, float or None)
        Latencies at both ends of the 80 % interval [s]; None where the slow end is overloaded.
    """

    copies: Mapping[float, int | None]
    slow: Mapping[float, float]
    ends: Mapping[str, tuple[float, float | None]]


def sure_of(trial: Trial, copies: int, most: int) -> tuple[Point, Sure | None, int]:
    """Return a candidate's point at predicted step times, its certainty, and the number of simulations."""
    done: dict[tuple[int, float], Point] = {}
    task = trial.task

    def at(count: int, slow: float) -> Point:
        if (count, slow) not in done:
            as_is = slow == 1.0
            done[count, slow] = trial.point(count, slow, MOST_REQUESTS if as_is else MOST_AT_ENDS, whole=as_is)
        return done[count, slow]

    best = at(copies, 1.0)
    known = best.sure
    if known is None or not known.slowdowns or task.quick:
        return best, None, len(done)
    asked_share = task.sure or MEDIAN
    slow = {share: max(known.slow(share), 1.0) for share in (MEDIAN, task.sure or SURE)}
    copies_at: dict[float, int | None] = {}

    def holds(r: float, count: int) -> bool:
        return not at(count, r).missed

    for share, r in slow.items():
        guess = round(copies * r / slow[asked_share])
        copies_at[share] = (
            copies
            if share == asked_share
            else _fewest(partial(holds, r), 1 if share < asked_share else copies, guess, most)
        )
    fast, late = (at(copies, known.slow(q)) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    ends = {
        n: (min(a, x), None if {"load", BACKLOG} & {*late.missed} or b is None else max(b, x))
        for n, x in best.figures.items()
        if x is not None and (a := fast.figures[n]) is not None
        for b in (late.figures[n],)
    }
    return best, Sure(copies_at, slow, ends), len(done)


def _fewest(holds: Callable[[int], bool], least: int, guess: int, most: int) -> int | None:
    """Return the fewest replicas for which `holds` is true, searched from a guess; None if even `most` fail.

    Examples
    --------
    >>> [_fewest(lambda n: n >= 7, least, guess, 64) for least, guess in ((1, 1), (5, 9), (7, 7))]
    [7, 7, 7]
    >>> _fewest(lambda n: False, 1, 3, 10) is None
    True
    >>> _fewest(lambda n: bool(print(n, end=" ")) or n >= 3, 1, 1, 64)
    1 2 3 3
    >>> tries = iter(range(8))  # it asks a few times, even where the guess is just below
    >>> _fewest(lambda n: next(tries) < 8 and n >= 19, 1, 16, 64)
    19
    """
    low, high = least - 1, min(max(guess, least), most)
    while not holds(high):
        low = high
        if low >= most:
            return None
        high = min(max(low + 1, low * 5 // 4), most)
    while high - low > 1:
        middle = max((low + high) // 2, high - max(high // 8, 1))
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
