"""Reliable timing on a machine that other processes use too.

A repetition counts if nothing took a core from it: hardly any time passed in which a thread was ready to run and had
none. (Where the system does not tell that: no thread was switched out against its will or, for long ones of several
threads, the process had the CPU for as long as it should.) The result is the median of those that count, with its 10th
and 90th percentiles and how many counted.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

TASKS = Path("/proc/self/task")


def _threads() -> list[int]:
    """Return the system's ids of this process's threads, oldest first."""
    return sorted(int(path.name) for path in TASKS.iterdir()) if TASKS.is_dir() else []


@contextmanager
def pinned() -> Iterator[None]:
    """Bind every thread to one core: the caller to the first, the others in turn to the rest.

    The scheduler likes to start a thread that slept on the core of the one that wakes it, most of all while the other
    core has work: two threads of a kernel then take turns on one core (products of few rows took 1.7 to 2.4 times as
    long). Threads that come to be inside stay on the caller's core: let each pool start its own before.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    thread = threading.get_native_id()
    before = {tid: os.sched_getaffinity(tid) for tid in _threads()} if len(cores) > 1 else {}
    others = [tid for tid in before if tid != thread]
    try:
        if before:
            _hold(thread, {cores[0]})
        for i, tid in enumerate(others):
            _hold(tid, {cores[1 + i % (len(cores) - 1)]})
        yield
    finally:
        for tid in _threads() if before else []:
            _hold(tid, before.get(tid, set(cores)))


def _hold(tid: int, cores: set[int]) -> None:
    with suppress(ProcessLookupError):  # it ended meanwhile
        os.sched_setaffinity(tid, cores)


class CoreWaits:
    """Time that the threads of this process were ready to run without a core.

    It knows the threads that there are when it is entered.
    """

    def __init__(self) -> None:
        self._files: list[int] = []

    def __enter__(self) -> Self:
        for tid in _threads():
            try:
                self._files.append(os.open(TASKS / str(tid) / "schedstat", os.O_RDONLY))
            except OSError:  # it ended, or a kernel without statistics
                continue
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            os.close(file)
        self._files.clear()

    def seconds(self) -> list[float]:
        """Return the seconds that each thread has waited since the start; empty if the system does not report it."""
        out = []
        for file in self._files:
            try:  # time on a core, time waiting for one (both ns), times started
                out.append(int(os.pread(file, 64, 0).split()[1]) * 1e-9)
            except OSError:  # it ended
                out.append(0.0)
        return out


WAITING, WAKING_S = 0.03, 5e-5
"""Longest wait for a core in a valid repetition: a share of its time, plus the wake-up time of a thread on an idle core
[s]."""
BUSY = 0.85
"""Least CPU time over threads times wall time of a valid repetition, if waiting times are unknown."""
SHORT_S = 1e-3
"""Duration below which the rule of `BUSY` is not used, because starting threads takes too large a share [s]."""


