"""Fit of the constants that all devices share, by an evolution strategy.

Errors do not determine a ranking: near-best configurations are within 1 %, errors are larger. So the loss also includes
the share of a soft-max over the search on near-best ones, at temperatures from 0.1 to 1.5 %; the constants' defaults
are the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .form import F8
from .price import PARAMETERS
from .tables import FixedTile, MeasuredKernel

TEMPERATURES = (0.001, 0.004, 0.015)
RANK, MEDIAN, PRIOR = 1.0, 0.5, 0.02
"""Weights relative to the errors of best rows and defaults: of the ranking, of errors of the median over the search,
and of distances from the defaults in their spreads, squared."""
LARGEST = 0.5
"""Errors of the logarithm count up to this."""
STRIDE = 6
"""Every sixth shape is fitted to."""
ROUNDS, OFFSPRING = 50, 12
FIXED_STRIDE, FIXED_PRIOR, FIXED_ROUNDS = 5, 0.0005, 120

_DEFAULTS = np.array([q.default for q in PARAMETERS])
_LOW, _HIGH = np.array([q.low for q in PARAMETERS]), np.array([q.high for q in PARAMETERS])
_SPREAD = np.array([q.spread for q in PARAMETERS])


def at(z: F8) -> F8:
    """Constants at distances from their defaults, in spreads of the logarithm."""
    return np.asarray(np.clip(_DEFAULTS * np.exp(z * _SPREAD), _LOW, _HIGH))


def loss(parameters: F8, measured: Sequence[MeasuredKernel]) -> float:
    """What a fit makes small: the mean over devices."""
    total = 0.0
    for m in measured:
        seconds, default = m.predicted(parameters)
        log = np.log(seconds)
        shapes = np.arange(len(m.shapes))
        best = np.abs(log[shapes, m.best] - np.log(m.best_s))
        untuned = np.abs(np.log(default / m.default_s))
        middle = np.abs(np.log(np.median(seconds, axis=1) / m.median_s))
        behind, near = log - log.min(axis=1, keepdims=True), ~np.isnan(m.times)
        lost = 0.0
        for temperature in TEMPERATURES:
            share = np.exp(-behind / temperature)
            lost += float(np.mean(1.0 - (share * near).sum(axis=1) / share.sum(axis=1)))
        total += float(np.minimum(best, LARGEST).mean())
        total += float(np.nanmean(np.minimum(untuned, LARGEST)))
        total += MEDIAN * float(np.minimum(middle, LARGEST).mean())
        total += RANK * lost / len(TEMPERATURES)
    return total / len(measured)


def fit(measured: Sequence[MeasuredKernel], rounds: int = ROUNDS) -> F8:
    """Constants of the kernels whose near-best configurations are known."""
    some = [m.those(slice(1, None, STRIDE)) for m in measured]

    def badness(z: F8) -> float:
        return loss(at(z), some) + PRIOR * float(np.mean(z**2))

    return at(evolve(badness, len(PARAMETERS), rounds))


def fit_fixed(fixed: FixedTile, rounds: int = FIXED_ROUNDS) -> F8:
    """Constants of a kernel of one known tile, from half of its (n, k)."""
    rows = fixed.halves()[0][::FIXED_STRIDE]
    measured = np.log(fixed.measured_s[rows])

    def badness(z: F8) -> float:
        errors = np.abs(np.log(fixed.predicted(at(z), rows)) - measured)
        return float(np.minimum(errors, LARGEST).mean()) + FIXED_PRIOR * float(np.mean(z**2))

    return at(evolve(badness, len(PARAMETERS), rounds))


def evolve(badness: Callable[[F8], float], size: int, rounds: int, sigma: float = 0.4, seed: int = 0) -> F8:
    """Least of a function near zero: covariance matrix adaptation.

    Hansen, "The CMA Evolution Strategy: A Tutorial" (arXiv 1604.00772), with its default settings and
    `OFFSPRING` candidates a round; the same numbers for the same seed.
    """
    rng = np.random.default_rng(seed)
    parents = OFFSPRING // 2
    weights = np.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
    weights /= weights.sum()
    mass = 1.0 / float((weights**2).sum())
    c_path = (4 + mass / size) / (size + 4 + 2 * mass / size)
    c_sigma = (mass + 2) / (size + mass + 5)
    c_one = 2 / ((size + 1.3) ** 2 + mass)
    c_many = min(1 - c_one, 2 * (mass - 2 + 1 / mass) / ((size + 2) ** 2 + mass))
    damping = 1 + 2 * max(0.0, np.sqrt((mass - 1) / (size + 1)) - 1) + c_sigma
    usual = np.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))
    mean, path, path_sigma, covariance = (np.zeros(size), np.zeros(size), np.zeros(size), np.eye(size))
    best, least = mean, badness(mean)
    for turn in range(rounds):
        values, vectors = np.linalg.eigh(covariance)
        roots = np.sqrt(np.maximum(values, 1e-12))
        steps = (vectors * roots @ rng.standard_normal((size, OFFSPRING))).T
        scores = np.array([badness(mean + sigma * step) for step in steps])
        order = np.argsort(scores)
        if scores[order[0]] < least:
            best, least = mean + sigma * steps[order[0]], float(scores[order[0]])
        chosen = steps[order[:parents]]
        move = weights @ chosen
        mean = mean + sigma * move
        path_sigma = (1 - c_sigma) * path_sigma + np.sqrt(c_sigma * (2 - c_sigma) * mass) * (
            vectors @ ((vectors.T @ move) / roots)
        )
        length = float(np.linalg.norm(path_sigma))
        steady = length / np.sqrt(1 - (1 - c_sigma) ** (2 * (turn + 1))) < (1.4 + 2 / (size + 1)) * usual
        path = (1 - c_path) * path + steady * np.sqrt(c_path * (2 - c_path) * mass) * move
        covariance = (
            (1 - c_one - c_many) * covariance + c_one * np.outer(path, path)
            + c_many * np.einsum("i,ij,ik->jk", weights, chosen, chosen)
        )  # fmt: skip
        sigma *= float(np.exp(c_sigma / damping * (length / usual - 1)))
    return best
