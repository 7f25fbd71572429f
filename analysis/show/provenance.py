"""Provenance of a result: the code's version and digests of the inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ..._version import __version__

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
