"""Cache policies in compiled code: the functions of `policies`, compiled, and their samples.

As with placement rules (`simulator.step.rules`), one compiled engine serves all policies of the library; for a
user-defined one a separate engine is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from numba import types

from ....workloads.draws import GOLDEN, layer_key, mix, step_key, uniform01
from ....workloads.jit import compiled, compiled_from_outside, compiled_given, compiled_part
from . import policies
from .policies import BUILT_IN, CACHE_POLICIES, Entry

Custom = Callable[[Entry], float] | None

LRU, FIFO, LFU, RANDOM, BELADY = (BUILT_IN.index(name) for name in ("lru", "fifo", "lfu", "random", "belady"))
FROM_OUTSIDE = -1

CHANCE_SEED, NAME_SEED = 0xCAC4E, 0x9A3ED
"""Seeds of victims and of predictors, separate from loads."""

_lru = compiled_part(policies.lru)
_fifo = compiled_part(policies.fifo)
_lfu = compiled_part(policies.lfu)
_random = compiled_part(policies.random)
_belady = compiled_part(policies.belady)
_predictive = compiled_part(policies.predictive)  # and transient, which differs in what it keeps


def policy_code(name: str) -> int:
    """Code of a policy of the library; `FROM_OUTSIDE` for others."""
    return BUILT_IN.index(name) if name in BUILT_IN else FROM_OUTSIDE


def custom_policy(name: str) -> Custom:
    """Return a compiled user-defined policy; None for policies of the library.

    Raises
    ------
    InputError
        Numba cannot compile it.
    """
    if name in BUILT_IN:
        return None
    fields = (*(types.int64,) * 3, types.float64, types.boolean, types.float64)
    return compiled_from_outside(CACHE_POLICIES[name].score, Entry, fields, f"--expert-cache {name}")


@compiled_part
def built_in_policy(custom: None, policy: int, entry: Entry) -> float:
    """Score of an entry under a policy of the library."""
    if policy == LRU:
        return _lru(entry)
    if policy == FIFO:
        return _fifo(entry)
    if policy == LFU:
        return _lfu(entry)
    if policy == RANDOM:
        return _random(entry)
    if policy == BELADY:
        return _belady(entry)
    return _predictive(entry)


@compiled_given("custom", otherwise=built_in_policy)
def policy_score(custom: Callable[[Entry], float], policy: int, entry: Entry) -> float:
    """Score of an entry under a policy, which is from outside where it is `custom`."""
    return custom(entry)


@compiled_part
def drawn_number(key: np.uint64, part: int, expert: int) -> float:
    """Return a number from 0 to 1 for an expert of a part; `key` comes from `step_key`."""
    return uniform01(mix(layer_key(key, part) + np.uint64(expert) * GOLDEN))


@compiled
def draw_numbers(seed: int, replica: int, step: int, part: int, out: npt.NDArray[np.float64]) -> None:
    """`drawn_number` of all experts of a part, for callers outside compiled code."""
    key = step_key(seed, replica, step)
    for e in range(out.size):
        out[e] = drawn_number(key, part, e)


def chances_of(seed: int, replica: int, part: int, experts: int) -> Callable[[int, Sequence[int]], list[float]]:
    """Return the seed of the victims of one part's caches; see `cache.Chances`."""
    out = np.empty(experts)

    def chances(clock: int, held: Sequence[int]) -> list[float]:
        draw_numbers(seed ^ CHANCE_SEED, replica, clock, part, out)
        return [float(out[e]) for e in held]

    return chances


def named_by(
    seed: int, replica: int, step: int, part: int, needed: npt.NDArray[np.bool_], accuracy: float, false_rate: float
) -> npt.NDArray[np.bool_]:
    """Experts that a predictor of stated accuracy names for a step, shape (experts,).

    Parameters
    ----------
    needed : bool array, shape (experts,)
        Experts that the step uses.
    accuracy, false_rate : float
        Probability that it names an expert that is needed, and one that is not.
    """
    out = np.empty(len(needed))
    draw_numbers(seed ^ NAME_SEED, replica, step, part, out)
    return np.asarray(out < np.where(needed, accuracy, false_rate))
