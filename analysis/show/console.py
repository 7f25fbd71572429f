"""What people read: tables that fit the terminal, and lines around them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .text import Rows, is_numeric, show

if TYPE_CHECKING:
    from rich.table import Table

DISPENSABLE = ("aliases",)
"""Columns left out of a terminal too narrow for them."""


def print_table(rows: Rows) -> None:
    """Print rows as a table: as wide as it needs in a pipe, else within the terminal."""
    print("\n".join(table_lines(rows, _terminal_width())))


def print_text(text: str) -> None:
    """Print a paragraph, wrapped to the terminal; whole in a pipe."""
    import textwrap

    width = _terminal_width()
    print(textwrap.fill(text, width, subsequent_indent="  ") if width else text)


def table_lines(rows: Rows, width: int | None = None) -> list[str]:
    """Lay rows out in columns; the first row's keys are the header.

    Parameters
    ----------
    width : int, optional
        Columns of the terminal; None for as many as needed.

    Examples
    --------
    >>> table_lines([{"op": "experts", "Op/B": 15.9}, {"op": "norm", "Op/B": 0.5}])
    ['op         Op/B', 'experts   15.90', 'norm     0.5000']
    """
    if not rows:
        return []
    keys = list(rows[0])
    cells = [[show(row[key]) for key in keys] for row in rows]
    right = [is_numeric(rows, key) for key in keys]
    for drop in DISPENSABLE:
        if width and drop in keys and len(keys) > 1 and _natural(keys, cells, 2) > width:
            at = keys.index(drop)
            keys, right = keys[:at] + keys[at + 1 :], right[:at] + right[at + 1 :]
            cells = [line[:at] + line[at + 1 :] for line in cells]
    gap = 1 if width and _natural(keys, cells, 2) > width else 2
    if width and _natural(keys, cells, gap) > width:
        return _wrapped(keys, cells, right, width)
    sizes = [max(len(line[i]) for line in [keys, *cells]) for i in range(len(keys))]
    return [
        (" " * gap)
        .join(c.rjust(n) if r else c.ljust(n) for c, n, r in zip(line, sizes, right, strict=True))
        .rstrip()
        for line in [keys, *cells]
    ]


def _natural(keys: Sequence[str], cells: Sequence[Sequence[str]], gap: int) -> int:
    sizes = [max(len(line[i]) for line in [keys, *cells]) for i in range(len(keys))]
    return sum(sizes) + gap * (len(keys) - 1)


def _wrapped(
    keys: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], width: int
) -> list[str]:
    """Break long cells over several lines."""
    from rich.console import Console

    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(_rich_table(keys, cells, right))
    return [line.rstrip() for line in capture.get().splitlines()]


def _rich_table(
    keys: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for key, numeric in zip(keys, right, strict=True):
        table.add_column(escape(key), justify="right" if numeric else "left", no_wrap=numeric,
                         overflow="fold")  # fmt: skip
    for line in cells:
        table.add_row(*map(escape, line))
    return table


def _terminal_width() -> int | None:
    """Columns of the terminal that reads standard output; None in a pipe or a file."""
    import shutil

    watched = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if watched else None
