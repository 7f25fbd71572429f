"""Reader of CSV files with a header, column by column; errors name the file, line and column.

Blank lines are skipped, as are leading lines that begin with ``#``, which name the source of the rows. A cell is text
until its number is read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError, nearest
from .textfile import at_line, read_lines, readable, shown

MAX_BYTES = 1 << 30
"""Maximum size [B] of a file that is read into memory as a whole."""

Bad = list[tuple[int, str]]
"""Rows that cannot be used: their line numbers and the reasons."""


@dataclass(frozen=True, slots=True)
class Column:
    """Cells of one CSV column, with the file's path, the column's name and the line number of each cell."""

    path: Path
    lines: Sequence[int]
    name: str
    cells: Sequence[object]

    def error(self, index: int, reason: str) -> InputError:
        """Return the error for cell `index`; it names the file, the line, the column and the value."""
        where = at_line(self.path, self.lines[index])
        return InputError(where, f"{self.name} {shown(self.cells[index])} {reason}")


def numbers(
    column: Column, least: float = -np.inf, most: float = np.inf, whole: bool = False
) -> npt.NDArray[np.float64]:
    """Parse the cells of a column as floats, and refuse values outside ``[least, most]``.

    Without bounds, NaN and infinities are left to the caller's own checks.

    Raises
    ------
    InputError
        The first cell that is not a number, not a whole one where `whole`, or out of range.
    """
    try:
        parsed = map(float, column.cells)  # type: ignore[arg-type]
        values = np.fromiter(parsed, np.float64, len(column.cells))
    except (TypeError, ValueError, OverflowError):
        bad = next(i for i, cell in enumerate(column.cells) if not _is_number(cell))
        raise column.error(bad, "is not a number") from None
    if len(values) and isinstance(column.cells[0], str) and "_" in "".join(map(str, column.cells)):
        # Python reads 1_000 as a number; no file means it.
        bad = next(i for i, cell in enumerate(column.cells) if "_" in str(cell))
        raise column.error(bad, "is not a number")
    if least > -np.inf or most < np.inf:
        good = (values >= least) & (values <= most) & (not whole or values == np.floor(values))
        if not good.all():
            kind = "a whole number" if whole else "a number"
            upto = f"from {least:.12g} to {most:.12g}" if most < np.inf else f"of at least {least:g}"
            raise column.error(int(np.argmin(good)), f"must be {kind} {upto}")
    return values


def _is_number(cell: object) -> bool:
    try:
        float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def read_columns(path: Path, names: Sequence[str]) -> Iterator[list[Column]]:
    """Yield the columns `names`, in that order, chunk by chunk; ignore other columns.

    A row with more or fewer cells than the header, a missing column and a file without rows are errors.
    """
    empty = True
    for lines, columns in _chunks(path, names):
        empty = False
        yield [Column(path, lines, name, columns[name]) for name in names]
    if empty:
        raise InputError(path, "has a header but no rows")


def read_whole(path: Path, names: Sequence[str]) -> dict[str, Column]:
    """Return all columns by name of a file of at most `MAX_BYTES`; the columns `names` must be present.

    Raises
    ------
    InputError
        As `read_columns`, and a column that stands there twice.
    """
    columns, _ = _joined(path, names, None)
    if not next(iter(columns.values())).lines:
        raise InputError(path, "has a header but no rows")
    return columns


def read_rows(
    path: Path, texts: Sequence[str], counts: Sequence[str], times: Sequence[str], shortest_s: float, most: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line and the cells by column of each row: texts, whole numbers from 1, and times of at least `shortest_s` [s]."""
    columns = read_whole(path, (*texts, *counts, *times))
    cells: dict[str, Sequence[Any]] = {name: columns[name].cells for name in texts}
    cells |= {name: numbers(columns[name], 1, most, whole=True).astype(int).tolist() for name in counts}
    cells |= {name: numbers(columns[name], shortest_s, most).tolist() for name in times}
    for line, *row in zip(columns[texts[0]].lines, *cells.values(), strict=True):
        yield line, dict(zip(cells, row, strict=True))


