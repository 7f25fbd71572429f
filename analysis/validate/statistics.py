"""A run's times, and how they are summed up: mean and quantiles, by the names that runs use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TIMES = ("ttft", "tpot", "e2e", "itl")
"""Quantities of a stage; each may have any of `STATISTICS`."""
STATISTICS = ("mean", "p50", "p90", "p99")
QUANTILES = (0.5, 0.9, 0.99)


def statistics(times: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean and quantiles of times, at least one."""
    figures = [times.mean(), *np.quantile(times, QUANTILES)]
    return {name: float(x) for name, x in zip(STATISTICS, figures, strict=True)}
