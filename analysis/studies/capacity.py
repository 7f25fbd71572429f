"""`opbyte capacity`: the highest load within a service level, and what stands in the way of more.

Load is requests per second. A trace keeps its own arrivals, played faster or slower; lengths
alone get Poisson (or gamma) arrivals. The search runs whole simulations: it doubles the load
until the level is missed, then bisects on the logarithm down to the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from ...simulator.scenario import Scenario
from ...simulator.scenario.keywords import ScenarioKeywords
from ...simulator.scenario.load import load
from ...workloads.errors import CapacityError, InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.classes import without_bounds
from ...workloads.requests.options import check_count, check_real
from ..answers.bases import bases_of
from ..answers.identity import identity
from ..answers.limits import Limit, limit_of
from ..answers.pools import pool_limit
from ..answers.price import costs_of, worth_of
from ..answers.simulate import Simulation, simulate
from ..parallel import Told
from ..parallel.local import MAX_WORKERS, Crew, cores
from ..show.kept import NOTHING, Kept
from ..show.text import show
from .capacity_result import Capacity, Found
from .loads import Tried, judged, knob_of, too_long
from .service_level import read_level
from .variants import Variant, variants

DEFAULT_REQUESTS, MOST_REQUESTS = 1000, 16_000
"""Of every simulation; of the one whose rates are told, where rates do not settle before."""
PROBE_CLIENTS, PROBE_REQUESTS = 64, 256
"""Closed loop whose rate says where to begin: a quarter of it."""
LOWEST, HIGHEST = 1 / 1024, 4096.0
"""Loads tried at least and at most, as multiples of the first."""
SEARCHED = ("rate", "rate_scale", "closed_loop")
"""Options that the search sets."""


def capacity(
    model: Scenario | str | Path | ModelSpec,
    systems: Sequence[str | Path] | str | None,
    slo: str | Mapping[str, float],
    *,
    devices: int | None = None,
    tolerance: float = 0.02,
    workers: int | None = None,
    told: Told | None = None,
    kept: Kept = NOTHING,
    **options: Unpack[ScenarioKeywords],
) -> Capacity:
    """Find the highest load that each system serves within a service level.

    Parameters
    ----------
    model : Scenario, or str, Path or ModelSpec
        The scenario of every simulation, without system and load, or its model.
    systems : sequence of str or Path, or str, optional
        Names or files; one text may hold several, parted by commas. With ``prefill`` and ``decode``
        among the options their pools are one more, behind the others.
    slo : str or mapping of str to float
        For example ``ttft_p99=1,tbt_p99=0.05``: ttft, tbt, tpot or e2e, with mean, p50, p90 or
        p99, and the most seconds allowed; or attainment, the least share of requests that keep what their
        classes are promised.
    devices : int, optional
        Of both pools together: every number of their systems that makes so many is tried.
    tolerance : float
        Load is found to this fraction.
    workers : int, optional
        Processes; one a system, at most one a core, by default.
    told : callable, optional
        Told (systems done, systems in all).
    kept : Kept
        Loads and systems that an earlier call finished; those of this one are added.
    **options
        Other options of `Scenario`, such as ``trace``, ``input_len`` or ``policy``. `requests` are
        those of every simulation (of a trace, the first ones); 1,000 by default, and as many more
        at the load that is found as its rates need to settle.

    Returns
    -------
    Capacity

    Raises
    ------
    InputError
        Anything wrong with the arguments or files.
    """
    level = read_level(slo)
    if "system" in options:
        raise InputError("--system", "is one of --systems here")
    scenario = Scenario.of(model, **options)
    names = variants(systems, scenario, devices)
    for name in SEARCHED:
        if scenario.option(name) is not None:
            raise InputError(f"--{name.replace('_', '-')}", "is what the search sets")
    check_real(tolerance, "--tolerance", 1e-4, 1.0)
    asked = scenario.workload.requests is not None
    requests = scenario.workload.requests or DEFAULT_REQUESTS
    check_count(requests, "--requests", 2)
    task = _Task(scenario.changed(requests=requests), level, tolerance, asked, kept)
    if workers is None:
        workers = min(cores(), len(names))
    check_count(workers, "--workers", 1, MAX_WORKERS)
    found: dict[int, Answer] = {}
    with Crew(min(workers, len(names))) as crew:
        for i, answer in crew.run(partial(_search, task), names):
            found[i] = answer
            if told is not None:
                told(len(found), len(names))
    ordered = tuple(found[i][0] for i in range(len(names)))
    return Capacity(found[0][1], found[0][2], level, ordered, tolerance)


@dataclass(frozen=True, slots=True)
class _Task:
    """What all systems are asked."""

    scenario: Scenario
    level: dict[str, float]
    tolerance: float
    asked: bool  # whether the number of requests was asked for
    kept: Kept

    def known(self, system: Variant, *what: Any) -> list[Any]:
        """All that a part of one system's search depends on, besides the code."""
        if not self.kept:
            return []
        options = {known.name: value for known, value in self.scenario.given()}
        own = {
            name: value for name, value in system.options.items() if name not in ("pools", "apart")
        }
        options |= {"model": self.scenario.model, **own}
        return [options, identity(options), self.level, self.tolerance, self.asked, *what]

    def run(
        self, system: Variant, *, keep_stages: bool = False, **changes: Any
    ) -> Simulation:  # fmt: skip
        """Serve the scenario on a system, some of its options changed."""
        return simulate(self.scenario.changed(**system.options, **changes), keep_stages=keep_stages)

    def probe(self, system: Variant) -> Simulation:
        """A short closed loop, whose rate says where to begin."""
        few = min(self.scenario.workload.requests or PROBE_REQUESTS, PROBE_REQUESTS)
        timing: dict[str, Any] = dict.fromkeys(("warmup", "stop", "cv", "spread", "duration"))
        classes = self.scenario.workload.classes
        if classes is not None:  # a closed loop turns nobody away
            timing["classes"] = without_bounds(classes)
        return self.run(system, closed_loop=PROBE_CLIENTS, requests=few, **timing)


