"""`opbyte capacity`: the highest load that meets an SLO, and its limit.

Load is in requests/s. The arrival times of a trace are scaled; otherwise arrivals are a Poisson (or gamma)
process. The search starts just below the service rate of full engines (`backlog`). It doubles or halves the load until one
load meets the SLO and a higher one exceeds it, then bisects on the logarithm. `stationary` decides each load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...simulator.fleet.growing import Growing
from ...simulator.option import flag_of
from ...simulator.scenario import Scenario
from ...simulator.scenario.build import deployment_of, run_scenario
from ...simulator.scenario.load import load
from ...workloads.errors import CapacityError, InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_count, check_real
from ..answers.bases import bases_of
from ..answers.identity import identity
from ..answers.interval import LEVEL, MEDIAN, SURE, Interval
from ..answers.limits import Limit, limit_of, pool_limit
from ..answers.price import costs_of, worth_of
from ..answers.replayed import dilates
from ..answers.run_interval import RunIntervals
from ..answers.simulate import Simulation, simulate, simulation_of
from ..answers.usual import as_usual, served_by
from ..parallel import OnProgress
from ..parallel.local import Workers
from ..parallel.study import Study
from ..show.kept import NOTHING, Kept
from ..show.text import show
from .backlog import full_rate
from .capacity_result import ByChance, Capacity, SystemCapacity
from .loads import ATTAINMENT, BACKLOG, Tried, knob_of, read_level, too_long
from .stationary import MOST_REQUESTS, StableLoad, counted, decide, settling
from .variants import Variant, laid_out, variants

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import ScenarioKeywords

DEFAULT_REQUESTS, MOST_OF_TRACE = 1000, 16_000
"""Minimum requests of a simulation, and default maximum for a trace."""
END, NEARER, LEAST, MOST_OF_ENDS = 1.1, 1.05, 0.1, 8000
"""For loads with slower steps: ratio of the bracketing loads at an end of the interval, and for a load by its probability;
the smallest share of the load that is tried; maximum requests of a run."""
MOST_STAGES = 16_000
"""Maximum requests of the run with kept stages, which determines the limiting resource."""
NEAR = 0.95
"""First load tried, as a share of the service rate of full engines."""
LOWEST, HIGHEST = 1 / 1024, 4096.0
"""Lowest and highest load tried, as multiples of the first load."""
SEARCHED = ("rate", "rate_scale", "closed_loop")
"""Options that the search sets."""


def capacity(
    model: Scenario | str | Path | ModelSpec,
    systems: Sequence[str | Path] | str | None,
    slo: str | Mapping[str, float],
    *,
    devices: int | None = None,
    tolerance: float = 0.02,
    search: str | None = None,
    workers: int | None = None,
    progress: OnProgress | None = None,
    kept: Kept = NOTHING,
    **options: Unpack[ScenarioKeywords],
) -> Capacity:
    """Find the highest load at which each system meets an SLO.

    Parameters
    ----------
    model : Scenario, or str, Path or ModelSpec
        The scenario of every simulation, without system and load, or its model.
    systems : sequence of str or Path, or str, optional
        Names or files, as a sequence or comma-separated text. ``prefill`` and ``decode`` among the options add one more
        system with these pools.
    slo : str or mapping of str to float
        For example ``ttft_p99=1,tbt_p99=0.05``: ttft, tbt, tpot or e2e, with mean or any percentile (p95, p99.9), and
        the limit in seconds; or attainment, the minimum share of requests that meet the SLO of their class.
    devices : int, optional
        Devices of both pools together: every ratio of their systems with this total is tried.
    tolerance : float
        Load is found to this fraction.
    search : str, optional
        ``layouts``: try every layout of a system, as `plan` does, and return the best.
    workers : int, optional
        Number of processes; default: one per system, at most one per core.
    progress : callable, optional
        Called with (systems done, systems in all).
    kept : Kept
        Loads and systems that an earlier call finished; this call adds its own.
    **options
        Other options of `Scenario`, such as ``trace``, ``input_len`` or ``policy``. `requests` is the minimum of every
        simulation; for a trace the maximum, 16,000 by default. The default policy and GPU kernels are vLLM's.
    """
    level = read_level(slo)
    if "system" in options:
        raise InputError("--system", "cannot be used with capacity; use --systems")
    scenario = Scenario.of(model, **options)
    names = variants(systems, scenario, devices)
    if search is not None:
        names = laid_out(names, scenario, search)
    for name in SEARCHED:
        if scenario.option(name) is not None:
            raise InputError(flag_of(name), "is varied by the search; remove it")
    check_real(tolerance, "--tolerance", 1e-4, 1.0)
    from_trace = scenario.workload.trace is not None
    requests = scenario.workload.requests or (MOST_OF_TRACE if from_trace else DEFAULT_REQUESTS)
    check_count(requests, "--requests", 2)
    task = _Task(scenario.changed(requests=requests), level, tolerance, kept)
    answers = Study(partial(_search, task), workers=Workers(workers)).results(names, progress)
    ordered = tuple(answer[0] for answer in answers)
    if search is not None:
        ordered = best_of_each(ordered)
    return Capacity(answers[0][1], answers[0][2], level, ordered, tolerance)


def best_of_each(capacities: Sequence[SystemCapacity]) -> tuple[SystemCapacity, ...]:
    """Return for each system the layout with the highest load."""
    systems = dict.fromkeys(c.system for c in capacities)
    return tuple(
        max((c for c in capacities if c.system == name), key=lambda c: c.load_per_s or 0.0) for name in systems
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """The inputs that all systems of one search share: scenario, SLO and tolerance."""

    scenario: Scenario
    level: dict[str, float]
    tolerance: float
    kept: Kept

    def known(self, system: Variant, *what: Any) -> list[Any]:
        """Return all inputs, without the code, that one system's search depends on: the key of a stored part."""
        if not self.kept:
            return []
        options = {known.name: value for known, value in self.scenario.given()}
        variant_options = {n: x for n, x in system.options.items() if n not in ("pools", "apart")}
        options |= {"model": self.scenario.model, **variant_options}
        return [options, identity(options), self.level, self.tolerance, *what]

    def asked(self, system: Variant, **changes: Any) -> Scenario:
        """Return the scenario on a system, with some of its options changed."""
        return as_usual(self.scenario.changed(**system.options, **changes))

    def run(self, system: Variant, **changes: Any) -> Simulation:
        """Simulate the scenario on a system, with some of its options changed."""
        return simulate(self.asked(system, **changes))


