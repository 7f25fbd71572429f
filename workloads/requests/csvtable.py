"""Columns of a CSV file with a header, chunk by chunk."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError, nearest
from .cells import Column
from .textfile import Lines, at_line, read_lines


def read_columns(path: Path, names: Sequence[str]) -> Iterator[list[Column]]:
    """Yield the columns `names`, in that order; other columns are ignored.

    Blank lines are skipped. A row with more or fewer cells than the header, a missing column
    and a file without rows are errors.
    """
    header: list[str] | None = None
    found = False
    for chunk in read_lines(path):
        lines, rows = _split(path, chunk)
        if header is None and rows:
            header = header_cells(rows[0])
            check_header(path, lines[0], header, names)
            lines, rows = lines[1:], rows[1:]
        if header is None or not rows:
            continue
        found = True
        _check_widths(path, lines, rows, len(header))
        columns = list(zip(*rows, strict=True))
        yield [Column(path, lines, name, columns[header.index(name)]) for name in names]
    if header is None:
        raise InputError(path, "is empty")
    if not found:
        raise InputError(path, "has a header but no rows")


def header_cells(row: Sequence[str]) -> list[str]:
    """Return column names without the blanks around them."""
    return [cell.strip() for cell in row]


def check_header(path: Path, line: int, header: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a header that lacks one of `names` or has it twice."""
    for name in names:
        if name not in header:
            hint = nearest(name, header)
            raise InputError(at_line(path, line), f"missing column {name!r}{hint}")
        if header.count(name) > 1:
            raise InputError(at_line(path, line), f"column {name!r} appears twice")


def split_line(path: Path, number: int, line: str) -> list[str]:
    """Split one line; a quote left open or a stray carriage return is an error."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise InputError(at_line(path, number), f"is not a CSV row ({error})") from None


def _split(path: Path, chunk: Lines) -> tuple[Sequence[int], list[list[str]]]:
    lines: Sequence[int] = range(chunk.first, chunk.first + len(chunk.text))
    try:
        rows = list(csv.reader(chunk.text, strict=True))
    except csv.Error:
        rows = []
    if len(rows) != len(chunk.text):  # something is wrong, or a quoted cell spans lines
        rows = [split_line(path, n, text) for n, text in zip(lines, chunk.text, strict=True)]
    if not all(rows):
        kept = [(n, row) for n, row in zip(lines, rows, strict=True) if row]
        lines, rows = [n for n, _ in kept], [row for _, row in kept]
    return lines, rows


def _check_widths(path: Path, lines: Sequence[int], rows: list[list[str]], width: int) -> None:
    if set(map(len, rows)) == {width}:
        return
    bad = next(i for i, row in enumerate(rows) if len(row) != width)
    reason = f"row has {len(rows[bad])} cells where the header has {width}"
    raise InputError(at_line(path, lines[bad]), reason)
