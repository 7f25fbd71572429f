"""Printed output: tables that fit the terminal, and wrapped text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ...workloads.errors import visible
from .text import Rows, is_numeric, show, starts_as_number

DISPENSABLE = ("aliases",)
"""Columns left out of a terminal too narrow for them."""


def print_table(rows: Rows) -> None:
    """Print rows as a table that fits the terminal; in a pipe, as wide as needed."""
    print("\n".join(table_lines(rows, _terminal_width())))


def print_text(text: str) -> None:
    """Print a paragraph, wrapped between words to the terminal's width; in a pipe, on one line."""
    import textwrap

    width = _terminal_width()
    text = visible(text)
    if width:
        text = textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    print(text)


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
    cells = [[visible(show(row[key])) for key in keys] for row in rows]
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
        (" " * gap).join(c.rjust(n) if r else c.ljust(n) for c, n, r in zip(line, sizes, right, strict=True)).rstrip()
        for line in [keys, *cells]
    ]


def _natural(keys: Sequence[str], cells: Sequence[Sequence[str]], gap: int) -> int:
    sizes = [max(len(line[i]) for line in [keys, *cells]) for i in range(len(keys))]
    return sum(sizes) + gap * (len(keys) - 1)


def _wrapped(keys: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], width: int) -> list[str]:
    """Break cells between words; if the columns are still too wide, split the table into parts, one below another.

    Names are never cut, because a name on two lines cannot be searched for. Each part begins with the first column.
    """
    least = [max(_longest_word(key), *map(_least, column), 1) for key, *column in zip(keys, *cells, strict=True)]
    parts: list[list[int]] = [[0]]
    for i in range(1, len(keys)):
        if sum(least[k] + 1 for k in parts[-1]) + least[i] > width and len(parts[-1]) > 1:
            parts.append([0])
        parts[-1].append(i)
    out: list[str] = []
    for part in parts:
        out += [""] if out else []
        lines = [[line[i] for i in part] for line in [keys, *cells]]
        out += _broken(lines, [right[i] for i in part], [least[i] for i in part], width)
    return out


def _least(cell: str) -> int:
    """Return the width below which a cell would be cut: its longest word, or a number with its unit."""
    return len(cell) if starts_as_number(cell) else _longest_word(cell)


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _broken(lines: Sequence[Sequence[str]], right: Sequence[bool], least: Sequence[int], width: int) -> list[str]:
    """Lay out cells that are broken between words; the columns share the available width."""
    from textwrap import wrap

    sizes, natural = list(least), [max(map(len, column)) for column in zip(*lines, strict=True)]
    room = width - sum(sizes) - (len(sizes) - 1)
    while room > 0 and sizes != natural:  # a column at a time, the one that lacks most
        k = max(range(len(sizes)), key=lambda i: natural[i] - sizes[i])
        sizes[k] += 1
        room -= 1
    out = []
    for line in lines:
        texts = [
            wrap(cell, size, break_long_words=False, break_on_hyphens=False) or [""]
            for cell, size in zip(line, sizes, strict=True)
        ]
        for row in range(max(map(len, texts))):
            pieces = [text[row] if row < len(text) else "" for text in texts]
            padded = [p.rjust(n) if r else p.ljust(n) for p, n, r in zip(pieces, sizes, right, strict=True)]
            out.append(" ".join(padded).rstrip())
    return out


def _terminal_width() -> int | None:
    """Return the width of the terminal in characters; None if standard output is a pipe or a file."""
    import shutil

    watched = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if watched else None
