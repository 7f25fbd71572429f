"""Strict reader of JSON objects, with one-line errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import SpecError

MAX_BYTES = 8 << 20
"""Size of the largest file read [B]; published ``config.json`` files are below 1 MiB."""


def config_file(path: Path) -> Path:
    """Return the file that a path means: `path` itself, or ``config.json`` in that folder."""
    if not os.path.isdir(path):
        return path
    inside = path / "config.json"
    if not os.path.exists(inside):
        raise SpecError(path, "is a folder without a config.json")
    return inside


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; refuse duplicate keys at every depth.

    Raises
    ------
    SpecError
        Unreadable, not UTF-8, not JSON (with line and column), no object at the top.
    """
    text = _read_text(path)
    try:
        tree = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise SpecError(where, f"is not JSON: {error.msg}") from None
    except RecursionError:
        raise SpecError(path, "is nested too deeply to be a configuration") from None
    except _DuplicateKey as error:
        raise SpecError(path, f"duplicate key {error.key!r}; keep one") from None
    except ValueError:  # an integer beyond the interpreter's digit limit
        raise SpecError(path, "contains a number with too many digits") from None
    if not isinstance(tree, dict):
        raise SpecError(path, f"must be a JSON object, not {type(tree).__name__}")
    return tree


def _read_text(path: Path) -> str:
    """Read a configuration as text; refuse anything but a small UTF-8 file."""
    try:
        if not os.path.exists(path):
            raise SpecError(path, "does not exist")
        if not os.path.isfile(path):
            raise SpecError(path, "is not a regular file")
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(path, f"is larger than {MAX_BYTES >> 20} MiB; not a configuration")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise SpecError(path, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise SpecError(path, f"is not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise SpecError(path, "is empty")
    return text


class _DuplicateKey(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise _DuplicateKey(key)
        out[key] = value
    return out
