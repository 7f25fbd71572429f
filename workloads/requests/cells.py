"""Columns of cells to numpy arrays: a fast path, and the exact line of the first bad cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .options import MAX_SIZE
from .textfile import at_line, shown

MAX_TIME = 2.0**53
"""Largest time stamp accepted, in the file's unit: float64 is exact for whole ones up to it."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a chunk of rows and where it stands: path, line of each cell, name."""

    path: Path
    lines: Sequence[int]
    name: str
    cells: Sequence[object]

    def error(self, index: int, reason: str) -> InputError:
        """Point at cell `index`."""
        where = at_line(self.path, self.lines[index])
        return InputError(where, f"{self.name} {shown(self.cells[index])} {reason}")


def numbers(column: Column) -> npt.NDArray[np.float64]:
    """Parse text or numbers to floats; NaN and infinities are left to the range checks."""
    try:
        values = np.array([float(c) for c in column.cells])  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        bad = next(i for i, cell in enumerate(column.cells) if not _is_number(cell))
        raise column.error(bad, "is not a number") from None
    texts = [c for c in column.cells if type(c) is str]
    if "_" in "".join(texts):  # Python reads 1_000 as a number; no trace format means it
        bad = next(i for i, cell in enumerate(column.cells) if "_" in str(cell))
        raise column.error(bad, "is not a number")
    return values


def _is_number(cell: object) -> bool:
    try:
        float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def tokens(column: Column) -> npt.NDArray[np.int64]:
    """Parse lengths: whole numbers from 1 to 2**31 - 1 [tokens]."""
    values = numbers(column)
    good = (values >= 1) & (values <= MAX_SIZE) & (values == np.floor(values))
    if not good.all():
        reason = f"must be a whole number of tokens from 1 to {MAX_SIZE}"
        raise column.error(int(np.argmin(good)), reason)
    return values.astype(np.int64)


def times(column: Column) -> npt.NDArray[np.float64]:
    """Parse time stamps: finite, not negative, in the file's unit."""
    values = numbers(column)
    good = (values >= 0) & (values <= MAX_TIME)
    if not good.all():
        raise column.error(int(np.argmin(good)), "must be a finite time, not negative")
    return values


def check_order(column: Column, values: npt.NDArray[np.float64], before: float) -> float:
    """Refuse a stamp earlier than the one before it; return the last stamp.

    `before` is the last stamp of the rows that precede this chunk (-inf at the start).
    """
    late = np.diff(values, prepend=before) < 0
    if late.any():
        raise column.error(int(np.argmax(late)), "is earlier than the row before it")
    return float(values[-1])
