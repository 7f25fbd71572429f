"""Lines of a text file of any size, in chunks of bounded memory, with line numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from .errors import InputError
from .regular import open_regular

CHUNK_BYTES = 1 << 20
"""Bytes read at a time, and the longest line accepted by default."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Consecutive lines of a file; `first` is the number of the first one, from 1."""

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
    """Keep what an error message can list of a file's own names: few, short, printable."""
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
