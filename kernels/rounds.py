"""Measurement of cases in rounds, using only rounds in which the machine was in its usual state.

The two cores of a virtual machine wander over the host: they are two threads of one core, cores that
share a path to memory, or cores with separate paths, for seconds at a time (arithmetic at 118, 235 and
235, reading at 27, 31 and 55 GB/s on a Zen 4 host). A kernel has another time in each of these
states. So every case is visited briefly in every round, between two readings of both rates, and the
visits in the state that the machine is in most of the time are those that count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .ceilings import MachineRates, rates
from .lab import Bench
from .timing import CallSeconds, TimedRuns, repeat

OnProgress = Callable[[int, int], None]
"""Called with the number of rounds that are done, and of all."""

CLOSE = 0.12
"""Largest relative distance of the rates of one state from their median."""


MOST = 60
"""Maximum undisturbed repetitions per visit."""
WARM_UP_S = 1e-3
"""Duration of the calls before the timed ones [s], because the rate readings leave no useful data in the caches."""


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """Times of a case in one round, with the machine's rates before and after."""

    times: TimedRuns
    before: MachineRates
    after: MachineRates

    @property
    def rates(self) -> MachineRates:
        return MachineRates.average([self.before, self.after])

    def within(self, usual: MachineRates) -> bool:
        """Return whether the machine was in the state `usual` both before and after."""
        return all(r.close_to(usual, CLOSE) for r in (self.before, self.after))


@dataclass(frozen=True, slots=True)
class TimedCase:
    """A case to be timed in each round.

    Attributes
    ----------
    run : callable
        ``run(i)`` computes with the i-th set of inputs.
    floor : callable
        Least seconds of a call at some rates of the machine.
    """

    run: Callable[[int], object]
    floor: Callable[[MachineRates], float]


@dataclass(frozen=True, slots=True)
class MeasuringPlan:
    """Durations and numbers of repetitions of a measurement.

    Attributes
    ----------
    rounds, most_rounds : int
        Rounds of all cases; and including further rounds of cases that lack undisturbed repetitions.
    enough : int
        Undisturbed repetitions in the usual state that a case should have.
    visit_s : float
        Seconds of a visit, unless it has fewer than `least` repetitions by then.
    budget_s : float
        No further round of those that lack repetitions begins after this.
    """

    rounds: int
    most_rounds: int
    enough: int
    visit_s: float
    budget_s: float
    least: int = 3


def usual(readings: Sequence[MachineRates]) -> MachineRates:
    """Return the machine's most frequent state: the median rates of the largest group of similar readings."""
    values = np.array([(r.read_Bps, r.fma_flops_per_s) for r in readings])
    near = (np.abs(values[:, None] / values[None] - 1.0) <= CLOSE).all(2)
    middle = np.median(values[near[:, near.sum(0).argmax()]], axis=0)
    return MachineRates(float(middle[0]), float(middle[1]))


def visit_all(
    work: Sequence[TimedCase], bench: Bench, plan: MeasuringPlan, progress: OnProgress | None = None
) -> tuple[list[list[RoundTimes]], MachineRates]:
    """Time every case in rounds; return its visits, and the machine's usual state."""
    visits: list[list[RoundTimes]] = [[] for _ in work]
    calls = [0] * len(work)
    readings: list[MachineRates] = []
    began = time.perf_counter()
    todo = list(range(len(work)))
    for number in range(plan.most_rounds):
        now = rates(bench)
        for i in todo:
            if progress and number < plan.rounds:
                progress(number * len(work) + i, plan.rounds * len(work))
            before = now
            times = repeat(
                work[i].run, threads=bench.threads, least=plan.least, most=MOST,
                budget_s=plan.visit_s, warm_up_s=WARM_UP_S, first=calls[i],
            )  # fmt: skip
            calls[i] += len(times.seconds) + 1
            now = rates(bench)
            readings.append(now)
            visits[i].append(RoundTimes(times, before, now))
        state = usual(readings)
        if number + 1 >= plan.rounds:
            todo = [i for i in todo if counted(visits[i], state) < plan.enough]
            if not todo or time.perf_counter() - began > plan.budget_s:
                break
    return visits, state


def counted(visits: Sequence[RoundTimes], state: MachineRates) -> int:
    """Return the number of undisturbed repetitions in a state."""
    return sum(sum(v.times.counts) for v in visits if v.within(state))


def together(
    visits: Sequence[RoundTimes], work: TimedCase, state: MachineRates
) -> tuple[CallSeconds, list[RoundTimes]]:
    """Combine the repetitions of a case's visits in a state into one sample; return it with those visits.

    The least time of each is scaled from the rates around it to the state's. If no visit was in the state, other
    undisturbed visits are used, with a larger scale.
    """
    alone = [v for v in visits if any(v.times.counts)]
    inside = [v for v in visits if v.within(state)]
    chosen = [v for v in alone if v.within(state)] or inside or alone or list(visits)
    out = TimedRuns([], [], [])
    for v in chosen:
        here, there = work.floor(v.rates), work.floor(state)
        # A floor above the time itself (data in a cache) cannot be all of it.
        out.add(v.times, 1.0 + (there - here) / max(v.times.sample().median_s, here, 1e-9))
    return out.sample(), chosen
