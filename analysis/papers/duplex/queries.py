"""Fig. 13: the highest load that a system sustains, found by bisection."""

from __future__ import annotations

from collections.abc import Sequence

from ..points import Runner
from ..published import Prediction
from .cases import ET, GPU, TWO, mean, poisson

SYSTEMS = {"gpu": GPU, "duplex": ET, "2xgpu": TWO}
PLOTTED = range(4, 17)
"""Loads of Fig. 13 [1/s]."""
MOST = 64
"""Where the search for a load that is not sustained ends [1/s]."""


def sustained(runner: Runner, device: str, qps: int, seeds: Sequence[int], routing: str) -> bool:
    """Whether completions keep up with 0.98 of the load and waiting does not grow.

    Over 4,000 requests after 500, in the mean over seeds: the median time to first token of the
    last quarter is at most 1.5 x that of the second.
    """
    got = [runner[poisson(device, qps, s, routing)] for s in seeds]
    kept = mean([g.completion_rate for g in got]) >= 0.98 * qps
    return kept and mean([g.t2ft_growth for g in got]) <= 1.5


def highest(runner: Runner, seeds: Sequence[int], routing: str, start: tuple[int, int] = (4, 16)) -> dict[str, int]:
    """Highest integer load that each of Fig. 13's systems sustains; 0 = not even 1 per second.

    What is sustained is taken to fall with the load; all systems' next guesses run together.
    """
    low, high = dict.fromkeys(SYSTEMS, 0), dict.fromkeys(SYSTEMS, MOST + 1)
    guesses = {label: set(start) for label in SYSTEMS}
    while any(guesses.values()):
        runner.run(
            poisson(SYSTEMS[label], q, s, routing)
            for label, loads in guesses.items() for q in sorted(loads) for s in seeds
        )  # fmt: skip
        for label, loads in guesses.items():
            for qps in sorted(loads):
                if sustained(runner, SYSTEMS[label], qps, seeds, routing):
                    low[label] = max(low[label], qps)
                else:
                    high[label] = min(high[label], qps)
            middle = (low[label] + high[label]) // 2
            guesses[label] = {middle} if low[label] < middle < high[label] else set()
    return low


def load_rows(found: dict[str, int]) -> list[Prediction]:
    """Predictions of Fig. 13."""
    return [Prediction(f"qps.{label}_max", float(qps)) for label, qps in found.items()]
