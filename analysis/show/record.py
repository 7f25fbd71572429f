"""Provenance of a result: the command, its options, the files it read, and the versions.

The command line records it before a command runs; results of the library only have the versions. The output folder and
the number of processes are not included, because they change no result: equal commands write equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..._version import __version__

ROOT = Path(__file__).resolve().parents[2]
"""Folder of the library's folders."""
LIBRARY = ("workloads", "devices", "simulator", "analysis")
SUFFIXES = (".py", ".yaml", ".csv")
PRESENTATION = {"plots", "report", "commands"}
"""Folders of `analysis` that show results and do not change them."""


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the version, and one digest over all source and data files that a result depends on.

    The code of kernels is excluded, because simulations read only their measurements.

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
    """Yield the source and data files that a result depends on, in order."""
    for folder in LIBRARY:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in SUFFIXES and not PRESENTATION & set(file.relative_to(ROOT).parts):
                yield file


ELSEWHERE = ("--out", "--predictions", "--fit", "--workers", "--dask")
"""Options with a value that say where or how, not what."""
FLAGS = ("--json", "--fresh")
"""Such options without a value."""
READ = ("*.json", "*.csv", "*.yaml")
"""Files of a named folder that commands read."""
PACKAGES = ("numpy", "numba", "scipy", "pandas")

_typed: ContextVar[tuple[str, ...] | None] = ContextVar("_typed", default=None)
_options: ContextVar[Mapping[str, Any] | None] = ContextVar("_options", default=None)


@contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """Record the command line as it was typed."""
    token = _typed.set(tuple(arguments))
    try:
        yield
    finally:
        _typed.reset(token)


@contextmanager
def parsed(options: Mapping[str, Any]) -> Iterator[None]:
    """Record the values of a command's arguments and options, including defaults."""
    token = _options.set(dict(options))
    try:
        yield
    finally:
        _options.reset(token)


def made_by() -> dict[str, Any]:
    """Return the provenance of the running command as plain data.

    Returns
    -------
    dict
        ``command`` (None from the library), ``options`` (name -> value, those given and those
        with a default), ``files`` (path as given -> digest of what is read there), ``versions``.
    """
    arguments, options = _typed.get(), asked()
    return {
        "command": None if arguments is None else command_of(arguments),
        "options": options,
        "files": _files(options),
        "versions": versions(),
    }


def asked() -> dict[str, Any]:
    """Return the option values of the running command, without options that do not change the result."""
    left = {k: v for k, v in (_options.get() or {}).items() if f"--{k}" not in (*ELSEWHERE, *FLAGS)}
    return {k: v for k, v in left.items() if v is not False and v not in (None, (), []) and k != "as_json"}


def command_of(arguments: Sequence[str]) -> str:
    """Return the command line quoted for a shell, without the options in `ELSEWHERE` and `FLAGS`.

    Examples
    --------
    >>> command_of(["roofline", "a model", "--out", "x", "--json", "--tp=2"])
    "opbyte roofline 'a model' --tp=2"
    """
    import shlex

    words: list[str] = []
    skip = False
    for text in arguments:
        if skip:
            skip = False
        elif text in ELSEWHERE:
            skip = True
        elif text not in FLAGS and not text.startswith(tuple(f"{name}=" for name in ELSEWHERE)):
            words.append(text)
    return shlex.join(["opbyte", *words])


def versions() -> dict[str, str]:
    """Return the versions of the code, of Python and of the numerical packages."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions_of = {"opbyte": code_version(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions_of[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions_of


def _files(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the files that options name; catalog names are not files."""
    digests: dict[str, str] = {}
    for value in options.values():
        for text in value if isinstance(value, (list, tuple)) else [value]:
            for name in _paths(str(text)) if text else []:
                digest = _digest(name.strip())
                if digest:
                    digests[name.strip()] = digest
    return digests


def _paths(text: str) -> list[str]:
    """Return the possible paths in an option's value: ``trace:PATH``, ``file:PATH``, ``draft:PATH:K``, or comma-separated paths."""
    if text.startswith("draft:"):
        return [text.removeprefix("draft:").rpartition(":")[0]]
    return text.removeprefix("trace:").removeprefix("file:").split(",")


def _digest(name: str) -> str:
    """Return the digest of the files that an argument names; empty if it names none."""
    from ...workloads.errors import InputError
    from ...workloads.textfile import digest_of_files

    path = Path(name)
    try:
        if path.is_dir():
            inside = sorted(file for pattern in READ for file in path.glob(pattern))
            return digest_of_files([file for file in inside if file.is_file()]) if inside else ""
        if path.is_file():
            return digest_of_files([path])
        if path.parent.is_dir() and path.name:  # what the names of ServeGen's clients start with
            clients = sorted(path.parent.glob(f"{_escaped(path.name)}*-trace.csv"))
            return digest_of_files(clients) if clients and path.parent.name else ""
    except (InputError, OSError, ValueError):
        return ""
    return ""


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
