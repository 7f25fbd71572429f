"""Metrics of a run, from timestamps of requests and the histogram of token gaps.

TTFT = first token - arrival. TBT = gap between two tokens of one request; quantiles over all tokens, from a log
histogram of 0.1 % bins, mean exact. TPOT = (last - first token)/(tokens - 1), without requests of one token. E2E = last
token - arrival. Undefined values are None.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...workloads.latencies import QUANTILES, share_of

F8 = npt.NDArray[np.float64]
SHARES = np.arange(1, 1000) / 1000
"""Shares of values whose quantiles are kept: percentiles to one decimal."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Mean and percentiles of one latency [s]; None if there are no values."""

    mean: float | None
    percentiles: tuple[float, ...] | None = field(default=None, repr=False)
    """At `SHARES`."""

    def at(self, name: str) -> float | None:
        """Return the mean, or a percentile such as ``p99.9`` with at most one decimal."""
        share = share_of(name)
        if share is None:
            return self.mean
        return None if self.percentiles is None else float(np.interp(share, SHARES, self.percentiles))

    p50 = property(lambda self: self.at("p50"))
    p90 = property(lambda self: self.at("p90"))
    p99 = property(lambda self: self.at("p99"))

    def later(self, seconds: float) -> Quantiles:
        """Return the same values shifted by `seconds`."""
        if self.mean is None or self.percentiles is None:
            return self
        return Quantiles(self.mean + seconds, tuple(x + seconds for x in self.percentiles))

    def as_dict(self, names: Iterable[str] = QUANTILES) -> dict[str, float | None]:
        return {name: self.at(name) for name in names}


NOTHING = Quantiles(None)


def quantiles(values: F8) -> Quantiles:
    """Return the mean and quantiles of the finite values."""
    values = values[np.isfinite(values)]
    return Quantiles(float(values.mean()), tuple(np.quantile(values, SHARES).tolist())) if len(values) else NOTHING


def histogram_quantiles(counts: npt.NDArray[np.int64], total: float, count: float) -> Quantiles:
    """Return the quantiles of the gap histogram, each at its bin's geometric centre; 0 for the first bin.

    It holds the gaps of tokens that come together, as accepted drafts do.

    Parameters
    ----------
    counts : int64 array, shape (HIST_BINS,)
    total, count : float
        Exact sum and number of the gaps.
    """
    from ..engine.state import HIST_MIN_S, HIST_RATIO  # compiled code beside them

    if count == 0:
        return NOTHING
    running = np.cumsum(counts)
    at = np.searchsorted(running, SHARES * running[-1])
    every = np.where(at > 0, HIST_MIN_S * HIST_RATIO ** (at + 0.5), 0.0)
    return Quantiles(total / count, tuple(every.tolist()))
