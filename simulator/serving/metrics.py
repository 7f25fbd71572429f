"""Metrics of a run, from timestamps of requests and the histogram of token gaps.

TTFT = first token - arrival. TBT = gap between two tokens of one request; quantiles over all tokens, from a log
histogram of 0.1 % bins, mean exact. TPOT = (last - first token)/(tokens - 1), without requests of one token. E2E = last
token - arrival. Undefined values are None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]
SHARES = np.arange(1, 1000) / 1000
"""Shares of values whose quantiles are kept: percentiles to one decimal."""
PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d)?)")


def share_of(name: str) -> float | None:
    """Return the share of values below a percentile; None where `name` is none, such as mean.

    Examples
    --------
    >>> share_of("p95"), share_of("p99.9"), share_of("mean"), share_of("p100")
    (0.95, 0.999, None, None)
    """
    match = PERCENTILE.fullmatch(name)
    share = round(float(match[1]) / 100, 3) if match else 0.0
    return share or None


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Mean and quantiles of one latency [s]; None where there is nothing to measure."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    percentiles: F8 | None = field(default=None, repr=False, compare=False)

    def at(self, name: str) -> float | None:
        """The mean, or a percentile such as ``p99.9``; to one decimal."""
        share = share_of(name)
        if name in ("mean", "p50", "p90", "p99"):
            value: float | None = getattr(self, name)
            return value
        return None if share is None or self.percentiles is None else float(np.interp(share, SHARES, self.percentiles))

    def later(self, seconds: float) -> Quantiles:
        """Return the same values shifted by `seconds`."""
        mean, p50, p90, p99 = (None if x is None else x + seconds for x in (self.mean, self.p50, self.p90, self.p99))
        return Quantiles(mean, p50, p90, p99, None if self.percentiles is None else self.percentiles + seconds)

    def as_dict(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in ("mean", "p50", "p90", "p99")}


NOTHING = Quantiles(None, None, None, None)


def quantiles(values: F8) -> Quantiles:
    """Mean and quantiles of finite values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return NOTHING
    every = np.quantile(values, SHARES)
    return _of_percentiles(float(values.mean()), every)


def _of_percentiles(mean: float, every: F8) -> Quantiles:
    p50, p90, p99 = (float(every[i]) for i in np.searchsorted(SHARES, (0.5, 0.9, 0.99)))
    return Quantiles(mean, p50, p90, p99, every)


def histogram_quantiles(counts: npt.NDArray[np.int64], total: float, count: float) -> Quantiles:
    """Quantiles of the gap histogram, each at its bin's geometric centre; the first bin's is 0.

    It holds the gaps of tokens that come together, as accepted drafts do.

    Parameters
    ----------
    counts : int64 array, shape (HIST_BINS,)
    total, count : float
        Exact sum and number of the gaps.
    """
    from ..batching.state import HIST_MIN_S, HIST_RATIO  # compiled code beside them

    if count == 0:
        return NOTHING
    running = np.cumsum(counts)
    at = np.searchsorted(running, SHARES * running[-1])
    every = np.where(at > 0, HIST_MIN_S * HIST_RATIO ** (at + 0.5), 0.0)
    return _of_percentiles(total / count, every)
