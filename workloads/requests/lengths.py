"""Distributions of prompt and output lengths around a given mean [tokens].

Each entry of `LENGTHS` takes the two means (`input_len`, `output_len`) and returns one sampling function for each. A
function consumes the generator value by value, so the lengths do not depend on the batch size.
`LIKE_CLIENTS` samples as benchmark clients do, with their generators: the same seed gives the same lengths.

The embedded sample: a workload like a published one, when no trace is given.

Arrivals and lengths follow published summary statistics of the Azure 2023 conversation trace
(first 14,000 rows of Azure/AzurePublicDataset AzureLLMInferenceTrace_conv.csv, CC-BY 4.0):
5.92 requests/s with a gap coefficient of variation of 1.08, and the quantiles below. No row of
the trace is stored.

Matched: rate and gap variation (gamma gaps, exactly in expectation); p50, p90, p99 and maximum of both lengths
(exactly, to rounding); both means (exactly in expectation, to 0.1 %). Assumed: the shape between two quantiles
(log-linear, bent by one exponent per length so that the mean holds), a minimum of 1 token, independence of input,
output and gaps. Not matched: the trace's correlations and its slow drift.

Independent random generators from one seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, typed_number
from ..registry import Registry
from .options import MAX_SIZE

Purpose = IntEnum(
    "Purpose", "ARRIVALS INPUT_LENGTHS OUTPUT_LENGTHS CLIENT TURNS THINKING KINDS TENANTS PREFIXES", start=0
)
"""Purpose of a random generator; a client's generator has a number made from its name in addition."""


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """Return the generator of one purpose; samples of one purpose do not affect another."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))


Draw = Callable[[np.random.Generator, int], npt.NDArray[np.int64]]
LENGTHS: Registry[Callable[[int, int], tuple[Draw, Draw]]] = Registry("length distribution")

LOG_SIGMA = 0.8
GAUSSIAN_SIGMA, GAUSSIAN_CAP, GAUSSIAN_REACH = 0.4, 256, 0.95
UNIFORM_LOW = 0.8


@LENGTHS.register("fixed")
def fixed(input_len: int, output_len: int) -> tuple[Draw, Draw]:
    """Every request alike."""

    def one(length: int) -> Draw:
        return lambda rng, n: np.full(n, length, dtype=np.int64)

    return one(input_len), one(output_len)


@LENGTHS.register("uniform")
def uniform(input_len: int, output_len: int) -> tuple[Draw, Draw]:
    """Whole numbers from 0.8 to 1.0 of the given length, all equally likely."""

    def one(length: int) -> Draw:
        low = max(1, math.ceil(UNIFORM_LOW * length))
        values = length - low + 1
        return lambda rng, n: low + (rng.random(n) * values).astype(np.int64)

    return one(input_len), one(output_len)


@LENGTHS.register("gaussian")
def gaussian(input_len: int, output_len: int) -> tuple[Draw, Draw]:
    """Rounded Gaussians within 5 to 195 % of the mean, which the symmetric cut keeps.

    Both have sigma ``0.4 * min(256, input_len, output_len)``, as the Duplex paper's simulator
    (assumed: redrawn outside the cut, not clipped to its edge). The support is a few thousand
    whole numbers at most, so the inverse of the exact distribution is a table.
    """
    sigma = GAUSSIAN_SIGMA * min(GAUSSIAN_CAP, input_len, output_len)

    def one(mean: int) -> Draw:
        reach = min(math.floor(GAUSSIAN_REACH * mean), math.ceil(12 * sigma))
        offsets = np.arange(-reach, reach + 1)
        edges = np.append(offsets - 0.5, reach + 0.5) / (sigma * math.sqrt(2))
        below = np.array([math.erf(x) for x in edges])
        return from_table(mean + offsets, np.diff(below))

    return one(input_len), one(output_len)


def _lognormal(most: int, input_len: int, output_len: int) -> tuple[Draw, Draw]:
    """Return log-normal lengths with sigma of the log 0.8, rounded, from 1 to `most` tokens, with the exact mean.

    Rounding up to 1 token would raise a short mean, and a cut lower it, so the median is solved for the mean of what is left.
    """

    def one(option: str, mean: int) -> Draw:
        if mean > most:
            raise InputError(option, f"must be at most {most}, the largest length of --lengths, not {mean}")
        mu = _lognormal_mu(mean, most)

        def draw(rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
            x = np.exp(mu + LOG_SIGMA * rng.standard_normal(n))
            return np.clip(np.rint(x), 1, most).astype(np.int64)

        return draw

    return one("--input-len", input_len), one("--output-len", output_len)


for _name, _most in (("lognormal", MAX_SIZE), ("lognormal-1024", 1024), ("lognormal-20000", 20_000)):
    LENGTHS.register(_name)(partial(_lognormal, _most))


@dataclass(frozen=True, slots=True)
class Lengths:
    """Sampling functions of prompt and output lengths, and a function for their generators."""

    draws: tuple[Any, Any]
    rngs: Callable[[int, int | None], tuple[Any, Any]]


def of_purpose(seed: int, limit: int | None, prompts: Any = None) -> tuple[Any, Any]:
    """Return the project's generators of prompt and output lengths."""
    return generator(seed, Purpose.INPUT_LENGTHS), generator(seed, Purpose.OUTPUT_LENGTHS)


