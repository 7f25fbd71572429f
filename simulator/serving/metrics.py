"""Metrics of a run, from per-request stamps and the histogram of token gaps.

TTFT = first token - arrival. TBT = gap between two tokens of one request; quantiles over all
tokens, from a log histogram of 0.1 % bins, mean exact. TPOT = (last - first token)/(tokens - 1),
requests of one token left out. E2E = last token - arrival. Undefined values are None.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from ..batching.state import HIST_MIN_S, HIST_RATIO

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Mean and quantiles of one latency [s]; None where there is nothing to measure."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None

    def later(self, seconds: float) -> Quantiles:
        """The same of values that are all so much longer."""
        figures = (self.mean, self.p50, self.p90, self.p99)
        return Quantiles(*(None if x is None else x + seconds for x in figures))

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


NOTHING = Quantiles(None, None, None, None)


def quantiles(values: F8) -> Quantiles:
    """Mean and quantiles of finite values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return NOTHING
    p50, p90, p99 = (float(x) for x in np.quantile(values, (0.5, 0.9, 0.99)))
    return Quantiles(float(values.mean()), p50, p90, p99)


def histogram_quantiles(counts: npt.NDArray[np.int64], total: float, count: float) -> Quantiles:
    """Quantiles of the gap histogram, each at its bin's geometric centre; the first bin's is 0.

    It holds the gaps of tokens that come together, as accepted drafts do.

    Parameters
    ----------
    counts : int64 array, shape (HIST_BINS,)
    total, count : float
        Exact sum and number of the gaps.
    """
    if count == 0:
        return NOTHING
    running = np.cumsum(counts)
    at = [int(np.searchsorted(running, q * running[-1])) for q in (0.5, 0.9, 0.99)]
    p50, p90, p99 = (HIST_MIN_S * HIST_RATIO ** (i + 0.5) if i else 0.0 for i in at)
    return Quantiles(total / count, p50, p90, p99)