@dataclass(frozen=True, slots=True)
class CallSeconds:
    """Statistics of the seconds of one call.

    Attributes
    ----------
    median_s, p10_s, p90_s : float
        Statistics of the valid repetitions; of the fastest quarter of all if none is valid.
    accepted, taken : int
        How many count, and how many there were.
    """

    median_s: float
    p10_s: float
    p90_s: float
    accepted: int
    taken: int

    @classmethod
    def of(cls, seconds: list[float], counts: list[bool]) -> CallSeconds:
        undisturbed = [s for s, good in zip(seconds, counts, strict=True) if good]
        # Where nothing was left alone, the fastest quarter was disturbed least.
        undisturbed = undisturbed or sorted(seconds)[: -(-len(seconds) // 4)]
        p10, median, p90 = np.percentile(undisturbed, [10, 50, 90])
        return cls(float(median), float(p10), float(p90), sum(counts), len(seconds))


class Stopwatch:
    """Times blocks of code in direct succession, and records whether each was undisturbed.

    It takes some 8 us between them: OpenMP's threads wait awake for about 25 (`jit.use_threads`),
    and a small kernel that has to wake them first takes twice as long.

    Parameters
    ----------
    threads : int
        Threads that should be busy all the time.
    waits : CoreWaits
        Entered when all of them had started.
    """

    seconds: float
    alone: bool
    own_s: float

    def __init__(self, threads: int, waits: CoreWaits) -> None:
        self.threads, self.waits = threads, waits
        self._waited = waits.seconds()

    def __enter__(self) -> Self:
        self._switched, self._cpu = (0, 0.0) if self._waited else _used()
        self._own, self._start = time.thread_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.own_s = time.thread_time() - self._own
        now = self.waits.seconds()
        if now:
            waited = sum(now) - sum(self._waited)
            self.alone = waited <= WAITING * self.seconds + WAKING_S
            self._waited = now
            return
        switched, cpu = _used()
        busy = cpu - self._cpu >= BUSY * self.threads * self.seconds
        if self.seconds < SHORT_S:
            self.alone = switched == self._switched
        else:
            self.alone = busy and (self.threads > 1 or switched == self._switched)


def _used() -> tuple[int, float]:
    """Return the number of involuntary context switches, and the CPU time [s]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, time.process_time()


def settle(step_s: float = 0.02, most_s: float = 0.4) -> None:
    """Wait until no thread of this process runs.

    OpenBLAS's threads spin for some 100 ms after a product, on a core that the next timed kernel should have. Their CPU
    time has ticks of 4 ms: shorter steps would not see it.
    """
    until = time.perf_counter() + most_s
    while time.perf_counter() < until:
        cpu = time.process_time()
        time.sleep(step_s)
        if time.process_time() - cpu < 0.1 * step_s:
            return


@dataclass(frozen=True, slots=True)
class TimedRuns:
    """Seconds of each repetition, whether it is valid, and the caller's time on a core in it."""

    seconds: list[float]
    counts: list[bool]
    own_s: list[float]

    def sample(self) -> CallSeconds:
        """Return one sample; if no repetition is valid, of the caller's core time in the best quarter.

        Threads share each loop evenly, and the caller sleeps while it waits for one that lost
        its core: its own time is about what the call would have taken.
        """
        if any(self.counts) or not self.own_s:
            return CallSeconds.of(self.seconds, self.counts)
        pairs = sorted(zip(self.seconds, self.own_s, strict=True), key=lambda p: -p[1] / p[0])
        best = [seconds for _, seconds in pairs[: -(-len(pairs) // 4)]]
        return replace(CallSeconds.of(best, [True] * len(best)), accepted=0, taken=len(pairs))

    def add(self, other: TimedRuns, factor: float) -> None:
        """Append the repetitions of another object, with times multiplied by `factor`."""
        self.seconds.extend(s * factor for s in other.seconds)
        self.counts.extend(other.counts)
        self.own_s.extend(s * factor for s in other.own_s)


def sample(
    run: Callable[[int], object], *, threads: int, least: int, most: int, budget_s: float,
    warm_up: int = 1, at_most: int = 100_000,
) -> CallSeconds:  # fmt: skip
    """Time ``run(i)`` for i = 0, 1, ...; see `repeat`."""
    return repeat(
        run, threads=threads, least=least, most=most, budget_s=budget_s, warm_up=warm_up, at_most=at_most
    ).sample()


def repeat(
    run: Callable[[int], object], *, threads: int, least: int, most: int, budget_s: float,
    warm_up: int = 1, warm_up_s: float = 0.0, at_most: int = 100_000, first: int = 0,
) -> TimedRuns:  # fmt: skip
    """Time ``run(i)`` for i = first, first + 1, ...

    Parameters
    ----------
    threads : int
        Threads that should be busy all the time.
    least, most : int
        Repetitions that count: stop at `most`; stop at `least` once `budget_s` is spent, and at
        three times `budget_s` in any case. A budget of 0 takes one repetition.
    warm_up, warm_up_s : int, float
        Calls, and seconds of them, before the first that is timed.
    at_most : int
        Repetitions altogether.
    """
    began, warm = time.perf_counter(), first + warm_up
    while first < warm or time.perf_counter() - began < warm_up_s:
        run(first)
        first += 1
    out = TimedRuns([], [], [])
    began = time.perf_counter()
    with CoreWaits() as waits:
        watch = Stopwatch(threads, waits)
        for i in range(first, first + at_most):
            with watch:
                run(i)
            out.seconds.append(watch.seconds)
            out.counts.append(watch.alone)
            out.own_s.append(watch.own_s)
            spent = time.perf_counter() - began
            good = sum(out.counts)
            if good >= most or (spent > budget_s and good >= least) or spent > 3 * budget_s:
                break
    return out