def _in_turn(source: Callable[[int], Any], seed: int, limit: int | None, prompts: Any) -> tuple[Any, Any]:
    """Return a client's generators if it samples all prompts before all outputs; its default is 1,000 requests."""
    second = source(seed)
    prompts(second, limit or 1000)
    return source(seed), second


def _between(low: float, high: float) -> Any:
    """Return uniform whole numbers from `low` to `high` [tokens], at least 1."""
    least, most = max(1, math.floor(low)), max(1, math.ceil(high))
    return lambda integers, n: integers(least, most + 1, n)


def _cut(mean: int, sigma: float = 0.0, low: float = 0.0, high: float = 0.0) -> Any:
    """Return Gaussian lengths cut to their bounds (default: 5 sigma); without sigma uniform between the bounds."""
    least, most = int(low) or max(1, int(mean - 5 * sigma)), int(high) or int(mean + 5 * sigma)
    if least > most:
        raise InputError("--lengths", f"has a smallest length of {least} above its largest of {most}")

    def sample(r: random.Random) -> int:
        return round(max(least, min(most, r.gauss(mean, sigma)))) if sigma else r.randint(least, most)

    return lambda r, n: np.array([sample(r) for _ in range(n)], np.int64)


def _above_zero(mean: int, sigma: float) -> Draw:
    """Return Gaussian lengths above 0, rounded up."""
    if not sigma:
        return fixed(mean, mean)[0]
    edges = np.arange(int(mean + 10 * sigma) + 2)
    return from_table(edges[1:], np.diff([math.erf((x - mean) / (sigma * math.sqrt(2))) for x in edges]))


LIKE_CLIENTS: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Any, Any]], str, float]] = {
    "vllm": (lambda mean, r: _between(mean * (1 - r), mean * (1 + r)),
             partial(_in_turn, lambda seed: np.random.default_rng(seed).integers), "R", 0.999),
    "sglang": (lambda mean, r: _between(mean * r, mean),
               partial(_in_turn, lambda seed: np.random.RandomState(seed % 2**32).randint), "R", 1.0),
    "guidellm": (_cut, lambda seed, limit, prompts: (random.Random(seed), random.Random(seed + 1)), "SIGMA[:LOW[:HIGH]]", MAX_SIZE),
    "aiperf": (_above_zero, of_purpose, "SIGMA", 1e6),
}  # fmt: skip
"""Client -> its lengths from a mean and numbers, its generators, how the numbers are written, and their largest value.
Sources: RandomDataset of vLLM 0.11 to 0.16 (without its prefix and special tokens), compute_random_lens of SGLang,
IntegerRangeSampler of GuideLLM 0.3 to 0.5, sample_positive_normal_integer of AIPerf (with our generators)."""