Answer = tuple[Found, str, str]
"""A system's capacity, with the names of model and workload."""


def _search(task: _Task, system: Variant) -> Answer:
    """Capacity of one system."""
    try:
        known = task.known(system, "capacity")
        return task.kept.once(known, partial(_searched, task, system))
    except CapacityError as error:  # a load that no system of this size can carry is an answer
        assert task.scenario.model is not None
        model, where = load(task.scenario.model, system.systems[-1])
        found = Found(
            system=system.name or where.name, devices=system.devices, load_per_s=None,
            next_load_per_s=None, output_tokens_per_s=None, joules_per_token=None,
            usd_per_million_tokens=None, limit=Limit("memory capacity", 1.0, str(error)),
            reason=error.reason, tried=(), spec=where, sources={}, evidence=(),
        )  # fmt: skip
        return found, model.name, str(task.scenario.workload.trace or "the workload")


def _searched(task: _Task, system: Variant) -> Answer:
    knob, unit = knob_of(task.scenario)
    tried: dict[float, Tried] = {}
    within: dict[float, Simulation] = {}

    def at(rate: float) -> dict[str, Any]:
        return {knob: rate / unit}

    def at_rate(rate: float) -> Tried:
        simulation = task.run(system, **at(rate))
        found = judged(simulation.run, rate, task.level)
        if not found.missed:
            within.clear()  # of the loads that pass, the last is the highest
            within[rate] = simulation
        return replace(found, worth=worth_of(simulation.run, simulation.scenario))

    def passes(rate: float) -> bool:
        tried[rate] = task.kept.once(task.known(system, "load", rate), partial(at_rate, rate))
        return not tried[rate].missed

    probe = task.probe(system)
    start = len(probe.run.requests.request_id) / probe.run.makespan_s / 4
    low, high = _bracket(passes, start)
    while low is not None and high is not None and high / low > 1 + task.tolerance:
        middle = float(f"{(low * high) ** 0.5:.6g}")
        if middle in (low, high):
            break
        low, high = (middle, high) if passes(middle) else (low, middle)
    best = None
    if low is not None:  # an earlier call may have tried it: it is then simulated once more
        found = within.get(low) or task.run(system, **at(low))
        best = _settled(task, system, found, at(low))
    limit = None
    if high is None:
        reason = f"still within the level at {low:g} requests/s, the highest load tried"
    else:
        failing = task.run(system, keep_stages=True, **at(high))
        missed = tried[high].missed
        missed_level = {n: x for n, x in task.level.items() if n in missed}
        limit = (pool_limit if failing.run.pools else limit_of)(failing.run, missed_level)
        reason = _reason(tried[high], task.level, limit, low is None)
    ordered = tuple(sorted(tried.values(), key=lambda t: t.load_per_s))
    return _answer(probe, best, low, high, limit, reason, ordered)


def _settled(
    task: _Task, system: Variant, found: Simulation, load: Mapping[str, Any]
) -> Simulation:
    """The same load over more requests, where so few as were taken by default never settle."""
    requests = task.scenario.workload.requests or DEFAULT_REQUESTS
    if task.asked or task.scenario.workload.trace is not None:
        return found
    while found.run.window.kind == "whole" and requests < MOST_REQUESTS:
        requests *= 2
        found = task.run(system, requests=requests, **load)
    return found


def _answer(
    probe: Simulation,
    best: Simulation | None,
    low: float | None,
    high: float | None,
    limit: Limit | None,
    reason: str,
    tried: tuple[Tried, ...],
) -> Answer:
    """What was found, with the figures of the highest load within the level."""
    shown = best or probe
    where = shown.run.deployment.system
    rate = best.run.output_tokens_per_s if best else None
    price = costs_of(shown.run, shown.scenario, rate)
    found = Found(
        system=where.name, devices=int(price["devices"] or 0), load_per_s=low,
        next_load_per_s=high, output_tokens_per_s=rate,
        joules_per_token=best.run.joules_per_token if best else None,
        usd_per_million_tokens=price["usd_per_million_tokens"],
        limit=limit, reason=reason, tried=tried,
        spec=where, sources=shown.sources, evidence=shown.evidence,
        bases=bases_of(shown.run.deployment), window=best.run.window if best else None,
        step=best.intervals.step if best and best.intervals else None,
        ranges=best.ranges if best else None,
    )  # fmt: skip
    return found, shown.run.deployment.model.name, shown.run.workload


def _bracket(passes: Callable[[float], bool], start: float) -> tuple[float | None, float | None]:
    """A load that passes and one that fails, a factor of two apart; None where there is none."""
    load = float(f"{start:.6g}")
    if passes(load):
        while load < start * HIGHEST:
            if not passes(2 * load):
                return load, 2 * load
            load *= 2
        return load, None
    while load > start * LOWEST:
        if passes(load / 2):
            return load / 2, load
        load /= 2
    return None, load


def _reason(tried: Tried, level: Mapping[str, float], limit: Limit, none: bool) -> str:
    told = too_long(tried.missed, tried.figures, level, "{name} is {value}, {over:.1%} too long")
    even = "even at " if none else "at "
    return f"{even}{show(tried.load_per_s)} requests/s {told}: {limit.why}"