Answer = tuple[SystemCapacity, str, str]
"""A system's capacity, with the names of model and workload."""


def _search(task: _Task, system: Variant) -> Answer:
    """Return the capacity of one system; a model that does not fit its memory gives a result without a load."""
    try:
        known = task.known(system, "capacity")
        return task.kept.once(known, partial(_searched, task, system))
    except CapacityError as error:  # the result is then a system without a load
        assert task.scenario.model is not None
        model, where = load(task.scenario.model, system.systems[-1])
        system_capacity = SystemCapacity(
            system.name or where.name,
            system.devices,
            error.reason,
            where,
            limit=Limit("memory capacity", 1.0, str(error)),
        )
        return system_capacity, model.name, str(task.scenario.workload.trace or "the workload")


def _searched(task: _Task, system: Variant) -> Answer:
    """Return the highest load of one system that meets the SLO, and the reason why the next higher one does not."""
    knob, unit = knob_of(task.scenario)
    tried: dict[float, Tried] = {}
    within: dict[float, Simulation] = {}
    several = "pools" in system.options or task.scenario.parts.asks("two-pools")
    made = None if several else deployment_of(task.asked(system))
    grows, requests = knob == "rate", task.scenario.workload.requests or DEFAULT_REQUESTS
    begin, settles_s = settling(task.asked(system))

    def settled(rate: float) -> int:  # warm-up requests until autoscalers settle
        return max(ceil(settles_s * rate) if grows else 0, task.scenario.warmup or 0)

    def at(rate: float) -> dict[str, Any]:
        return {knob: rate / unit, **begin, "warmup": settled(rate) or None}

    def decided(rate: float, level: Mapping[str, float], most: int | None = None) -> StableLoad:
        grown, few = Growing() if grows else None, 2 * settled(rate)
        return decide(
            lambda count: run_scenario(task.asked(system, requests=count, **at(rate)), made=made, grown=grown),
            rate, level, max(requests, few), grows=grows, most=max(most or MOST_REQUESTS, counted(few)) if few else most,
            full=lambda: [] if full is None else [full],
        )  # fmt: skip

    def at_rate(rate: float) -> Tried:
        decision = decided(rate, task.level)
        trial, asked = decision.tried, task.asked(system, requests=decision.tried.requests, **at(rate))
        if trial.holds:
            within.clear()  # each load that passes is higher than the earlier ones
            within[rate] = simulation_of(asked, decision.run)
        return replace(trial, worth=worth_of(decision.run, asked))

    def passes(rate: float) -> bool:
        tried[rate] = task.kept.once(task.known(system, "load", rate), partial(at_rate, rate))
        return tried[rate].holds

    full = full_rate(task.asked(system, **at(1.0)), made)
    start = NEAR * full.per_s if full else unit
    low, high = highest(passes, tried, start, task.tolerance, full.per_s if full else None)
    best = None
    if low is not None:  # an earlier call may have tried it: it is then simulated once more
        best = within.get(low) or task.run(system, requests=tried[low].requests, **at(low))
    limit = None
    if high is None:
        reason = f"still within the SLO at {low:g} requests/s, the highest load tried"
    elif tried[high].missed:
        few = min(tried[high].requests, max(MOST_STAGES, 2 * settled(high)))
        missed = tried[high].missed
        asked = full.asked if full and missed == (BACKLOG,) else task.asked(system, requests=few, **at(high))
        failing = run_scenario(asked, keep_stages=True)
        missed_level = {n: x for n, x in task.level.items() if n in missed}
        limit = (pool_limit if "two-pools" in failing.parts else limit_of)(failing, missed_level)
        reason = _reason(tried[high], task.level, limit, low is None)
    else:
        reason = _undecided(tried[high], low)
    ordered = tuple(sorted(tried.values(), key=lambda t: t.load_per_s))
    sure = _sure(task.level, best, ordered, partial(decided, most=MOST_OF_ENDS))
    shown = best or task.run(system, requests=max(requests, 2 * settled(min(tried))), **at(min(tried)))
    return _answer(shown, best, low, high, limit, reason, ordered, sure)


