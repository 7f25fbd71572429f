"""Registry of request formats; a file's format is detected from its first line."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..csvfile import check_header, split_header
from ..errors import InputError, nearest
from ..registry import Registry, first_line
from ..textfile import at_line, read_lines, readable
from .rows import Rows

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


def _own_columns(form: RequestFormat) -> None:
    """Refuse a format that has no columns, or the columns of another format."""
    if not form.columns or not all(form.columns):
        raise InputError("its columns", "must list the column names that identify this format")
    for name in FORMATS.names():
        other = FORMATS[name]
        if (set(other.columns), other.json_lines) == (set(form.columns), form.json_lines):
            raise InputError("its columns", f"already identify format {name!r}")


FORMATS: Registry[RequestFormat] = Registry("request format", described=True, check=_own_columns, home=__package__)


def request_format(
    name: str, columns: Sequence[str], *, has_arrivals: bool = True, json_lines: bool = False
) -> Callable[[Reader], Reader]:
    """Register a function as the reader of a format; see `RequestFormat`."""

    def add(read: Reader) -> Reader:
        form = RequestFormat(tuple(columns), has_arrivals, read, json_lines)
        FORMATS.register(name, first_line(read))(form)
        return read

    return add


def detect(path: Path) -> RequestFormat:
    """Return the format of `path` by its first line that is not blank.

    A line that starts like JSON means JSON lines, any other a CSV header. The format is the one whose columns are all
    present, with the most columns. If there is none, the error names the missing columns of the closest CSV format;
    JSON lines are given to their first format, which names its missing keys.
    """
    number, line = _first_line(path)
    known = [FORMATS[name] for name in FORMATS]
    if line.lstrip()[0] in "{[":
        objects = [form for form in known if form.json_lines]
        return _fullest(objects, _keys(line)) or objects[0]
    tables = [form for form in known if not form.json_lines]
    header = split_header(path, number, line)
    form_found = _fullest(tables, header)
    if form_found is not None:
        return form_found
    best = max(tables, key=lambda form: _likeness(form, header))
    if not _likeness(best, header):
        formats = "; ".join(_describe(name) for name in FORMATS)
        raise InputError(at_line(path, number), f"is not the header of a request trace; known formats: {formats}")
    check_header(path, number, header, best.columns)
    return best


def _fullest(forms: Sequence[RequestFormat], names: Collection[str]) -> RequestFormat | None:
    """Return the format with the most columns among those whose columns are all in `names`."""
    fitting = [form for form in forms if set(form.columns) <= set(names)]
    return max(fitting, key=lambda form: len(form.columns), default=None)


def _keys(line: str) -> Collection[str]:
    """Return the keys of a JSON object; empty if the line is not one."""
    try:
        keys = json.loads(line)
    except (ValueError, RecursionError):
        return ()
    return keys if isinstance(keys, dict) else ()


def _likeness(form: RequestFormat, header: list[str]) -> float:
    """Return the share of a format's columns that a header has; a similar name counts half."""
    seen = readable(header)
    near = [name for name in form.columns if nearest(name, seen).startswith("; did you mean")]
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
