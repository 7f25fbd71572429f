"""A study: evaluation of points on workers, storage of their results, and selection of the best results.

Sweeps, capacity, plan, design, kernel sweeps, engine searches, training searches and layouts are studies: each has its
space, its `evaluate` and its costs, and evaluates all points or a selection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from ...workloads.errors import InputError
from ...workloads.pareto import unbeaten
from . import OnProgress
from .local import HERE, Workers

P = TypeVar("P")
R = TypeVar("R")


class Store(Generic[P, R]):
    """Storage of results by the digest of their inputs, in memory; a subclass may store them permanently."""

    def __init__(self) -> None:
        self.stored: dict[str, R] = {}

    def key(self, point: P) -> str:
        """Return a digest of everything that a point's result depends on."""
        raise NotImplementedError

    def holds(self, key: str, point: P) -> bool:
        """Return whether a point's result is stored and still valid."""
        return key in self.stored

    def keep(self, key: str, point: P, result: R) -> None:
        """Store a result."""
        self.stored[key] = result


@dataclass(slots=True)
class Study(Generic[P, R]):
    """Evaluation of points, with stored results, costs and workers.

    Attributes
    ----------
    evaluate : callable
        A point's result; with other processes it and its points must be picklable.
    costs : callable, optional
        What is to be small of a result: numbers, the first of which ranks.
    workers : Workers
        Where points are evaluated.
    store : Store, optional
        What it holds is not evaluated again.
    lost : callable, optional
        The result of a point whose workers died, from a line that says so; an error without it.
    refusals : tuple of exception types
        Exceptions that `fitting` treats as an infeasible point.
    ran : int
        Points evaluated so far.
    """

    evaluate: Callable[[P], R]
    costs: Callable[[R], Sequence[float]] = lambda result: ()
    workers: Workers = HERE
    store: Store[P, R] | None = None
    lost: Callable[[str], R] | None = None
    refusals: tuple[type[InputError], ...] = ()
    ran: int = 0

    def results(
        self,
        points: Iterable[P],
        progress: OnProgress | None = None,
        on_result: Callable[[R], None] = lambda result: None,
    ) -> list[R]:
        """Return the results of points, in their order; call `on_result` with each new result as soon as it exists."""
        points, store = list(points), self.store
        keys: list[Any] = list(range(len(points))) if store is None else [store.key(p) for p in points]
        known: dict[Any, R] = {} if store is None else store.stored
        new = {k: p for k, p in zip(keys, points, strict=True) if store is None or not store.holds(k, p)}
        before, todo = len(points) - len(new), list(new.items())
        if progress is not None:
            progress(before, len(points))
        with closing(self.workers.each(self.evaluate, list(new.values()), self.lost)) as finished:
            for i, (number, result) in enumerate(finished, 1):
                key, point = todo[number]
                known[key] = result
                if store is not None:
                    store.keep(key, point, result)
                on_result(result)
                if progress is not None:
                    progress(before + i, len(points))
        self.ran += len(todo)
        return [known[key] for key in keys]

    def fitting(self, points: Iterable[P], progress: OnProgress | None = None) -> tuple[list[R], list[InputError]]:
        """Return the results of all feasible points, and the errors of the infeasible points."""
        attempt: Callable[[P], Any] = partial(_attempt, self.evaluate, self.refusals)
        every: list[Any] = replace(self, evaluate=attempt).results(points, progress)
        refused = [outcome for outcome in every if isinstance(outcome, InputError)]
        return [outcome for outcome in every if not isinstance(outcome, InputError)], refused

    def ranked(self, results: Iterable[R]) -> list[R]:
        """Return the results by rising cost; the first cost decides, then the second, and further ones."""
        return sorted(results, key=lambda result: tuple(self.costs(result)))

    def front(self, results: Sequence[R]) -> list[R]:
        """Return the Pareto front over all costs, ordered by the first cost; of equal results the first is kept."""
        if not results:
            return []
        costs = np.array([self.costs(result) for result in results], dtype=float)
        return [results[i] for i in unbeaten(costs, once=True)]


def _attempt(evaluate: Callable[[P], R], refusals: tuple[type[InputError], ...], point: P) -> R | InputError:
    """Return a point's result, or its error if the error is one of `refusals`."""
    try:
        return evaluate(point)
    except refusals as error:
        return error