def _sure(
    level: Mapping[str, float], best: Simulation | None, tried: Sequence[Tried],
    decided: Callable[[float, Mapping[str, float]], StableLoad],
) -> tuple[Interval | None, dict[float, ByChance]]:  # fmt: skip
    """Return factors on the highest load, and loads by probability.

    If a run has options with absolute times, or the SLO is attainment, the factors are those on 1 / step time.
    """
    if best is None or best.intervals is None:
        return None, {}
    sure = best.intervals
    if ATTAINMENT in level or not dilates(best.scenario, best.run):
        return sure.step.inverse, {}
    load, known = max(t.load_per_s for t in tried if t.holds), list(tried)

    def again(load: float, limits: Mapping[str, float]) -> Tried:
        return decided(load, limits).tried

    interval = ends(known, load, level, sure, again)
    slow = {chance: max(sure.slow(chance), 1.0) for chance in (MEDIAN, SURE)}
    return interval, {q: ByChance(r, load * share_at(known, load, level, r, again, NEARER)) for q, r in slow.items()}


def _answer(
    shown: Simulation, best: Simulation | None, low: float | None, high: float | None,
    limit: Limit | None, reason: str, tried: tuple[Tried, ...], sure: tuple[Interval | None, dict[float, ByChance]],
) -> Answer:  # fmt: skip
    """Return the result, with the values at the highest load that meets the SLO."""
    where = shown.run.deployment.system
    rate = best.run.output_tokens_per_s if best else None
    price = costs_of(shown.run, shown.scenario, rate)
    system_capacity = SystemCapacity(
        system=where.name, devices=int(price["devices"] or 0), load_per_s=low,
        next_load_per_s=high, output_tokens_per_s=rate,
        joules_per_token=best.run.joules_per_token if best else None,
        usd_per_million_tokens=price["usd_per_million_tokens"],
        limit=limit, reason=reason, tried=tried,
        spec=where, sources=shown.sources, evidence=shown.evidence,
        bases=bases_of(shown.run.deployment), served=served_by(shown.run, shown.scenario),
        window=best.run.window if best else None, held=sure[0], by_chance=sure[1],
        ranges=best.ranges if best else None,
    )  # fmt: skip
    return system_capacity, shown.run.deployment.model.name, shown.run.workload


