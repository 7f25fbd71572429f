"""Lines of a text file of any size, in chunks of bounded memory, with line numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

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


def read_lines(path: Path, line_bytes: int = CHUNK_BYTES) -> Iterator[Lines]:
    """Yield the lines of a UTF-8 file in chunks of about `CHUNK_BYTES`.

    Lines end with a line feed, kept off; a carriage return before it stays. Whatever goes
    wrong (no file, a folder, other bytes than UTF-8) is an `InputError`.
    """
    number, rest = 1, b""
    for data in _read_bytes(path):
        head, found, tail = data.rpartition(b"\n")
        if found:
            text = _decode(path, number, rest + head)
            if number == 1:
                text = text.removeprefix("\ufeff")
            lines = text.split("\n")
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
    try:
        with path.open("rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield data
    except FileNotFoundError:
        raise InputError(path, "no such file") from None
    except IsADirectoryError:
        raise InputError(path, "is a folder, not a file") from None
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    except ValueError:  # a path that no file can have
        raise InputError(shown(str(path)), "is not a file name") from None


def _decode(path: Path, number: int, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = number + data.count(b"\n", 0, error.start)
        bad = f"byte 0x{data[error.start]:02x}"
        raise InputError(at_line(path, line), f"is not UTF-8 text ({bad})") from None
