"""Arrays of records with named numbers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

Records = Any
"""An array of records whose fields are numbers, accessed by name."""


def named(whole: str, real: str) -> np.dtype[Any]:
    """Define a record with named integer and float fields.

    Examples
    --------
    >>> named("first last", "seconds").names
    ('first', 'last', 'seconds')
    """
    kinds = [*((name, "i8") for name in whole.split()), *((name, "f8") for name in real.split())]
    return np.dtype(kinds)


@cache
def reals(*names: str) -> np.dtype[Any]:
    """Define a record with named float fields; compiled code reads a vector as one with `jit_address.reader`.

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
    """Return records filled with the given rows."""
    return np.array(list(rows), kind).view(np.recarray)


def summed(arrays: list[Records]) -> SimpleNamespace:
    """Return the sum over all records of each field, added in order."""
    rows = np.concatenate(arrays)
    return SimpleNamespace(**{name: sum(rows[name].tolist()) for name in rows.dtype.names or ()})
