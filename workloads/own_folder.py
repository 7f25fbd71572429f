"""Folders for caches that no other user can write.

A cache contains code that is executed: compiled code and pickles. Such a folder is used only if the caller created it
and no other user can replace it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import threading
from functools import lru_cache
from pathlib import Path


def own_folder(base: str | Path, *levels: str) -> Path | None:
    """Return the folder `levels` below `base`, created if it is absent; None unless it belongs only to the caller.

    The levels belong to the caller, the folders above to the caller or to root. No other user may write to any of them,
    except to a folder like ``/tmp``, where users cannot rename the files of others.

    Parameters
    ----------
    base : str or Path
        ``~`` is the caller's home.
    *levels : str
        At least one.
    """
    try:
        path = Path(base).expanduser()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for level in levels:
            path /= level
            path.mkdir(mode=0o700, exist_ok=True)
        path = path.resolve(strict=True)
        folders = [path, *path.parents][: len(levels)]
        if all(_is_own(p) for p in folders) and all(_is_kept(p) for p in folders[-1].parents):
            return path if os.access(path, os.W_OK) else None
    except (OSError, RuntimeError):  # not to be written; no home
        return None
    return None


def cache_folder(*levels: str) -> Path | None:
    """Return a private folder below ``OPBYTE_CACHE`` or the user's cache folder, else below the temporary folder."""
    base = os.environ.get("OPBYTE_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return own_folder(base, "opbyte", *levels) or own_folder(tempfile.gettempdir(), f"opbyte-{_user()}", *levels)


def temporary_folder() -> Path:
    """Return a private folder for files that other processes of the caller read.

    A new one if the usual one is not safe.
    """
    return own_folder(tempfile.gettempdir(), f"opbyte-{_user()}") or _fresh()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of such a folder so that other processes read all of it or nothing, also if several write it at once.

    Only a kill leaves something of a file that was not written.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{threading.get_native_id()}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _fresh() -> Path:
    path = tempfile.mkdtemp(prefix="opbyte-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _is_own(path: Path) -> bool:
    return path.stat().st_uid == _user() and not _others_write(path.stat())


def _is_kept(path: Path) -> bool:
    """Return whether no other user can replace a folder inside `path`."""
    status = path.stat()
    trusted = (_user(), 0, Path(path.anchor).stat().st_uid)
    return status.st_uid in trusted and (bool(status.st_mode & stat.S_ISVTX) or not _others_write(status))


def _others_write(status: os.stat_result) -> bool:
    """Return whether a folder's mode lets other users write; a group with the user's number counts as that user."""
    group = status.st_mode & stat.S_IWGRP and status.st_gid != _user()
    return bool(group or status.st_mode & stat.S_IWOTH)
