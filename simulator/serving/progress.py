"""Telling how far a simulation is, while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

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