def ends(
    tried: list[Tried], load: float, level: Mapping[str, float], sure: RunIntervals,
    again: Callable[[float, Mapping[str, float]], Tried],
) -> Interval:  # fmt: skip
    """Return the interval of factors on a load, from the fastest and slowest steps of the step time's interval.

    A system with steps `r` times as long sustains `1 / r` of the load that the simulated one sustains within `1 / r` of
    the SLO. Earlier loads bracket it, and `again` runs the missing ones.
    """
    shares = [share_at(tried, load, level, sure.slow(q), again) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    return Interval(min(1.0, *shares), max(1.0, *shares), LEVEL)


def share_at(
    known: list[Tried], load: float, level: Mapping[str, float], r: float,
    again: Callable[[float, Mapping[str, float]], Tried], near: float = END,
) -> float:  # fmt: skip
    """Return the share of a load that meets the SLO with steps `r` times as long; new runs are appended to `known`."""
    if r == 1.0:
        return 1.0
    tightened = {name: most / r for name, most in level.items()}
    while True:
        holds = [t.load_per_s for t in known if t.holds_within(tightened)]
        low = max(holds, default=0.0)
        high = min((t.load_per_s for t in known if t.load_per_s > low), default=None)
        least = min(t.load_per_s for t in known)
        if high is None or (low and high / low <= near) or (not low and least < load * LEAST):
            share = low / r / load
            return min(share, 1.0) if r > 1.0 else share  # an undecided load above may be within the limits, too
        known.append(again((low * high) ** 0.5 if low else least / 2, tightened))


def _bracket(
    passes: Callable[[float], bool], start: float, most: float | None = None
) -> tuple[float | None, float | None]:
    """Return a passing load and a failing load of at most twice the passing one; None for a missing one.

    Parameters
    ----------
    most : float, optional
        A load that is known to fail.
    """
    load = float(f"{start:.6g}")
    passing = passes(load)
    if passing and most is not None:
        passes(above := float(f"{most:.6g}"))
        return load, above
    while passing and load < start * HIGHEST:
        if not passes(2 * load):
            return load, 2 * load
        load *= 2
    if passing:
        return load, None
    while load > start * LOWEST:
        load /= 2
        if passes(load):
            return load, 2 * load
    return None, load


def highest(
    passes: Callable[[float], bool], tried: Mapping[float, Tried], start: float, tolerance: float,
    most: float | None = None,
) -> tuple[float | None, float | None]:  # fmt: skip
    """Return the highest load that passes and the lowest failing load above it; `passes` adds runs to `tried`.

    A looser SLO never gives a lower load: the sequence of loads is the same until one passes, and then only rises.
    """
    low, high = _bracket(passes, start, most)
    while low is not None and high is not None and high / low > 1 + tolerance:
        middle = float(f"{(low * high) ** 0.5:.6g}")
        if middle in (low, high):
            break
        low, high = (middle, high) if passes(middle) else (low, middle)
    if low is not None and high is not None and tried[high].open:
        passes(float(f"{low * (1 + tolerance) ** 2 * (1 - 1e-6):.6g}"))  # a higher load that may be decided
    return low, _surely(tried, low, high, tolerance)


def _surely(tried: Mapping[float, Tried], low: float | None, high: float | None, tolerance: float) -> float | None:
    """Return the lowest load that surely exceeds the SLO, if it is within twice the tolerance of a sustained one.

    Otherwise return `high`, which may be undecided.
    """
    surely = min((load for load, t in tried.items() if t.missed), default=None)
    if low is None or high is None or surely is None or surely > low * (1 + tolerance) ** 2:
        return high
    return surely


def _undecided(tried: Tried, low: float | None) -> str:
    """Return the undecided loads as text."""
    holds = "" if low is None else f"{show(low)} requests/s is sustained; "
    what = " and ".join("the queue" if n == "load" else n.replace("_", " ") for n in tried.open)
    return (
        f"{'not decided: ' if low is None else ''}{holds}at {show(tried.load_per_s)} {what} cannot be decided after "
        f"{tried.requests:,} requests"
    )


def _reason(tried: Tried, level: Mapping[str, float], limit: Limit, none: bool) -> str:
    if tried.missed == (BACKLOG,):
        filled = "the KV cache is full" if limit.resource == "KV capacity" else "all engines are full"
        return (
            f"{show(tried.load_per_s)} requests/s are within the limits until {filled}; from then on "
            f"only {show(tried.full_per_s)} requests/s are sure to be served: not sustained ({limit.why})"
        )
    text = too_long(tried.missed, tried.figures, level, "{name} is {value}, {over:.1%} too long")
    even = "even at " if none else "at "
    return f"{even}{show(tried.load_per_s)} requests/s {text}: {limit.why}"
