"""Short digests of data and files: what is equal has an equal one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InputError
from .regular import open_regular


def digest_of(data: Any) -> str:
    """Short digest of plain data: equal data in any order of keys, equal digest.

    Examples
    --------
    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_files(paths: Sequence[Path]) -> str:
    """Short digest of files: their bytes, and their names where there are several.

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
