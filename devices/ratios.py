"""Errors of predictions: the distribution of measured over predicted seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]
Z = 1.2816
"""Standard deviations from the median to the 90th percentile of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Ratios:
    """Distribution of ln(measured / predicted): its 10th, 50th and 90th percentile.

    Each side of the median is a normal distribution.
    """

    low: float
    middle: float
    high: float

    def at(self, z: F8) -> F8:
        """Return the logarithms at the given standard normal scores."""
        side = np.where(z < 0, self.middle - self.low, self.high - self.middle)
        return self.middle + side * z / Z

    def wider(self, other: Ratios) -> Ratios:
        """Return the combined distribution of two independent errors."""
        middle = self.middle + other.middle
        below = np.hypot(self.middle - self.low, other.middle - other.low)
        above = np.hypot(self.high - self.middle, other.high - other.middle)
        return Ratios(middle - float(below), middle, middle + float(above))

    @classmethod
    def of_errors(cls, median: float, tail: float) -> Ratios:
        """Return an unbiased distribution from the median and 90th percentile of the absolute error.

        It is the wider of two normal distributions: half of all errors are within 0.6745 standard deviations, nine of
        ten within 1.645.
        """
        spread = float(np.log1p(max(median / 0.6745, tail / 1.645)))
        return cls(-Z * spread, 0.0, Z * spread)

    @property
    def median_error(self) -> float:
        """Return the median of |predicted / measured - 1|."""
        from scipy.special import ndtri

        z = ndtri((np.arange(200) + 0.5) / 200)
        return float(np.median(np.abs(np.exp(-self.at(z)) - 1.0)))
