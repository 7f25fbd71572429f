"""Rows of numbers that have names."""

from __future__ import annotations

from typing import Any

import numpy as np


def named(whole: str, real: str) -> np.dtype[Any]:
    """A record of whole and of real numbers, by their names.

    Examples
    --------
    >>> named("first last", "seconds").names
    ('first', 'last', 'seconds')
    """
    kinds = [*((name, "i8") for name in whole.split()), *((name, "f8") for name in real.split())]
    return np.dtype(kinds)


def records(room: int, kind: np.dtype[Any], before: Any = None) -> Any:
    """Return zeroed records, starting with the records of `before`."""
    new = np.zeros(room, kind).view(np.recarray)
    if before is not None:
        new[: len(before)] = before
    return new
