"""Registry of request formats, and which one a file is, judged by its first line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, nearest
from ..registry import Registry
from .csvtable import check_header, header_cells, split_line
from .rows import Rows
from .textfile import at_line, read_lines

Reader = Callable[[Path], Iterator[Rows]]


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """A file format of requests.

    Attributes
    ----------
    columns : tuple of str
        CSV columns that must be there, or keys of a JSON line.
    has_arrivals : bool
        Whether rows carry arrival times.
    read : callable
        Path -> rows, in time order, arrivals from any origin.
    json_lines : bool
        One JSON object a line instead of CSV.
    """

    columns: tuple[str, ...]
    has_arrivals: bool
    read: Reader
    json_lines: bool = False


FORMATS: Registry[RequestFormat] = Registry("request format")


def detect(path: Path) -> RequestFormat:
    """Tell the format of `path` from its first line that is not blank.

    A line that starts like JSON is JSON lines; otherwise the CSV format whose columns are all
    in the header. If none is, the error names what the closest format misses.
    """
    number, line = _first_line(path)
    known = [FORMATS[name] for name in FORMATS]
    if line.lstrip()[0] in "{[":
        return next(form for form in known if form.json_lines)
    tables = [form for form in known if not form.json_lines]
    header = header_cells(split_line(path, number, line))
    for form in tables:
        if set(form.columns) <= set(header):
            return form
    best = max(tables, key=lambda form: _likeness(form, header))
    formats = "known formats: " + "; ".join(_describe(name) for name in FORMATS)
    if not _likeness(best, header):
        raise InputError(at_line(path, number), f"is not the header of a request trace; {formats}")
    try:
        check_header(path, number, header, best.columns)
    except InputError as error:
        raise InputError(error.subject, f"{error.reason}; {formats}") from None
    return best


def _likeness(form: RequestFormat, header: list[str]) -> float:
    """Count the columns of a format that a header has; a near miss counts half."""
    near = [name for name in form.columns if nearest(name, header).startswith("; did you mean")]
    exact = [name for name in form.columns if name in header]
    return (len(exact) + len(near)) / (2 * len(form.columns))


def _describe(name: str) -> str:
    form = FORMATS[name]
    return f"{name} ({'JSON lines: ' if form.json_lines else ''}{', '.join(form.columns)})"


def _first_line(path: Path) -> tuple[int, str]:
    for chunk in read_lines(path):
        for offset, line in enumerate(chunk.text):
            if line.strip():
                return chunk.first + offset, line
    raise InputError(path, "is empty")
