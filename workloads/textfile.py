"""Lines of a text file of any size, in chunks of bounded memory, with line numbers.

Files as input: regular ones of a bounded size, so that nothing blocks or fills memory.

A device such as ``/dev/zero`` has the size 0 and never ends; a pipe without a writer blocks
whoever opens it. Both are refused before a byte is read.

Short digests of data and files: what is equal has an equal one.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes, without blocking on pipes or devices.

    Raises
    ------
    InputError
        No such file, a folder, a pipe or device, or a file that may not be read.
    """
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would block here.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise InputError(path, "no such file") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    except ValueError:  # a path that no file can have
        raise InputError(f"{str(path)!r:.60}", "is not a file name") from None
    file = os.fdopen(handle, "rb") if not stat.S_ISDIR(os.fstat(handle).st_mode) else None
    if file is None:
        os.close(handle)
        raise InputError(path, "is a folder, not a file")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise InputError(path, "is a pipe or device; give a regular file")
    return file


def read_regular(path: Path, most: int, what: str) -> bytes:
    """Read a whole regular file of at most `most` bytes.

    Parameters
    ----------
    what : str
        What a larger file cannot be, for the message: "a description".

    Raises
    ------
    InputError
        As `open_regular`, or a file that is larger.
    """
    with open_regular(path) as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise InputError(path, f"is larger than {most >> 20} MiB; not {what}")
    return data


CHUNK_BYTES = 1 << 20
"""Bytes read at once; also the default limit of a line's length."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Consecutive lines of a file; `first` is the line number of the first, counted from 1."""

    first: int
    text: list[str]


def at_line(path: Path, line: int) -> str:
    """Name a line of a file the way editors do: ``path:line``."""
    return f"{path}:{line}"


def shown(value: object) -> str:
    """Quote a bad value for an error message, shortened when long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def readable(names: Iterable[str]) -> list[str]:
    """Return the names of a file that an error message can list: at most 40, short and printable."""
    return [name for name in islice(names, 40) if name.isprintable() and len(name) <= 40]


def read_lines(path: Path, line_bytes: int = CHUNK_BYTES, most: int | None = None) -> Iterator[Lines]:
    """Yield the lines of a UTF-8 file in chunks of about `CHUNK_BYTES`.

    Lines end with a line feed, or a carriage return and one; both are removed. Any failure (no file, a folder, bytes
    that are not UTF-8, more than `most` of them) is an `InputError`.
    """
    number, rest, size = 1, b"", 0
    for data in _read_bytes(path):
        size += len(data)
        if most is not None and size > most:
            raise InputError(path, f"is larger than {most >> 20} MiB")
        head, newline, tail = data.rpartition(b"\n")
        if newline:
            text = _decode(path, number, rest + head)
            if number == 1:
                text = text.removeprefix("\ufeff")
            lines = text.replace("\r\n", "\n").removesuffix("\r").split("\n")
            yield Lines(number, lines)
            number += len(lines)
            rest = tail
        else:
            rest += tail
        if len(rest) > line_bytes:
            raise InputError(at_line(path, number), f"line longer than {line_bytes} bytes")
    if rest:
        text = _decode(path, number, rest)
        yield Lines(number, [text.removeprefix("\ufeff") if number == 1 else text])


def _read_bytes(path: Path) -> Iterator[bytes]:
    with open_regular(path) as file:
        try:
            while data := file.read(CHUNK_BYTES):
                yield data
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}") from None


def _decode(path: Path, number: int, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = number + data.count(b"\n", 0, error.start)
        bad = f"byte 0x{data[error.start]:02x}"
        raise InputError(at_line(path, line), f"is not UTF-8 text ({bad})") from None


def digest_of(data: Any) -> str:
    """Return a short digest of plain data; it does not depend on the order of keys.

    Examples
    --------
    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_files(paths: Sequence[Path]) -> str:
    """Return a short digest of files: of their bytes, and of their names if there are several.

    Raises
    ------
    InputError
        If a path cannot be read, or is not a regular file.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path.name if len(paths) > 1 else "") + b"\0")
        with open_regular(path) as stream:
            try:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
            except OSError as error:
                raise InputError(path, f"cannot be read ({error.strerror})") from None
    return digest.hexdigest()[:16]