def read_usable(path: Path) -> tuple[dict[str, Column], Bad]:
    """Return all columns of the rows that are as wide as the header, and the list of the rows that are not.

    A file without a line has no columns; one with only a header has empty ones.
    """
    bad: Bad = []
    try:
        return _joined(path, (), bad)
    except EmptyFileError:
        return {}, bad


class EmptyFileError(InputError):
    """A file without a header."""


def header_of(path: Path) -> list[str]:
    """Return the column names of a CSV file; an empty list if the file is empty."""
    for chunk in read_lines(path):
        for number, line in enumerate(chunk.text, chunk.first):
            if line and not line.startswith("#"):
                return split_header(path, number, line)
    return []


def split_header(path: Path, number: int, line: str) -> list[str]:
    """Return column names without the blanks around them."""
    return [cell.strip() for cell in split_line(path, number, line)]


def check_header(path: Path, line: int, header: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a header in which a column of `names` is missing or appears twice."""
    for name in names:
        if name not in header:
            hint = nearest(name, readable(header))
            raise InputError(at_line(path, line), f"missing column {name!r}{hint}")
        if header.count(name) > 1:
            raise InputError(at_line(path, line), f"column {name!r} appears twice")


def split_line(path: Path, number: int, line: str) -> list[str]:
    """Split one CSV line into cells; refuse an unclosed quote or a stray carriage return."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise InputError(at_line(path, number), f"is not a CSV row ({error})") from None


def _joined(path: Path, names: Sequence[str], bad: Bad | None) -> tuple[dict[str, Column], Bad]:
    """Read a whole file and join the chunks of each column."""
    lines: list[int] = []
    cells: dict[str, list[str]] = {}
    for some, columns in _chunks(path, names, bad, whole=True):
        lines += some
        for name, column in columns.items():
            cells.setdefault(name, []).extend(column)
    return {name: Column(path, lines, name, column) for name, column in cells.items()}, bad or []


def _chunks(
    path: Path, names: Sequence[str], bad: Bad | None = None, whole: bool = False
) -> Iterator[tuple[Sequence[int], dict[str, Sequence[str]]]]:
    """Yield the line numbers and columns of each chunk of rows. A chunk without rows is yielded only if `whole`.

    Rows of another width go into `bad`, or are errors without it.
    """
    header: list[str] | None = None
    for chunk in read_lines(path, most=MAX_BYTES if whole else None):
        lines: Sequence[int] = range(chunk.first, chunk.first + len(chunk.text))
        text = chunk.text
        if header is None:
            first = next((i for i, line in enumerate(text) if line and line[0] != "#"), len(text))
            lines, text = lines[first:], text[first:]
            if not text:
                continue
            header = split_header(path, lines[0], text[0])
            check_header(path, lines[0], header, header if whole else names)
            check_header(path, lines[0], header, names)
            lines, text = lines[1:], text[1:]
        if "" in text:
            lines = [n for n, line in zip(lines, text, strict=True) if line]
            text = [line for line in text if line]
        if text or whole:
            lines, columns = _columns(path, lines, text, len(header), bad)
            yield lines, dict(zip(header, columns, strict=True))
    if header is None:
        raise EmptyFileError(path, "is empty")


def _columns(
    path: Path, lines: Sequence[int], text: list[str], width: int, bad: Bad | None
) -> tuple[Sequence[int], Sequence[Sequence[str]]]:
    """Split rows into columns: at once if no cell is quoted, else row by row."""
    together = ",".join(text)
    commas = {line.count(",") for line in text}
    if commas == {width - 1} and '"' not in together and "\r" not in together:
        cells = together.split(",")
        return lines, [cells[k::width] for k in range(width)]
    good, rows = [], []
    for number, line in zip(lines, text, strict=True):
        try:
            rows.append(_row(path, number, line, width))
            good.append(number)
        except InputError as error:
            if bad is None:
                raise
            bad.append((number, error.reason))
    return good, list(zip(*rows, strict=True)) if rows else [()] * width


def _row(path: Path, number: int, line: str, width: int) -> list[str]:
    """Return the cells of one row; refuse a row that is not as wide as the header."""
    row = split_line(path, number, line)
    if len(row) != width:
        reason = f"row has {len(row)} cells where the header has {width}"
        raise InputError(at_line(path, number), reason)
    return row
