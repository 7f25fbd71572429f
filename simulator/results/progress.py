"""Telling how far a simulation is, while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[int, int, float], None]
"""Called with (requests completed, requests known, simulated seconds) a few times a second."""

PAUSE_S = 0.2
"""Seconds of real time from one report to the next, about."""


def now_and_then(report: Callable[[], None]) -> Callable[[], None]:
    """Return a report that does nothing when it is called too soon again."""
    last = time.perf_counter()

    def call() -> None:
        nonlocal last
        if time.perf_counter() - last >= PAUSE_S:
            report()
            last = time.perf_counter()

    return call
