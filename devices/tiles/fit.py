"""Fit of the constants that all devices share, by an evolution strategy.

Errors do not determine a ranking: near-best configurations are within 1 %, errors are larger. So the loss also includes
the share of a soft-max over the search on near-best ones, at temperatures from 0.1 to 1.5 %; the constants' defaults
are the prior.

Also measures of a ranking's quality against near-best lists: hits, gain and errors.

The lists contain the configurations within 1 % of the best. A pick outside them was slower by more, or was never timed:
shares of hits are exact, regrets unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb

import numpy as np
import numpy.typing as npt

from .config import I8, NAMES, by_name
from .form import F8
from .price import PARAMETERS
from .tables import FixedTile, MeasuredKernel

DEPTHS = (1, 5, 10, 20)
GAINS = (1, 5, 10)
LOOK_UPS = (1, 5, 10)
SLOWER = 0.99
"""Share of the best speed that a near-best configuration has at least."""

Picks = list[npt.NDArray[np.intp]]


def entries(configs: I8) -> npt.NDArray[np.int64]:
    """Return the entry number of each configuration; configurations that differ only in their group share one."""
    rest = np.delete(configs, NAMES.index("group_m"), axis=1)
    ids: dict[tuple[int, ...], int] = {}
    return np.array([ids.setdefault(tuple(row), len(ids)) for row in rest.tolist()], dtype=np.int64)


def picks(seconds: F8, configs: I8, depth: int) -> Picks:
    """Return the first `depth` entries of each shape's ranking; the smallest group represents equal entries.

    Parameters
    ----------
    seconds : float64 array, shape (shapes, n)
    """
    entry = entries(configs)
    order = np.lexsort((np.broadcast_to(by_name(configs)["group_m"], seconds.shape), seconds), axis=1)
    out = []
    for row in order:
        _, first = np.unique(entry[row], return_index=True)
        out.append(row[np.sort(first)[:depth]])
    return out


def hits(measured: MeasuredKernel, chosen: Picks, depth: int) -> float:
    """Return the share of shapes with a near-best configuration among the first picks."""
    near = ~np.isnan(measured.times)
    return float(np.mean([near[i, row[:depth]].any() for i, row in enumerate(chosen)]))


def random_hits(measured: MeasuredKernel, depth: int) -> float:
    """Return the share of shapes with a near-best configuration among `depth` random picks."""
    n = len(measured.configs)
    depth = min(depth, n)
    good = (~np.isnan(measured.times)).sum(axis=1)
    return float(np.mean([1.0 - comb(n - int(m), depth) / comb(n, depth) for m in good]))


def tile_hits(measured: MeasuredKernel, chosen: Picks) -> float:
    """Return the share of shapes whose first pick has the tile of a near-best configuration."""
    tiles = measured.configs[:, :3]
    near = ~np.isnan(measured.times)
    hits = [near[i, (tiles == tiles[row[0]]).all(axis=1)].any() for i, row in enumerate(chosen)]
    return float(np.mean(hits))


def gain(measured: MeasuredKernel, chosen: Picks, depth: int) -> float:
    """Return the least share of the default's loss that measuring the first picks would recover."""
    known = ~np.isnan(measured.default_s)
    won = 0.0
    for i, row in enumerate(chosen):
        listed = measured.times[i, row[:depth]]
        if known[i] and not np.isnan(listed).all():
            won += max(0.0, float(np.log(measured.default_s[i] / np.nanmin(listed))))
    there = np.log(measured.default_s[known] / measured.best_s[known]).sum()
    return won / float(there) if there > 0 else 0.0


def default_hits(measured: MeasuredKernel) -> float:
    """Return the share of shapes whose default is near-best."""
    known = ~np.isnan(measured.default_s)
    good = measured.default_s[known] <= measured.best_s[known] / SLOWER
    return float(good.mean()) if known.any() else 0.0


