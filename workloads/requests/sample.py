"""The embedded sample: a workload like a published one, when no trace is given.

Arrivals and lengths follow published summary statistics of the Azure 2023 conversation trace
(first 14,000 rows of Azure/AzurePublicDataset AzureLLMInferenceTrace_conv.csv, CC-BY 4.0):
5.92 requests/s with a gap coefficient of variation of 1.08, and the quantiles below. No row of
the trace is stored.

Matched: rate and gap variation (gamma gaps, exactly in expectation); p50, p90, p99 and maximum of both lengths
(exactly, to rounding); both means (exactly in expectation, to 0.1 %). Assumed: the shape between two quantiles
(log-linear, bent by one exponent per length so that the mean holds), a minimum of 1 token, independence of input,
output and gaps. Not matched: the trace's correlations and its slow drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .lengths import Draw

RATE_PER_S, GAP_CV = 5.92, 1.08

_PROBABILITIES = (0.0, 0.5, 0.9, 0.99, 1.0)
_GRID = (np.arange(4096) + 0.5) / 4096


@dataclass(frozen=True, slots=True)
class Summary:
    """Published length statistics [tokens]: minimum (assumed), quantiles, maximum and mean."""

    quantiles: tuple[int, int, int, int, int]
    mean: int


INPUT = Summary((1, 1015, 4074, 4122, 14050), 1199)
OUTPUT = Summary((1, 115, 421, 598, 1000), 201)


def sample_lengths() -> tuple[Draw, Draw]:
    """Return the sampling functions of prompt and output lengths."""
    return _draw(INPUT), _draw(OUTPUT)


def _draw(summary: Summary) -> Draw:
    bend = _bend(summary)

    def draw(rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
        return np.rint(quantile(summary, bend, rng.random(n))).astype(np.int64)

    return draw


def quantile(summary: Summary, bend: float, probability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Inverse distribution function [tokens].

    Between published quantiles a (at p) and b (at q) it is ``a * (b / a) ** (v ** bend)`` with
    ``v = (probability - p) / (q - p)``.
    """
    at = np.array(_PROBABILITIES)
    logs = np.log(np.array(summary.quantiles, dtype=np.float64))
    k = np.searchsorted(at, probability, side="right") - 1
    k = np.minimum(k, len(at) - 2)
    v = (probability - at[k]) / (at[k + 1] - at[k])
    tokens: npt.NDArray[np.float64] = np.exp(logs[k] + v**bend * (logs[k + 1] - logs[k]))
    return tokens


@lru_cache
def _bend(summary: Summary) -> float:
    """Solve the exponent for the mean by bisection; a larger one means shorter lengths."""
    low, high = 1e-2, 1e2
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _mean(summary, middle) > summary.mean else (low, middle)
    return low


def _mean(summary: Summary, bend: float) -> float:
    total = 0.0
    for p, q in pairwise(_PROBABILITIES):
        total += (q - p) * float(quantile(summary, bend, p + (q - p) * _GRID).mean())
    return total
