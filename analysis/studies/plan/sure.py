"""Uncertainty of a plan: its replicas with slow steps, and its latencies at both ends of their intervals.

A system with steps `r` times as long behaves like the simulated one with `r` times the load and a clock `r` times as
fast. So both ends are simulated, and a queue that a slow end fills is seen to fill. Waiting outside of steps is not
included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from ....devices.spec import SystemSpec
from ...answers.interval import LEVEL, MEDIAN, SURE
from ..loads import BACKLOG
from .candidates import Candidate
from .points import Look, PlanTask, Point, TrialBench, point_of

MOST_AT_ENDS = 8000
"""Maximum requests of a run with slower steps; see `points.MOST_REQUESTS`."""


@dataclass(frozen=True, slots=True)
class Sure:
    """What a candidate needs and does where steps are slower or faster than predicted.

    Attributes
    ----------
    copies : mapping of float to (int or None)
        Fewest replicas that meet the SLO, by probability; None if no allowed number suffices.
    slow : mapping of float to float
        How many times as long steps are at most, by the same chance.
    ends : mapping of str to (float, float or None)
        Latencies at both ends of the 80 % interval [s]; None where the slow end is overloaded.
    """

    copies: Mapping[float, int | None]
    slow: Mapping[float, float]
    ends: Mapping[str, tuple[float, float | None]]


def chances(task: PlanTask) -> tuple[float, ...]:
    """Return the probabilities of a plan: the median, and the requested or default one."""
    return (MEDIAN, task.sure or SURE)


def sure_of(
    task: PlanTask, candidate: Candidate, system: SystemSpec, copies: int, most: int, bench: TrialBench
) -> tuple[Point, Sure | None, int]:
    """The best of a system as predicted, how sure it is, and how many simulations that took."""
    done: dict[tuple[int, float], Point] = {}

    def at(count: int, slow: float) -> Point:
        if (count, slow) not in done:
            done[count, slow] = (
                point_of(task, candidate, system, count, bench, Look(whole=True, probe=task.quick))
                if slow == 1.0
                else point_of(task, candidate, system, count, bench, Look(slow, MOST_AT_ENDS, probe=True))
            )
        return done[count, slow]

    best = at(copies, 1.0)
    known = best.sure
    if known is None or not known.slowdowns or task.quick:
        return best, None, len(done)
    asked_share = task.sure or MEDIAN
    slow = {share: max(known.slow(share), 1.0) for share in chances(task)}
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
    """Fewest copies that hold, near a guess; None where not even the most do.

    Examples
    --------
    >>> [_fewest(lambda n: n >= 7, least, guess, 64) for least, guess in ((1, 1), (5, 9), (7, 7))]
    [7, 7, 7]
    >>> _fewest(lambda n: False, 1, 3, 10) is None
    True
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
