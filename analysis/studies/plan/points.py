"""What is planned, and one candidate at a number of copies: simulated, held against the level, and valued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....devices.spec import SystemSpec
from ....simulator.scenario import Scenario
from ....workloads.errors import InputError
from ....workloads.requests.options import check_real
from ...answers.bases import NONE, Bases, bases_of
from ...answers.carbon import gco2
from ...answers.interval import Interval
from ...answers.price import Worth, worth_of
from ...answers.ranges import Ranges
from ...answers.simulate import Simulation, simulate
from ..loads import judged, too_long
from .candidates import Axes, Candidate

GOALS = ("devices", "cost", "energy", "carbon")
Value = tuple[float, ...]
"""What a plan makes small: the goal first, then what decides between equals."""
WORST: Value = (float("inf"),)


@dataclass(frozen=True, slots=True)
class Task:
    """What every candidate is asked.

    Attributes
    ----------
    scenario : Scenario
        Without system, layout and load.
    load : mapping of str to float
        The option that sets the load, empty where the trace's own is kept.
    load_per_s : float
    level : mapping of str to float
    goal : str
        One of `GOALS`.
    budget : float or None
        Most dollars an hour.
    most_devices : int
    axes : Axes
    """

    scenario: Scenario
    load: Mapping[str, Any]
    load_per_s: float
    level: Mapping[str, float]
    goal: str
    budget: float | None
    most_devices: int
    axes: Axes

    def run(self, candidate: Candidate, copies: int, folder: Path, **more: Any) -> Simulation:
        """Serve the load with some copies of a candidate."""
        return simulate(
            candidate.scenario(self.scenario.changed(**self.load), folder, copies), **more
        )

    def most_copies(self, system: SystemSpec) -> int:
        """Copies of a system that devices and budget allow."""
        devices = system.nodes * system.devices_per_node
        most, price = self.most_devices // devices, system.device.price_USD_per_hour
        if self.budget is not None and price:
            most = min(most, int(self.budget / (price * devices) * (1 + 1e-12)))
        return most

    def usd_per_hour(self, system: SystemSpec, copies: int) -> float | None:
        """Price of all devices; None where they have none."""
        price = system.device.price_USD_per_hour
        return None if price is None else price * copies * system.nodes * system.devices_per_node

    def value(self, devices: int, usd_per_hour: float | None, joules: float) -> Value:
        """What is to be small of so many devices."""
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
    candidate : Candidate
    system : str
    copies, devices : int
    usd_per_hour, output_tokens_per_s : float or None
    worth : Worth
        What deployments are judged by, dollars and joules a token among it.
    gco2_per_token : float or None
        Carbon of the energy, where the grid's intensity is given [g].
    figures : mapping of str to float or None
        The latencies of the level, by name [s].
    missed : tuple of str
        Limits that are exceeded; empty where the level is met.
    ttft, tpot, cost : Interval or None
        Factors on these figures, see `answers.interval`.
    bases : Bases
    rests_on : str
        What the figures rest on, with errors, in a sentence.
    ranges : Ranges or None
        What of it is priced out of range.
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
    ttft: Interval | None = None
    tpot: Interval | None = None
    cost: Interval | None = None
    bases: Bases = NONE
    rests_on: str = ""
    ranges: Ranges | None = None

    @property
    def joules_per_token(self) -> float | None:
        return self.worth.joules_per_token

    def worst(self, level: Mapping[str, float]) -> float:
        """Largest quotient of a latency and its limit; infinite where the queue grows."""
        if "load" in self.missed:
            return float("inf")
        return max((self.figures[name] or 0.0) / most for name, most in level.items())

    def misses(self, level: Mapping[str, float]) -> str:
        """What is exceeded, in words."""
        return too_long(self.missed, self.figures, level, "{name} {value}, {over:.0%} too long")


def point_of(
    task: Task, candidate: Candidate, system: SystemSpec, copies: int, folder: Path
) -> Point:
    """Simulate some copies of a candidate under the load."""
    made = task.run(candidate, copies, folder)
    run, sure = made.run, made.intervals
    rate = run.output_tokens_per_s
    tried = judged(run, task.load_per_s, task.level)
    worth = worth_of(run, made.scenario)
    return Point(
        candidate, system.name, copies, copies * candidate.devices,
        task.usd_per_hour(system, copies), rate, worth,
        gco2(worth.joules_per_token, task.scenario.grid_gCO2_per_kWh),
        tried.figures, tried.missed, None if sure is None else sure.ttft,
        None if sure is None else sure.tpot, None if sure is None else sure.cost,
        bases_of(run.deployment), made.rests_on(), made.ranges,
    )  # fmt: skip


def check_goal(scenario: Scenario, goal: str, budget: float | None) -> None:
    """Refuse a goal that is unknown or cannot be told.

    Raises
    ------
    InputError
        An unknown goal, a budget that is no positive number, or carbon without a grid.
    """
    if goal not in GOALS:
        raise InputError("--goal", f"must be one of {', '.join(GOALS)}, not {goal!r}")
    if budget is not None:
        check_real(budget, "--budget", 1e-6, 1e12)
    if goal == "carbon" and scenario.grid_gCO2_per_kWh is None:
        raise InputError("--goal carbon", "needs --grid-gCO2-per-kWh: no grid is assumed")
