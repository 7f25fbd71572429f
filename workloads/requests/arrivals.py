"""Arrival processes: independent gaps between requests, sampled block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..registry import Registry
from .block import Turns
from .options import MAX_CV, MIN_CV, check_real
from .rows import Rows

Gaps = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]
"""Samples n gaps [s]."""

ARRIVALS: Registry[Callable[[float, float | None], Gaps]] = Registry("arrival process")


@ARRIVALS.register("poisson")
def poisson(rate: float, cv: float | None) -> Gaps:
    """Exponential gaps with mean ``1 / rate``; takes no coefficient of variation."""
    if cv is not None:
        raise InputError("--cv", "a Poisson process has none; use the gamma process")
    return lambda rng, n: rng.standard_exponential(n) / rate


@ARRIVALS.register("gamma")
def gamma(rate: float, cv: float | None) -> Gaps:
    """Gamma gaps with mean ``1 / rate`` and coefficient of variation `cv` (1 is Poisson)."""
    if cv is None:
        raise InputError("--cv", "the gamma process needs it: 1 is Poisson, more is burstier")
    shape = check_real(cv, "--cv", MIN_CV, MAX_CV) ** -2
    return lambda rng, n: rng.standard_gamma(shape, n) / (rate * shape)


def with_arrivals(batches: Iterable[Rows], gaps: Gaps, rng: np.random.Generator) -> Iterator[Rows]:
    """Give rows new arrival times: the first at 0, then one gap each.

    Only the first requests of sessions have gaps; the others arrive no earlier than their predecessors. The sum runs in
    order from the last arrival, so that the result is bit-identical for any batching of rows.
    """
    now = latest = 0.0
    done = 0
    for rows in batches:
        if rows.turns is not None:
            first = _first(rows.turns, done)
            done += len(rows)
            edges = np.cumsum(np.concatenate([[now], gaps(rng, int(first.sum()))]))
            now = float(edges[-1])
            times = np.concatenate([[latest], edges[:-1]])[np.cumsum(first)]
            latest = float(times[-1])
            yield replace(rows, arrival_s=times)
            continue
        edges = np.cumsum(np.concatenate([[now], gaps(rng, len(rows))]))
        now = float(edges[-1])
        yield replace(rows, arrival_s=edges[:-1])


def _first(turns: Turns, done: int) -> npt.NDArray[np.bool_]:
    """Which rows are the first of their session or task; `done` rows were before them."""
    if turns.task is None:
        return turns.follows < 0
    first: npt.NDArray[np.bool_] = turns.task == np.arange(done, done + len(turns.task))
    return first
