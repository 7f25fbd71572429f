"""Fig. 13: the highest load that a system sustains, looked for where an overloaded one completes requests."""

from __future__ import annotations

from collections.abc import Sequence

from ..points import Runner
from ..published import Prediction
from .cases import ET, GPU, TWO, mean, poisson

SYSTEMS = {"gpu": GPU, "duplex": ET, "2xgpu": TWO}
PLOTTED = range(4, 17)
"""Loads of Fig. 13 [1/s]."""
KEPT = 0.98
"""Share of the load that completes where it is sustained, at least."""
MOST = 64
"""Where the search for a load that is not sustained ends [1/s]."""


def sustained(runner: Runner, device: str, qps: int, seeds: Sequence[int], routing: str) -> tuple[bool, float]:
    """Whether completions keep up with the load and waiting does not grow, and completions per second.

    Over 4,000 requests after 500, in the mean over seeds: the median time to first token of the
    last quarter is at most 1.5 x that of the second.
    """
    got = [runner[poisson(device, qps, s, routing)] for s in seeds]
    rate = mean([g.completion_rate for g in got])
    return rate >= KEPT * qps and mean([g.t2ft_growth for g in got]) <= 1.5, rate


def highest(runner: Runner, seeds: Sequence[int], routing: str, start: int = 16) -> dict[str, int]:
    """Highest integer load that each of Fig. 13's systems sustains; 0 = not even 1 per second.

    What is sustained is taken to fall with the load; all systems' next guesses run together. A system that does not
    keep up completes as much as it can, which is the next guess; before one is known, the middle is.
    """
    low, high = dict.fromkeys(SYSTEMS, 0), dict.fromkeys(SYSTEMS, MOST + 1)
    guesses = dict.fromkeys(SYSTEMS, start)
    while guesses:
        runner.run(poisson(SYSTEMS[label], q, s, routing) for label, q in guesses.items() for s in seeds)
        for label, qps in list(guesses.items()):
            kept, rate = sustained(runner, SYSTEMS[label], qps, seeds, routing)
            low[label], high[label] = (qps, high[label]) if kept else (low[label], qps)
            aim = (low[label] + high[label]) // 2 if high[label] > MOST else int(rate / KEPT)
            guesses[label] = min(max(aim, low[label] + 1), high[label] - 1)
            if high[label] - low[label] == 1:
                del guesses[label]
    return low


def load_rows(found: dict[str, int]) -> list[Prediction]:
    """Predictions of Fig. 13."""
    return [Prediction(f"qps.{label}_max", float(qps)) for label, qps in found.items()]
