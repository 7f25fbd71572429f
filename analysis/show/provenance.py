"""What an answer was computed with: the code's version and digests of the inputs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...workloads.errors import InputError
from ...workloads.regular import open_regular

ROOT = Path(__file__).resolve().parents[2]
"""Folder of the library's folders."""
LIBRARY = ("workloads", "devices", "simulator", "analysis")
SUFFIXES = (".py", ".yaml", ".csv")
PRESENTATION = {"plots", "report", "commands"}
"""Folders of `analysis` that show results and do not change them."""


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version and a digest of every source and data file that a result depends on.

    Kernels are left out: simulations read their measurements, never their code.

    Examples
    --------
    >>> code_version().startswith(f"{__version__}+")
    True
    """
    digest = hashlib.sha256()
    for file in sources():
        digest.update(f"{file.relative_to(ROOT)}\0".encode())
        digest.update(file.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def sources() -> Iterator[Path]:
    """Source and data files that a result depends on, in order."""
    for folder in LIBRARY:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in SUFFIXES and not PRESENTATION & set(file.relative_to(ROOT).parts):
                yield file


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
        A path that cannot be read, or is no regular file.
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
