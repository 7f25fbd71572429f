"""Compiled functions, cached on disk under a hash of the code they came from.

Numba's own cache does not notice an edit in a function that a cached one calls from another
file. Here the folder's name is a hash of every source file of the library, so a changed
library never meets an old cache, and an unchanged one starts warm.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


@lru_cache(maxsize=1)
def cache_dir() -> Path | None:
    """Folder of this library version's compiled code; None where none can be written.

    ``OPBYTE_CACHE`` names another base folder than the user's cache folder.
    """
    import numba

    digest = hashlib.sha256(f"{numba.__version__}".encode())
    root = Path(__file__).resolve().parent.parent
    for folder in ("workloads", "devices", "simulator"):
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    base = os.environ.get("OPBYTE_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    for candidate in (Path(base).expanduser(), Path(tempfile.gettempdir())):
        path = candidate / "opbyte" / digest.hexdigest()[:16]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(path, os.W_OK):
            return path
    return None


def compiled(function: F) -> F:
    """Compile on first call (`numba.njit`) and keep the result in :func:`cache_dir`."""
    import numba

    folder = cache_dir()
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder or "")
    try:
        jitted: F = numba.njit(cache=folder is not None, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = before
    return jitted
