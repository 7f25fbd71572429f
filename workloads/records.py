"""Rows of numbers that have names."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

Records = Any
"""Rows of one kind, by the names of their numbers."""


def named(whole: str, real: str) -> np.dtype[Any]:
    """A record of whole and of real numbers, by their names.

    Examples
    --------
    >>> named("first last", "seconds").names
    ('first', 'last', 'seconds')
    """
    kinds = [*((name, "i8") for name in whole.split()), *((name, "f8") for name in real.split())]
    return np.dtype(kinds)


@cache
def reals(*names: str) -> np.dtype[Any]:
    """A record of real numbers, by their names; compiled code reads a vector of them with `jit_address.reader`.

    Examples
    --------
    >>> float(np.array([1.0, 2.0]).view(reals("seconds", "joules"))[0].joules)
    2.0
    """
    return np.dtype((np.record, [(name, "f8") for name in names]))


def records(room: int | tuple[int, ...], kind: np.dtype[Any], before: Any = None) -> Any:
    """Return zeroed records, starting with the records of `before`."""
    new = np.zeros(room, kind).view(np.recarray)
    if before is not None:
        new[: len(before)] = before
    return new


def filled(kind: np.dtype[Any], rows: Iterable[tuple[Any, ...]]) -> Records:
    """Return records of some rows, the numbers of each in order."""
    return np.array(list(rows), kind).view(np.recarray)


def summed(arrays: list[Records]) -> SimpleNamespace:
    """Return the sums of all records by name, added in order."""
    rows = np.concatenate(arrays)
    return SimpleNamespace(**{name: sum(rows[name].tolist()) for name in rows.dtype.names or ()})
