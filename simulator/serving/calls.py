"""Calls at a time of the simulation: an effect that no process waits for."""

from __future__ import annotations

from collections.abc import Callable

import simpy


def call_at(env: simpy.Environment, at: float, call: Callable[[], None]) -> None:
    """Call at a time in seconds, which is not before now but for rounding."""

    def happen(_: simpy.Event) -> None:
        call()

    env.timeout(max(at - env.now, 0.0)).callbacks.append(happen)
