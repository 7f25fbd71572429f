"""Columns of requests: lengths and times, with the exact line of the first bad cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..csvfile import Column, numbers
from .options import MAX_SIZE

MAX_TIME = 2.0**53
"""Largest accepted timestamp, in the file's unit: float64 is exact for integers up to it."""


def tokens(column: Column) -> npt.NDArray[np.int64]:
    """Parse lengths: whole numbers from 1 to 2**31 - 1 [tokens]."""
    values = numbers(column)
    good = (values >= 1) & (values <= MAX_SIZE) & (values == np.floor(values))
    if not good.all():
        reason = f"must be a whole number of tokens from 1 to {MAX_SIZE}"
        raise column.error(int(np.argmin(good)), reason)
    return values.astype(np.int64)


def times(column: Column) -> npt.NDArray[np.float64]:
    """Parse timestamps: finite, not negative, in the file's unit."""
    values = numbers(column)
    good = (values >= 0) & (values <= MAX_TIME)
    if not good.all():
        raise column.error(int(np.argmin(good)), "must be a finite time, not negative")
    return values


def chances(column: Column) -> npt.NDArray[np.float64]:
    """Parse chances from 0 to 1; NaN where a cell is empty."""
    empty = np.array([cell is None or not str(cell).strip() for cell in column.cells], bool)
    cells = ["0" if none else cell for none, cell in zip(empty, column.cells, strict=True)]
    values = numbers(replace(column, cells=cells))
    good = (values >= 0) & (values <= 1)
    if not good.all():
        raise column.error(int(np.argmin(good)), "must be a chance from 0 to 1, or empty")
    values[empty] = np.nan
    return values


def check_order(column: Column, values: npt.NDArray[np.float64], before: float) -> float:
    """Refuse a timestamp earlier than the one before it; return the last one.

    `before` is the last timestamp of the rows that precede this chunk (-inf at the start).
    """
    late = np.diff(values, prepend=before) < 0
    if late.any():
        raise column.error(int(np.argmax(late)), "is earlier than the row before it")
    return float(values[-1])
