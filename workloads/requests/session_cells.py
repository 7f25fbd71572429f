"""Cells of the columns that say which requests follow which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..csvfile import Column, numbers

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
