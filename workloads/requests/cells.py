"""Columns of requests: lengths and times, with the exact line of the first bad cell.

Cells of the columns that say which requests follow which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..csvfile import Column, numbers
from .options import MAX_SIZE

MAX_THINK_S = 1e12

Find = Callable[[str], Column]
"""Gives a column by name."""


def text_of(cell: object) -> str:
    """A name; empty where there is none."""
    return "" if cell is None else str(cell).strip()


def think_times(column: Column) -> npt.NDArray[np.float64]:
    """Parse times between requests [s]; an empty cell is 0."""
    cells = ["0" if text_of(cell) == "" else cell for cell in column.cells]
    values = numbers(replace(column, cells=cells))
    good = (values >= 0) & (values <= MAX_THINK_S)
    if not good.all():
        raise column.error(int(np.argmin(good)), f"must be seconds from 0 to {MAX_THINK_S:g}")
    return values


def check_prompt(column: Column, i: int, prompt: int, said: int) -> None:
    """Refuse a prompt that cannot hold what it starts with."""
    if prompt < said:
        raise column.error(
            i, f"has a prompt of {prompt} tokens, fewer than the {said} of the prompt and output that it starts with"
        )


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