def look_up(measured: MeasuredKernel, other: MeasuredKernel) -> dict[int, float]:
    """Return the hits of another device's near-best lists at the same shapes, by depth; fastest entries first."""
    at = {tuple(sorted(s.items())): i for i, s in enumerate(other.shapes)}
    place = {tuple(c): j for j, c in enumerate(measured.configs.tolist())}
    entry = entries(measured.configs)
    chosen: Picks = []
    for shape in measured.shapes:
        i = at.get(tuple(sorted(shape.items())))
        listed = _listed(other, i)
        mine = [place[c] for c in map(tuple, other.configs[listed].tolist()) if c in place]
        first: dict[int, int] = {}
        for j in mine:
            first.setdefault(int(entry[j]), j)
        chosen.append(np.array(list(first.values()), dtype=np.intp))
    return {depth: hits(measured, chosen, depth) for depth in LOOK_UPS}


def _listed(measured: MeasuredKernel, shape: int | None) -> npt.NDArray[np.intp]:
    """Return the near-best configurations of a shape, the fastest first."""
    if shape is None:
        return np.zeros(0, dtype=np.intp)
    times = measured.times[shape]
    return np.argsort(times)[: int((~np.isnan(times)).sum())]


def log_errors(predicted: F8, measured: F8) -> F8:
    """Return ln(predicted / measured) for the measured entries."""
    known = ~np.isnan(measured)
    return np.asarray(np.log(predicted[known] / measured[known]))


TEMPERATURES = (0.001, 0.004, 0.015)
RANK, MEDIAN, PRIOR = 1.0, 0.5, 0.02
"""Weights relative to the errors of best rows and defaults: of the ranking, of errors of the median over the search,
and of squared distances from the defaults in spreads."""
LARGEST = 0.5
"""Largest error of a logarithm that counts in the loss; larger ones count as this."""
STRIDE = 6
"""Step between the shapes that are used in the fit."""
ROUNDS, OFFSPRING = 50, 12
FIXED_STRIDE, FIXED_PRIOR, FIXED_ROUNDS = 5, 0.0005, 120

_DEFAULTS = np.array([q.default for q in PARAMETERS])
_LOW, _HIGH = np.array([q.low for q in PARAMETERS]), np.array([q.high for q in PARAMETERS])
_SPREAD = np.array([q.spread for q in PARAMETERS])


def at(z: F8) -> F8:
    """Return the constants at given distances from their defaults, in spreads of the logarithm."""
    return np.asarray(np.clip(_DEFAULTS * np.exp(z * _SPREAD), _LOW, _HIGH))


def loss(parameters: F8, measured: Sequence[MeasuredKernel]) -> float:
    """Return the loss of a fit: the mean over devices."""
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
    """Fit the constants of the kernels with known near-best configurations."""
    some = [m.those(slice(1, None, STRIDE)) for m in measured]

    def badness(z: F8) -> float:
        return loss(at(z), some) + PRIOR * float(np.mean(z**2))

    return at(evolve(badness, len(PARAMETERS), rounds))


def fit_fixed(fixed: FixedTile) -> F8:
    """Fit the constants of a kernel with one known tile, using half of its (n, k)."""
    rows = fixed.halves()[0][::FIXED_STRIDE]
    measured = np.log(fixed.measured_s[rows])

    def badness(z: F8) -> float:
        errors = np.abs(np.log(fixed.predicted(at(z), rows)) - measured)
        return float(np.minimum(errors, LARGEST).mean()) + FIXED_PRIOR * float(np.mean(z**2))

    return at(evolve(badness, len(PARAMETERS), FIXED_ROUNDS))


def evolve(badness: Callable[[F8], float], size: int, rounds: int) -> F8:
    """Minimise a function, starting near zero, by covariance matrix adaptation.

    Hansen, "The CMA Evolution Strategy: A Tutorial" (arXiv 1604.00772), with its default settings and
    `OFFSPRING` candidates a round; the same numbers in every call.
    """
    rng, sigma = np.random.default_rng(0), 0.4
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
