"""The task of a plan, and the values of one candidate at a number of replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....devices.spec import SystemSpec
from ....simulator.frameworks.launch import Room
from ....simulator.results.record import Run
from ....simulator.scenario import Scenario
from ....workloads.errors import InputError
from ....workloads.requests.options import check_real
from ...answers.bases import NONE, Bases
from ...answers.price import Worth, price_of
from ...answers.ranges import Ranges, is_measured
from ...answers.run_interval import RunIntervals
from ...show.text import Rows
from ..loads import too_long
from ..stationary import counted
from ..variants import Axes
from .candidates import Candidate
from .spares import Outages

GOALS = ("devices", "cost", "energy", "carbon")
Value = tuple[float, ...]
"""Value that a plan minimises, compared in order: the goal first, then the tie-breakers."""
ANY = Room()
WORST: Value = (float("inf"),)
PACED = 0.9
"""Minimum of `Point.served` at which the queue counts as stable."""
OPEN, BEATEN = ("open",), ("beaten",)
"""Values of `Point.missed` that are not exceeded limits: undecided, and worse than another candidate."""


@dataclass(frozen=True, slots=True)
class PlanTask:
    """Inputs that all candidates of a plan share: scenario, load, SLO, goal and limits.

    Attributes
    ----------
    scenario : Scenario
        Scenario without system, layout and load.
    load : mapping of str to float
        Option that sets the load; empty if a trace's arrival times are used.
    goal : str
        One of `GOALS`.
    budget : float or None
        Maximum cost [USD/h].
    sure : float or None
        Required probability of meeting the SLO; None for the median of the evidence.
    quick : bool
        Whether the result is taken from the runs of the search, without intervals.
    outages : Outages or None
        Failures of replicas, which need spare replicas; None without failures.
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
    outages: Outages | None = None

    def started(self, copies: int) -> int:
        """Return the replicas to start so that `copies` are up for the required share of time."""
        return copies if self.outages is None else self.outages.replicas(copies)

    @property
    def requests(self) -> int:
        """Return the minimum number of requests of a simulation."""
        asked = self.scenario.workload.requests
        assert asked is not None
        return counted(asked) if self.grows else asked

    @property
    def grows(self) -> bool:
        """Return whether a longer run has the same load; see `stationary.decide`."""
        return "rate" in self.load

    def at(self, slow: float) -> Mapping[str, float]:
        """Return the SLO's limits divided by `slow`, for systems whose steps are `slow` times as long."""
        return {n: most / slow for n, most in self.level.items()}

    def most_copies(self, system: SystemSpec, devices: int) -> int:
        """Return the maximum number of replicas, each of `devices` devices, within the device limit and the budget."""
        most, price = self.most_devices // devices, price_of(system.device, self.scenario)
        if self.budget is not None and price:
            most = min(most, int(self.budget / (price * devices) * (1 + 1e-12)))
        needed = most
        while needed > 0 and self.started(needed) > most:
            needed -= 1
        return needed

    def usd_per_hour(self, system: SystemSpec, devices: int) -> float | None:
        """Return the cost of N devices [USD/h], without electricity of owned devices; None if it is unknown."""
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

    def worth(self, point: Point) -> Value:
        """Return the value of a point."""
        return self.value(point.devices, point.usd_per_hour, point.joules_per_token or float("inf"))


@dataclass(frozen=True, slots=True)
class Point:
    """Simulated values of a candidate with a number of replicas.

    Attributes
    ----------
    worth : Worth
        Throughput, energy and cost metrics.
    gco2_per_token : float or None
        Carbon of a token's energy [gCO2]; None without the grid's carbon intensity.
    figures : mapping of str to float or None
        Latencies of the SLO by name [s].
    missed : tuple of str
        Exceeded limits; "open" if undecided; empty if the SLO is met.
    requests : int
        Number of simulated requests.
    served : float
        Share of the offered load that is served, at most 1; less if the queue grows.
    spares : int
        Replicas that are started in addition to `copies`; devices and cost include them.
    sure : RunIntervals or None
        Factors on the values, see `answers.interval`.
    evidence : sequence of dict
        Evidence of the values, see `answers.evidence`.
    ranges : Ranges or None
        The part of the run that is out of range.
    room : Room
        Limits to start the engine with.
    doubts : tuple of str
        Warnings of the simulation.
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
    spares: int = 0
    sure: RunIntervals | None = None
    bases: Bases = NONE
    evidence: Rows = ()
    ranges: Ranges | None = None
    room: Room = ANY
    doubts: tuple[str, ...] = ()

    @property
    def started(self) -> int:
        """Return the number of replicas, spares included."""
        return self.copies + self.spares

    @property
    def joules_per_token(self) -> float | None:
        return self.worth.joules_per_token

    @property
    def measured(self) -> bool:
        """Return whether most of the run's time is in the range of measurements, or of models without measurements."""
        return is_measured(self.ranges)

    def worst(self, level: Mapping[str, float]) -> float:
        """Return the largest ratio of a latency to its limit; infinite if the queue grows."""
        if "load" in self.missed:
            return float("inf")
        return max((self.figures[name] or 0.0) / most for name, most in level.items())

    def paces(self, level: Mapping[str, float]) -> float:
        """Return the largest ratio of a latency to its limit.

        If the queue grows, only times between tokens count, because TTFT then depends on the length of the run.
        """
        if "load" not in self.missed and self.served > PACED:
            return self.worst(level)
        steps = {name: most for name, most in level.items() if not name.startswith(("ttft", "e2e"))}
        return max(((self.figures[name] or 0.0) / most for name, most in steps.items()), default=1.0)

    def misses(self, level: Mapping[str, float]) -> str:
        """Return the exceeded limits as text."""
        if self.missed == OPEN:
            return f"cannot be decided after {self.requests:,} requests"
        return too_long(self.missed, self.figures, level, "{name} {value}, {over:.0%} too long")


def paced(run: Run) -> float:
    """Return the arrival time span over the time that serving takes, at most 1; less if a queue grows."""
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
