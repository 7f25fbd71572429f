"""Finished parts of a long command, so that a second call continues where the first ended.

A part is a file of the cache folder, named by a digest of its inputs, the files it reads, the code, the numerical
packages and the plug-ins. It is written under another name and renamed, so that only complete parts exist; an
unreadable part is computed again. A command deletes its parts after its output.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...workloads.own_folder import cache_folder, write_whole
from ...workloads.plugins import plugin_files
from ...workloads.textfile import digest_of, digest_of_files
from .record import asked, versions

R = TypeVar("R")
DAYS = 30
"""Parts of a command that is not repeated are deleted after this number of days."""
ENDING = ".part"
NOWHERE = Path(os.devnull)


@dataclass(frozen=True, slots=True)
class Kept:
    """Store of one command's finished parts; worker processes write into the same folder.

    Attributes
    ----------
    folder : Path
        Folder of the parts. `NOWHERE` stores nothing; calls of the library use it.
    code : str
        Digest of the code that computes the parts.
    """

    folder: Path = NOWHERE
    code: str = ""

    def __bool__(self) -> bool:
        return self.folder != NOWHERE

    def once(self, part: Any, make: Callable[[], R]) -> R:
        """Return the stored part; if there is none, compute it with `make` and store it.

        Parameters
        ----------
        part : plain data, specs, arrays and paths
            All inputs of the part except the code; see `known_by`.
        """
        stored = self.find(part)
        return self.keep(part, make()) if stored is None else stored[0]

    def find(self, part: Any) -> tuple[Any] | None:
        """Return the stored part in a tuple of one; None if it is not stored."""
        if not self:
            return None
        try:
            data = self._file(part).read_bytes()
        except OSError:
            return None
        body = data[32:]
        if data[:32] != hashlib.sha256(body).digest():
            return None
        return (pickle.loads(body),)

    def keep(self, part: Any, value: R) -> R:
        """Store a part; if it cannot be written, it is left out and must be computed again later."""
        if self:
            file, body = self._file(part), pickle.dumps(value)
            with contextlib.suppress(OSError):
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_whole(file, hashlib.sha256(body).digest() + body)
        return value

    def count(self) -> int:
        """Return the number of stored parts, also those by other versions of the code."""
        return len(list(self.folder.glob(f"*{ENDING}")))

    def forget(self) -> None:
        """Remove the parts."""
        if self:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, part: Any) -> Path:
        return self.folder / f"{digest_of([self.code, known_by(part)])}{ENDING}"


NOTHING = Kept()
"""Store that keeps nothing."""


def kept_by(command: str) -> Kept:
    """Return the store of finished parts of a command with its present options.

    The store is below ``OPBYTE_CACHE`` or the user's cache folder. It stores nothing if another user could write there.
    """
    parts = cache_folder("parts")
    if parts is None:
        return NOTHING
    _forget_old(parts)
    code = digest_of([versions(), {str(f): digest_of_files([f]) for f in plugin_files()}])
    return Kept(parts / f"{command}-{digest_of([os.getcwd(), asked()])}", code)


def _forget_old(parts: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in parts.iterdir():
            if folder.stat().st_mtime < time.time() - DAYS * 86_400:
                shutil.rmtree(folder, ignore_errors=True)


def known_by(value: Any) -> Any:
    """Return plain data that identify a value; for a path, the file's content.

    Raises
    ------
    TypeError
        If the value has another kind, because an ambiguous key must not be stored.

    Examples
    --------
    >>> known_by({"b": (1, 2.5)})
    {'b': [1, 2.5]}
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return _content(value)
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return ["array", *map(known_by, value.tolist())]
        return [value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(known_by(k)): known_by(v) for k, v in value.items()}
    if isinstance(value, list | tuple | range):
        return [known_by(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        inside = {f.name: known_by(getattr(value, f.name)) for f in fields(value)}
        return {"a": type(value).__qualname__, **inside}
    if hasattr(value, "model_dump"):
        return {"a": type(value).__qualname__, "spec": known_by(value.model_dump())}
    raise TypeError(f"a part cannot be known by a {type(value).__name__}")


def _content(path: Path) -> list[str]:
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        return ["folder", *(f"{p.relative_to(path)} {digest_of_files([p])}" for p in inside)]
    return ["file", digest_of_files([path]) if path.is_file() else "absent"]
