"""Telling how far a simulation is, while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from .engine import Engine

Progress = Callable[[int, int, float], None]
"""Told (requests completed, requests known, simulated seconds) a few times a second."""

PAUSE_S = 0.2
"""Seconds of real time from one report to the next, about."""


def now_and_then(report: Callable[[], None]) -> Callable[[], None]:
    """Return a report that does nothing when it is called too soon again."""
    told = time.perf_counter()

    def call() -> None:
        nonlocal told
        if time.perf_counter() - told >= PAUSE_S:
            report()
            told = time.perf_counter()

    return call


def advance_reporting(engine: Engine, until: float, goal: int, report: Callable[[], None]) -> float:
    """`Engine.advance` in slices of simulated time that take about `PAUSE_S` each."""
    slice_s, at = 1.0, engine.now
    while at < until and not engine.done and not 0 < goal <= engine.completed:
        at = min(until, max(at, engine.now) + slice_s)
        began = time.perf_counter()
        engine.advance(at, goal)
        took = time.perf_counter() - began
        slice_s *= 2.0 if took < PAUSE_S / 2 else (0.5 if took > 2 * PAUSE_S else 1.0)
        report()
    return engine.now
