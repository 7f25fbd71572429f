"""A run's times, and how they are summed up: mean and quantiles, by the names that runs use."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ...simulator.results.record import Run

F8 = npt.NDArray[np.float64]
TIMES = ("ttft", "tpot", "e2e", "itl")
"""Quantities of a stage; each may have any of `STATISTICS`."""
STATISTICS = ("mean", "p50", "p90", "p99")
QUANTILES = (0.5, 0.9, 0.99)


def per_token(first: F8, last: F8, tokens: npt.NDArray[np.int64] | F8) -> F8:
    """Time per output token after the first [s]; NaN of one token."""
    return (last - first) / np.where(tokens > 1, tokens - 1.0, np.nan)


def client_times(run: Run) -> dict[str, F8]:
    """A request's times as its client sees them [s]."""
    rows, outside = run.requests, run.policy.host.request_s
    first, last = rows.first_token_s - rows.arrival_s, rows.last_token_s - rows.arrival_s
    return {"ttft": first + outside, "tpot": per_token(first, last, rows.output_tokens), "e2e": last + outside}


def figures(times: Mapping[str, F8]) -> dict[str, float]:
    """Return the `statistics` of each quantity, as ``ttft_p50`` and similar names."""
    return {f"{name}_{k}": x for name, values in times.items() for k, x in statistics(values).items()}


def statistics(times: F8) -> dict[str, float]:
    """Return mean and quantiles of times, ignoring NaN; NaN if there are no times."""
    times = times[~np.isnan(times)]
    figures = [times.mean(), *np.quantile(times, QUANTILES)] if len(times) else [np.nan] * len(STATISTICS)
    return {name: float(x) for name, x in zip(STATISTICS, figures, strict=True)}
