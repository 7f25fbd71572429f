"""Times that can be believed on a machine that others use too.

A repetition counts if nothing took a core from it: no thread was switched out against its will or,
for long ones of several threads, whose waking up counts as such, the process had the CPU for as
long as it should. The result is the median of
those that count, with its 10th and 90th percentiles and how many counted.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

BUSY = 0.85
"""Least CPU time over threads times wall time of a repetition that counts."""
SHORT_S = 1e-3
"""Below this the starting of threads weighs too much for that rule."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds of one call.

    Attributes
    ----------
    median_s, p10_s, p90_s : float
        Over the repetitions that count; over the fastest quarter of all where none does.
    accepted, taken : int
        How many count, and how many there were.
    """

    median_s: float
    p10_s: float
    p90_s: float
    accepted: int
    taken: int

    def scaled(self, factor: float) -> Sample:
        """All times multiplied."""
        return replace(
            self,
            median_s=self.median_s * factor,
            p10_s=self.p10_s * factor,
            p90_s=self.p90_s * factor,
        )

    @classmethod
    def of(cls, seconds: list[float], counts: list[bool]) -> Sample:
        kept = [s for s, good in zip(seconds, counts, strict=True) if good]
        # Where nothing was left alone, the fastest quarter was disturbed least.
        kept = kept or sorted(seconds)[: -(-len(seconds) // 4)]
        p10, median, p90 = np.percentile(kept, [10, 50, 90])
        return cls(float(median), float(p10), float(p90), sum(counts), len(seconds))


class Watch:
    """Times a block of code, and says whether it was left alone.

    Parameters
    ----------
    threads : int
        Threads that should be busy all the time.
    """

    seconds: float
    alone: bool

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> Self:
        self._switched = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        self._cpu, self._start = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        cpu = time.process_time() - self._cpu
        busy = cpu >= BUSY * self.threads * self.seconds
        switched = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw != self._switched
        if self.seconds < SHORT_S:
            self.alone = not switched
        else:
            self.alone = busy and (self.threads > 1 or not switched)


def settle(step_s: float = 0.02, most_s: float = 0.4) -> None:
    """Wait until no thread of this process runs.

    OpenBLAS's threads look for work for some 100 ms after a product, on a core that the kernel timed
    next should have. Their CPU time is told in ticks of 4 ms: shorter steps would miss it.
    """
    until = time.perf_counter() + most_s
    while time.perf_counter() < until:
        cpu = time.process_time()
        time.sleep(step_s)
        if time.process_time() - cpu < 0.1 * step_s:
            return


def sample(
    run: Callable[[int], object], *, threads: int, least: int, most: int, budget_s: float,
    warm_up: int = 1, at_most: int = 100_000,
) -> Sample:  # fmt: skip
    """Time ``run(i)`` for i = 0, 1, ...

    Parameters
    ----------
    threads : int
        Threads that should be busy all the time.
    least, most : int
        Repetitions that count: stop at `most`; stop at `least` once `budget_s` is spent, and at
        three times `budget_s` in any case. A budget of 0 takes one repetition.
    at_most : int
        Repetitions altogether.
    """
    for i in range(warm_up):
        run(i)
    seconds: list[float] = []
    counts: list[bool] = []
    began = time.perf_counter()
    for i in range(warm_up, warm_up + at_most):
        with Watch(threads) as watch:
            run(i)
        seconds.append(watch.seconds)
        counts.append(watch.alone)
        spent = time.perf_counter() - began
        good = sum(counts)
        if good >= most or (spent > budget_s and good >= least) or spent > 3 * budget_s:
            break
    return Sample.of(seconds, counts)
