"""The task of a plan, and one candidate at a number of replicas: simulated, compared with the SLO, and valued."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....devices.spec import SystemSpec
from ....simulator.frameworks.launch import Room
from ....simulator.scenario import Scenario
from ....simulator.scenario.build import Made, deployment_of
from ....simulator.scenario.play import run_scenario
from ....simulator.serving.growing import Growing
from ....simulator.serving.record import Run
from ....workloads.errors import InputError
from ....workloads.requests.options import check_real
from ...answers.bases import NONE, Bases, bases_of
from ...answers.carbon import gco2
from ...answers.interval import MEDIAN
from ...answers.price import Worth, costs_of, price_of, worth_of
from ...answers.ranges import Ranges, is_measured
from ...answers.run_interval import RunIntervals
from ...answers.simulate import simulation_of
from ...answers.started import room_of
from ...show.text import Rows
from ..backlog import FullRate, full_rate, least_rate
from ..loads import judged, too_long
from ..probes import sampled
from ..stationary import GLANCE, counted, decide
from ..variants import Axes
from .candidates import Candidate

GOALS = ("devices", "cost", "energy", "carbon")
Value = tuple[float, ...]
"""What a plan makes small: the goal first, then what decides between equals."""
ANY = Room()
MOST_REQUESTS = 16_000
"""Maximum requests of a simulation; an undecided one counts as failed."""
WORST: Value = (float("inf"),)
PACED = 0.9
"""Share of the requests that is served in the time that they come in where none wait ever longer."""
OPEN, BEATEN = ("open",), ("beaten",)
"""Reasons without a decision: undecided, or another candidate is known to be better."""


@dataclass(frozen=True, slots=True)
class Look:
    """Settings of the runs of a point.

    Attributes
    ----------
    slow : float
        How many times as long steps take as predicted.
    most : int
        Requests of a run at most.
    probe : bool
        Whether equal layers share samples of expert loads, see `probes`.
    whole : bool
        Whether the point is reported, with evidence and intervals. The first run within the limits is then enough,
        because a probe has decided.
    """

    slow: float = 1.0
    most: int = MOST_REQUESTS
    probe: bool = False
    whole: bool = False


@dataclass(slots=True)
class TrialBench:
    """Where candidates are tried: engines' files, and what each is deployed as, once for all loads and copies."""

    folder: Path
    made: dict[Candidate, Made] = field(default_factory=dict)
    probes: dict[Candidate, Made] = field(default_factory=dict)
    full: dict[tuple[Candidate, str], FullRate | None] = field(default_factory=dict)

    def deployed(self, candidate: Candidate, asked: Scenario, probe: bool = False) -> Made:
        """Return the deployment of a candidate, independent of the load."""
        if candidate not in self.made:
            self.made[candidate] = deployment_of(asked)
        if probe and candidate not in self.probes:
            self.probes[candidate] = sampled(self.made[candidate])
        return (self.probes if probe else self.made)[candidate]

    def full_rates(self, candidate: Candidate, asked: Scenario, copies: int) -> Iterator[FullRate]:
        """Yield the service rate of N replicas with a backlog: a lower bound first, then the measured rate."""
        for measure in (least_rate, full_rate):
            key = candidate, measure.__name__
            if key not in self.full:
                self.full[key] = measure(asked, None if candidate.pools else self.deployed(candidate, asked))
            known = self.full[key]
            if known is not None:
                yield known.of(copies)

    def run(self, candidate: Candidate, asked: Scenario, *, probe: bool = False, **how: Any) -> Run:
        """Serve a scenario of a candidate."""
        made = None if candidate.pools else self.deployed(candidate, asked, probe)
        try:
            return run_scenario(asked, made=made, **how)
        finally:  # a run ends in rings of large arrays; what is older is not looked at again
            gc.collect()
            gc.freeze()


