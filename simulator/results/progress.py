"""Reports of a simulation's progress while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[int, int, float], None]
"""Called with (requests completed, requests known, simulated seconds) a few times a second."""

PAUSE_S = 0.2
"""Approximate seconds of real time between two reports."""


def now_and_then(report: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls `report`, but not more often than every `PAUSE_S`."""
    last = time.perf_counter()

    def call() -> None:
        nonlocal last
        if time.perf_counter() - last >= PAUSE_S:
            report()
            last = time.perf_counter()

    return call
