"""How good a ranking of configurations is, against near-best lists: hits, gain, errors.

The lists hold what was within 1 % of the best, so that a pick outside them was slower by more, or was
never timed: shares of hits are exact, regrets unknown.
"""

from __future__ import annotations

from math import comb

import numpy as np
import numpy.typing as npt

from .config import I8, NAMES, by_name
from .form import F8
from .tables import MeasuredKernel

DEPTHS = (1, 5, 10, 20)
GAINS = (1, 5, 10)
LOOK_UPS = (1, 5, 10)
SLOWER = 0.99
"""A configuration is near-best within best / 0.99."""

Picks = list[npt.NDArray[np.intp]]


def entries(configs: I8) -> npt.NDArray[np.int64]:
    """Return the entry number of each configuration: those that differ only in their group share one."""
    rest = np.delete(configs, NAMES.index("group_m"), axis=1)
    ids: dict[tuple[int, ...], int] = {}
    return np.array([ids.setdefault(tuple(row), len(ids)) for row in rest.tolist()], dtype=np.int64)


def picks(seconds: F8, configs: I8, depth: int) -> Picks:
    """Return the first `depth` entries of each shape's ranking; of equal ones the smallest group represents all.

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
    """Share of shapes with a near-best configuration among the first picks."""
    near = ~np.isnan(measured.times)
    return float(np.mean([near[i, row[:depth]].any() for i, row in enumerate(chosen)]))


def random_hits(measured: MeasuredKernel, depth: int) -> float:
    """The same of picks at random."""
    n = len(measured.configs)
    depth = min(depth, n)
    good = (~np.isnan(measured.times)).sum(axis=1)
    return float(np.mean([1.0 - comb(n - int(m), depth) / comb(n, depth) for m in good]))


def tile_hits(measured: MeasuredKernel, chosen: Picks) -> float:
    """Share of shapes whose first pick has the tile of a near-best configuration."""
    tiles = measured.configs[:, :3]
    near = ~np.isnan(measured.times)
    hits = [near[i, (tiles == tiles[row[0]]).all(axis=1)].any() for i, row in enumerate(chosen)]
    return float(np.mean(hits))


def gain(measured: MeasuredKernel, chosen: Picks, depth: int) -> float:
    """Least share of the default's loss that measuring the first picks would win back."""
    known = ~np.isnan(measured.default_s)
    won = 0.0
    for i, row in enumerate(chosen):
        listed = measured.times[i, row[:depth]]
        if known[i] and not np.isnan(listed).all():
            won += max(0.0, float(np.log(measured.default_s[i] / np.nanmin(listed))))
    there = np.log(measured.default_s[known] / measured.best_s[known]).sum()
    return won / float(there) if there > 0 else 0.0


def default_hits(measured: MeasuredKernel) -> float:
    """Share of shapes whose default is near-best."""
    known = ~np.isnan(measured.default_s)
    good = measured.default_s[known] <= measured.best_s[known] / SLOWER
    return float(good.mean()) if known.any() else 0.0


def look_up(measured: MeasuredKernel, other: MeasuredKernel) -> dict[int, float]:
    """Hits of another device's near-best lists at the same shapes, the fastest first."""
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
    """Near-best configurations of a shape, the fastest first."""
    if shape is None:
        return np.zeros(0, dtype=np.intp)
    times = measured.times[shape]
    return np.argsort(times)[: int((~np.isnan(times)).sum())]


def log_errors(predicted: F8, measured: F8) -> F8:
    """ln(predicted / measured) where measured."""
    known = ~np.isnan(measured)
    return np.asarray(np.log(predicted[known] / measured[known]))