@dataclass(frozen=True, slots=True)
class PlanTask:
    """What every candidate is asked.

    Attributes
    ----------
    scenario : Scenario
        Without system, layout and load.
    load : mapping of str to float
        The option that sets the load, empty where the trace's own is kept.
    goal : str
        One of `GOALS`.
    budget : float or None
        Most dollars an hour.
    sure : float or None
        Required probability of meeting the SLO; the median of the evidence without it.
    quick : bool
        Whether the search's own runs are enough.
    """

    scenario: Scenario
    load: Mapping[str, Any]
    load_per_s: float
    level: Mapping[str, float]
    goal: str
    budget: float | None
    most_devices: int
    axes: Axes
    sure: float | None = None
    quick: bool = False

    def asked(self, candidate: Candidate, copies: int, bench: TrialBench, requests: int, slow: float = 1.0) -> Scenario:
        """The load, `slow` times as fast, on some copies of a candidate."""
        load = self.load
        if slow != 1.0:
            load = {n: x * slow for n, x in (load or {"rate_scale": 1.0}).items()}
        return candidate.scenario(self.scenario.changed(**load, requests=requests), bench.folder, copies)

    @property
    def requests(self) -> int:
        """Fewest requests of a simulation."""
        asked = self.scenario.workload.requests
        assert asked is not None
        return counted(asked) if self.grows else asked

    @property
    def grows(self) -> bool:
        """Whether longer runs are of the same load; see `stationary.decide`."""
        return "rate" in self.load

    def at(self, slow: float) -> Mapping[str, float]:
        """Limits of the SLO by the clock of a system whose steps are `slow` times as long."""
        return {n: most / slow for n, most in self.level.items()}

    def most_copies(self, system: SystemSpec, devices: int) -> int:
        """Return the replicas of N devices that the devices and the budget allow."""
        most, price = self.most_devices // devices, price_of(system.device, self.scenario)
        if self.budget is not None and price:
            most = min(most, int(self.budget / (price * devices) * (1 + 1e-12)))
        return most

    def usd_per_hour(self, system: SystemSpec, devices: int) -> float | None:
        """Return the cost of N devices, without the power of owned ones; None without a price."""
        price = price_of(system.device, self.scenario)
        return None if price is None else price * devices

    def value(self, devices: int, usd_per_hour: float | None, joules: float) -> Value:
        """Return the value to minimise for N devices."""
        usd = float("inf") if usd_per_hour is None else usd_per_hour
        if self.goal == "devices":
            return devices, usd, joules
        if self.goal == "cost":
            return usd, devices, joules
        return joules, devices, usd


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate with some copies, simulated.

    Attributes
    ----------
    worth : Worth
        What deployments are judged by, dollars and joules a token among it.
    gco2_per_token : float or None
        Carbon of the energy, where the grid's intensity is given [g].
    figures : mapping of str to float or None
        The latencies of the SLO, by name [s].
    missed : tuple of str
        Exceeded limits; "open" if undecided; empty if the SLO is met.
    requests : int
        Of the run.
    served : float
        Requests that are served in the time that they come in, as a share of them.
    sure : RunIntervals or None
        Factors on the values, see `answers.interval`.
    evidence : sequence of dict
        Evidence of the values, see `answers.evidence`.
    ranges : Ranges or None
        The part of it that is out of range.
    room : Room
        What the engine made room for.
    """

    candidate: Candidate
    system: str
    copies: int
    devices: int
    usd_per_hour: float | None
    output_tokens_per_s: float | None
    worth: Worth
    gco2_per_token: float | None
    figures: Mapping[str, float | None]
    missed: tuple[str, ...]
    requests: int
    served: float = 1.0
    sure: RunIntervals | None = None
    bases: Bases = NONE
    evidence: Rows = ()
    ranges: Ranges | None = None
    room: Room = ANY

    @property
    def joules_per_token(self) -> float | None:
        return self.worth.joules_per_token

    @property
    def measured(self) -> bool:
        """Return whether most of its time is in the range of measurements, or of models without any."""
        return is_measured(self.ranges)

    def worst(self, level: Mapping[str, float]) -> float:
        """Largest quotient of a latency and its limit; infinite where the queue grows."""
        if "load" in self.missed:
            return float("inf")
        return max((self.figures[name] or 0.0) / most for name, most in level.items())

    def paces(self, level: Mapping[str, float]) -> float:
        """The same where requests wait ever longer, of what does not wait for a place: the times between tokens."""
        if "load" not in self.missed and self.served > PACED:
            return self.worst(level)
        steps = {name: most for name, most in level.items() if not name.startswith(("ttft", "e2e"))}
        return max(((self.figures[name] or 0.0) / most for name, most in steps.items()), default=1.0)

    def misses(self, level: Mapping[str, float]) -> str:
        """Return the exceeded limits as text."""
        if self.missed == OPEN:
            return f"cannot be decided after {self.requests:,} requests"
        return too_long(self.missed, self.figures, level, "{name} {value}, {over:.0%} too long")


def point_of(
    task: PlanTask, candidate: Candidate, system: SystemSpec, copies: int, bench: TrialBench,
    look: Look = Look(), grown: Growing | None = None,  # frozen
) -> Point:  # fmt: skip
    """Simulate some copies of a candidate under the load until it is decided whether they hold it.

    Where all steps are `slow` times as long, everything that happens takes as much longer: by a clock
    that runs as much slower the same happens under as much more load, within limits as much shorter.
    """
    devices, slow = copies * candidate.devices, look.slow

    def enough(run: Run) -> bool:
        return look.whole and not judged(run, task.load_per_s, task.level).missed

    def asked(count: int) -> Scenario:
        return task.asked(candidate, copies, bench, count, slow)

    if task.grows and look.most > GLANCE:
        grown = grown or Growing()
    decision = decide(
        lambda count: bench.run(candidate, asked(count), probe=look.probe, grown=grown),
        task.load_per_s * slow, task.at(slow), task.requests, grows=task.grows, most=look.most,
        enough=enough, full=lambda: bench.full_rates(candidate, task.asked(candidate, 1, bench, task.requests), copies),
    )  # fmt: skip
    run, tried = decision.run, decision.tried
    unsure = OPEN if tried.open and not enough(run) else ()
    made = simulation_of(asked(tried.requests), run) if look.whole else None
    rate, worth = run.output_tokens_per_s, worth_of(run, asked(tried.requests))
    price = costs_of(run, asked(tried.requests), rate)["device_usd_per_hour"]
    return Point(
        candidate, candidate.unit(system.name), copies, devices,
        None if price is None else price * devices, rate, worth,
        gco2(worth.joules_per_token, task.scenario.grid_gCO2_per_kWh),
        {n: None if x is None else x * slow for n, x in tried.figures.items()},
        tried.missed or unsure, tried.requests,
        min(paced(run), (tried.full_per_s or float("inf")) / (task.load_per_s * slow)),
        *(() if made is None else (made.intervals, bases_of(run.deployment), tuple(made.evidence),
                                   made.ranges, room_of(asked(tried.requests), run))),
    )  # fmt: skip


def predicted(task: PlanTask, candidate: Candidate, system: SystemSpec, copies: int, bench: TrialBench) -> Point:
    """Return the point with steps as long as predicted, from one run: by its energy candidates are compared."""
    return point_of(task, candidate, system, copies, bench, Look(most=task.requests, probe=True))


def slow_of(task: PlanTask, candidate: Candidate, copies: int, bench: TrialBench) -> float:
    """How many times as long steps are with the plan's chance, at least as long as predicted.

    Run a short simulation with the fewest replicas that bounds allow.
    """
    count = GLANCE if task.grows else task.requests
    asked = task.asked(candidate, copies, bench, count)
    sure = simulation_of(asked, bench.run(candidate, asked, probe=True)).intervals
    known = sure is not None and len(sure.slowdowns) > 0
    return max(sure.slow(task.sure or MEDIAN), 1.0) if sure is not None and known else 1.0


def paced(run: Run) -> float:
    """Requests that are served in the time that they come in, as a share: what waits is served behind it."""
    r = run.requests
    came, first = float(np.ptp(r.arrival_s)), float(r.arrival_s.min())
    took = float(r.last_token_s.max()) - first - float((r.last_token_s - r.scheduled_s).mean())
    return came / took if took > came else 1.0


def check_goal(scenario: Scenario, goal: str, budget: float | None) -> None:
    """Refuse a goal that is unknown or undecidable.

    Raises
    ------
    InputError
        If the goal is unknown, the budget is not positive, or carbon has no grid.
    """
    if goal not in GOALS:
        raise InputError("--goal", f"must be one of {', '.join(GOALS)}, not {goal!r}")
    if budget is not None:
        check_real(budget, "--budget", 1e-6, 1e12)
    if goal == "carbon" and scenario.grid_gCO2_per_kWh is None:
        raise InputError("--goal carbon", "needs --grid-gCO2-per-kWh: no grid is assumed")
