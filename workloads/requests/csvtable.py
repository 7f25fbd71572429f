"""Columns of a CSV file with a header, chunk by chunk."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError, nearest
from .cells import Column
from .textfile import at_line, read_lines, readable


def read_columns(path: Path, names: Sequence[str]) -> Iterator[list[Column]]:
    """Yield the columns `names`, in that order; other columns are ignored.

    Blank lines are skipped. A row with more or fewer cells than the header, a missing column
    and a file without rows are errors.
    """
    header: list[str] | None = None
    found = False
    for chunk in read_lines(path):
        lines: Sequence[int] = range(chunk.first, chunk.first + len(chunk.text))
        text = chunk.text
        if "" in text:
            lines = [n for n, line in zip(lines, text, strict=True) if line]
            text = [line for line in text if line]
        if header is None and text:
            header = header_cells(split_line(path, lines[0], text[0]))
            check_header(path, lines[0], header, names)
            lines, text = lines[1:], text[1:]
        if header is None or not text:
            continue
        found = True
        columns = _columns(path, lines, text, len(header))
        yield [Column(path, lines, name, columns[header.index(name)]) for name in names]
    if header is None:
        raise InputError(path, "is empty")
    if not found:
        raise InputError(path, "has a header but no rows")


def header_of(path: Path) -> list[str]:
    """Column names of a CSV file; none where it is empty."""
    for chunk in read_lines(path):
        for number, line in enumerate(chunk.text, chunk.first):
            if line:
                return header_cells(split_line(path, number, line))
    return []


def header_cells(row: Sequence[str]) -> list[str]:
    """Return column names without the blanks around them."""
    return [cell.strip() for cell in row]


def check_header(path: Path, line: int, header: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a header that lacks one of `names` or has it twice."""
    for name in names:
        if name not in header:
            hint = nearest(name, readable(header))
            raise InputError(at_line(path, line), f"missing column {name!r}{hint}")
        if header.count(name) > 1:
            raise InputError(at_line(path, line), f"column {name!r} appears twice")


def split_line(path: Path, number: int, line: str) -> list[str]:
    """Split one line; a quote left open or a stray carriage return is an error."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise InputError(at_line(path, number), f"is not a CSV row ({error})") from None


def _columns(
    path: Path, lines: Sequence[int], text: list[str], width: int
) -> Sequence[Sequence[str]]:
    """Split rows into columns: at once if no cell is quoted, else row by row."""
    together = ",".join(text)
    commas = {line.count(",") for line in text}
    if commas == {width - 1} and '"' not in together and "\r" not in together:
        cells = together.split(",")
        return [cells[k::width] for k in range(width)]
    rows = [split_line(path, n, line) for n, line in zip(lines, text, strict=True)]
    for number, row in zip(lines, rows, strict=True):
        if len(row) != width:
            reason = f"row has {len(row)} cells where the header has {width}"
            raise InputError(at_line(path, number), reason)
    return list(zip(*rows, strict=True))
