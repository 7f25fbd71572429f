"""Sequences of experts played against a cache: hit rates of policies, apart from any deployment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf

import numpy as np

from opbyte.extend.systems import CACHE_POLICIES, Chances, ExpertCache


def next_uses(steps: Sequence[Collection[int]], look_ahead: float = inf) -> list[dict[int, float]]:
    """After each step, in how many steps experts are used again, as far as `look_ahead` reaches.

    Examples
    --------
    >>> next_uses([{0}, {1}, {0}])
    [{1: 1.0, 0: 2.0}, {0: 1.0}, {}]
    """
    out: list[dict[int, float]] = [{} for _ in steps]
    known: dict[int, int] = {}
    for t in range(len(steps) - 1, -1, -1):
        near = sorted((at - t, e) for e, at in known.items())
        out[t] = {e: float(ahead) for ahead, e in near if ahead <= look_ahead}
        known |= dict.fromkeys(steps[t], t)
    return out


def drawn_by(seed: int) -> Chances:
    """Victims by a seed: numbers of NumPy's generator at each clock."""

    def chances(clock: int, experts: Sequence[int]) -> list[float]:
        return [float(x) for x in np.random.default_rng([seed, clock]).random(len(experts))]

    return chances


def replay(
    steps: Sequence[Collection[int]], size: int, policy: str, *, look_ahead: float = inf,
    names: Sequence[Collection[int]] | None = None, seed: int = 0, staging: bool = False,
) -> ExpertCache:  # fmt: skip
    """Play a sequence of steps against an empty cache; returns it with its counts.

    Parameters
    ----------
    steps : sequence of collections of int
        Experts that each step uses.
    size : int
        Slots.
    policy : str
        A name of `CACHE_POLICIES`.
    look_ahead : float
        Steps that are known ahead, for policies that ask.
    names : sequence of collections of int, optional
        Experts that a predictor names for each step.
    staging : bool
        See `ExpertCache`.
    """
    cache = ExpertCache(size, policy, drawn_by(seed), staging=staging)
    looks = CACHE_POLICIES[policy].looks_ahead
    ahead = next_uses(steps, look_ahead) if looks else [{}] * len(steps)
    named: Sequence[Collection[int]] = [()] * len(steps) if names is None else names
    for step, known, name in zip(steps, ahead, named, strict=True):
        cache.touch(step, known, name)
    return cache


def hit_rate(
    steps: Sequence[Collection[int]], size: int, policy: str, *, look_ahead: float = inf,
    names: Sequence[Collection[int]] | None = None, seed: int = 0,
) -> float:  # fmt: skip
    """Share of all experts used that the cache held; see `replay`."""
    cache = replay(steps, size, policy, look_ahead=look_ahead, names=names, seed=seed)
    return cache.hits / max(1, cache.hits + cache.misses)