def client_lengths(text: str, input_len: int, output_len: int) -> Lengths:
    """Read ``CLIENT:NUMBERS`` of ``--lengths``, with a slash before different numbers for outputs.

    Examples
    --------
    >>> both = client_lengths("vllm:0.5", 100, 10)
    >>> [sample(rng, 3).tolist() for sample, rng in zip(both.draws, both.rngs(0, 3))]
    [[135, 114, 101], [7, 8, 5]]
    """
    name, _, numbers = text.partition(":")
    if name not in LIKE_CLIENTS:
        raise InputError(f"--lengths {name!r}", f"is an unknown benchmark client; use one of {', '.join(LIKE_CLIENTS)}")
    make, rngs, form, most = LIKE_CLIENTS[name]
    prompts, slash, outputs = numbers.partition("/")
    sides = [[typed_number(x or 0) for x in side.split(":")] for side in (prompts, outputs if slash else prompts)]
    if not all(len(side) <= form.count(":") + 1 and all(0 <= x <= most for x in side) for side in sides):
        raise InputError(f"--lengths {text}", f"must be {name}:{form}[/{form}] with numbers from 0 to {most:g}")
    draws = make(input_len, *sides[0]), make(output_len, *sides[1])
    return Lengths(draws, partial(rngs, prompts=draws[0]))


def from_table(values: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> Draw:
    """Sample from a finite distribution; `weights` need not sum to 1."""
    above = np.cumsum(weights)
    above /= above[-1]
    above[-1] = 1.0

    def draw(rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
        return values[np.searchsorted(above, rng.random(n), side="right")]

    return draw


def _normal_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2))


def _rounded_mean(mu: float, exact: int = 64) -> float:
    """Return the mean of ``max(1, round(X))`` for a log-normal X: 1 + the sum over k of P(X > k + 0.5).

    The sum is exact for k < `exact`; beyond, it is the integral E[max(X - exact, 0)], of which it is the midpoint rule.
    """
    head = sum(_normal_tail((math.log(k + 0.5) - mu) / LOG_SIGMA) for k in range(1, exact))
    above, beyond = _beyond(mu, exact)
    return 1 + head + above - beyond


def _beyond(mu: float, most: int) -> tuple[float, float]:
    """Return E[X; X > most] and most P(X > most) for a log-normal X."""
    d = (math.log(most) - mu) / LOG_SIGMA
    return math.exp(mu + LOG_SIGMA**2 / 2) * _normal_tail(d - LOG_SIGMA), most * _normal_tail(d)


@cache
def _lognormal_mu(mean: int, most: int) -> float:
    """Return the log of the median that gives the mean `mean`, by bisection."""
    high = math.log(mean)
    low = high - LOG_SIGMA**2 / 2 - 10
    high += 4.0 if most < MAX_SIZE else 0.0
    for _ in range(60):
        middle = (low + high) / 2
        above, beyond = _beyond(middle, most)
        low, high = (middle, high) if _rounded_mean(middle) - (above - beyond) < mean else (low, middle)
    return low


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


def sample_lengths() -> Lengths:
    """Return the sampling functions of prompt and output lengths."""
    return Lengths((_draw(INPUT), _draw(OUTPUT)), of_purpose)


def _draw(summary: Summary) -> Draw:
    bend = _bend(summary)

    def draw(rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
        return np.rint(quantile(summary, bend, rng.random(n))).astype(np.int64)

    return draw


def quantile(summary: Summary, bend: float, probability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the inverse distribution function [tokens].

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
    """Return the exponent that gives the published mean, by bisection; a larger exponent means shorter lengths."""
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
