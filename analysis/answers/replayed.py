"""Intervals near saturation, from simulations of both ends of the interval.

A system with steps `r` times as long behaves like the simulated one with `r` times the load and a clock `r` times as
fast. Below saturation the formula of `interval` is close; if it gives more than `STEEP`, both ends are simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...simulator.results.record import Run
from ...simulator.scenario import Scenario
from ...simulator.scenario.build import run_scenario
from .interval import LEVEL, Interval, beyond_steps
from .run_interval import RunIntervals, end_to_end

MOST_REPLICAS, MOST_REQUESTS = 64, 50_000
"""Maximum replicas and requests of a run at an end of the interval; ratios of means need no more."""
STEEP = 1.2
"""Both ends are simulated if the high factor of TPOT is at least this times the high factor of the step time, because the
formula is then not exact enough."""
FIXED = (
    "autoscale", "fail", "mtbf", "classes", "kv_tiers", "images", "duration", "turns", "think",
    "rate_profile", "since", "trace",
)  # fmt: skip
"""Options with absolute times, which do not scale with the clock."""


def replayed(
    scenario: Scenario, run: Run, intervals: RunIntervals | None, play: Callable[[Scenario], Run] = run_scenario
) -> RunIntervals | None:
    """Return the intervals; near saturation of an open loop of one pool their ends are simulated."""
    rate = scenario.workload.rate
    if (
        intervals is None
        or rate is None
        or not dilates(scenario, run)
        or intervals.tpot.high < STEEP * intervals.step.high
    ):
        return intervals
    slow = [intervals.slow(q) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    part = _part(scenario, rate)
    run, rate = (run, rate) if part is scenario else (play(part), part.workload.rate or rate)
    ends = [play(part.changed(rate=rate * r)) for r in slow]
    tpot, first, served = (
        Interval(min(1.0, *factors), max(1.0, *factors), LEVEL)
        for what in ("tpot_s", "ttft_s", "")
        for factors in [[_factor(end, run, r, what) for end, r in zip(ends, slow, strict=True)]]
    )
    first = beyond_steps(first, intervals.waiting)
    waits = (run.ttft_s.mean or 0.0) / (run.e2e_s.mean or 1.0)
    return replace(intervals, tpot=tpot, ttft=first, throughput=served, e2e=end_to_end(first, tpot, waits))


def _part(scenario: Scenario, rate: float) -> Scenario:
    """Return the scenario, cut to `MOST_REPLICAS` replicas with the same load and to `MOST_REQUESTS` requests."""
    copies, requests = scenario.fleet.replicas, scenario.workload.requests
    some = None if copies is None else min(copies, MOST_REPLICAS)
    fewer = None if requests is None else min(requests, MOST_REQUESTS)
    if some == copies and fewer == requests:
        return scenario
    return scenario.changed(rate=rate * (some or 1) / (copies or 1), requests=fewer, replicas=some)


def dilates(scenario: Scenario, run: Run) -> bool:
    """Return whether slower steps have the same effect as a higher arrival rate and a slower clock."""
    plain = all(scenario.option(name) in (None, False, ()) for name in FIXED)
    return plain and not ("two-pools" in run.parts or run.window.overloaded)


def _factor(end: Run, run: Run, slow: float, what: str) -> float:
    """Return a value of a run with a slower clock as a factor on another run; the inverse for rates."""
    if not what:
        there, here = end.output_tokens_per_s, run.output_tokens_per_s
        return (there or 0.0) / slow / here if here else 1.0
    there, here = getattr(end, what).mean, getattr(run, what).mean
    if end.window.overloaded:
        return float("inf")
    return there * slow / here if there and here else 1.0
