"""Output folders: a folder gets all files of a result or none, and is tested before the work."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError
from .interrupt import uninterrupted, whole
from .record import made_by
from .text import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAMPS = "%.9f"
"""Format of simulated times: nanoseconds, so that equal runs are equal bytes."""

SIGNIFICANT = "%.6g"
"""Format of predictions in tables with measurements: six significant digits, as the measurements have."""


class Written(Protocol):
    """A result, as far as files need it."""

    def to_dict(self) -> dict[str, Any]: ...
    def timing(self) -> dict[str, Any]: ...


class OutputFolder:
    """A folder for result files, which is created and tested when it is opened.

    Files are written under temporary names and renamed together, in the order of writing, when the ``with`` block
    succeeds. Otherwise they are removed, with the folder if it was created here. The summary is written last: if it
    exists, all files exist. One process at a time writes into a folder that ``--out`` names, or files of two runs
    would be mixed.

    Raises
    ------
    InputError
        The folder cannot be made or written, or another process writes into it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place, OutputFolder(place) as folder:
    ...     folder.json("answer.json", {"answer": 42})
    ...     files = list(folder.path.iterdir())
    >>> files[0].name.startswith(".answer.json.")
    True
    """

    def __init__(self, path: str | Path, option: str = "--out") -> None:
        if not str(path) or str(path).startswith("--"):
            reason = "is not a folder's name; write ./NAME for a folder that starts with dashes"
            raise InputError(f"{option} {str(path)!r}", reason)
        self.path, self._option = Path(path), option
        self._made: list[Path] = []
        self._files: list[tuple[Path, Path]] = []
        try:
            self._make(self.path)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except (OSError, ValueError) as error:
            self._remove()
            reason = getattr(error, "strerror", None) or str(error)
            text = f"cannot be written ({reason}); give a folder that can be"
            raise InputError(f"{option} {str(path)!r}", text) from None

    def __enter__(self) -> Self:
        self._descriptor = os.open(self.path, os.O_RDONLY)
        if self._option == "--out":
            lock(self._descriptor, self.path)
        self._open = whole(self._remove)
        self._open.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                with uninterrupted():
                    self._publish()
        finally:
            self._remove()
            os.close(self._descriptor)
            self._open.__exit__(None, None, None)

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        """Fill a temporary file that becomes `name`, a path below the folder, at the end."""
        target = self.path / name
        path = target.with_name(f".{target.name}.{os.getpid()}-{_machine()}.part")
        try:
            self._make(target.parent)
            _remove_stale(target.parent)
            self._files.append((path, target))
            fill(path)
        except OSError as error:
            raise unwritable(target, error) from None

    def json(self, name: str, data: Any) -> None:
        """Write plain data as indented JSON."""
        self.text(name, to_json(data, indent=1) + "\n")

    def answer(self, name: str, result: Written) -> None:
        """Write a result with its provenance, and ``timing.json`` if it has timings."""
        timing = result.timing()
        if timing:
            self.json(str(Path(name).with_name("timing.json")), timing)
        self.json(name, {**result.to_dict(), "made_by": made_by()})

    def text(self, name: str, text: str) -> None:
        """Write text as it is."""
        # A file's name that is not UTF-8 has characters that no encoding knows.
        self.write(name, lambda path: path.write_text(text, encoding="utf-8", errors="backslashreplace"))

    def csv(self, name: str, columns: Mapping[str, npt.NDArray[np.generic]], floats: str = STAMPS) -> None:
        """Write a table; `floats` is the format of its real numbers."""
        self.blocks(name, [columns], floats)

    def blocks(self, name: str, blocks: Iterable[Mapping[str, npt.NDArray[np.generic]]], floats: str = STAMPS) -> None:
        """Write a table block by block, which need not all be there at once."""
        import pandas as pd

        def fill(path: Path) -> None:
            with path.open("w", encoding="utf-8", newline="") as file:
                for i, block in enumerate(blocks):
                    frame = pd.DataFrame(dict(block))
                    frame.to_csv(file, index=False, header=i == 0, float_format=floats)

        self.write(name, fill)

    def table(self, name: str, table: Any, floats: str = STAMPS) -> None:
        """Write rows of equal keys, columns by name, or a pandas frame."""
        import pandas as pd

        frame = pd.DataFrame(table)
        self.csv(name, {str(column): frame[column].to_numpy() for column in frame}, floats)

    def figure(self, name: str, figure: Figure) -> None:
        """Write a plot as PNG."""
        from ..plots import save

        self.write(name, partial(save, figure))

    def _make(self, folder: Path) -> None:
        """Make a folder and those above it, remembering which are new."""
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        for path in reversed(missing):
            if path.is_symlink():
                raise NotADirectoryError(0, "it is a link to what does not exist")
            path.mkdir(exist_ok=True)
            self._made.append(path)
        if not folder.is_dir():
            raise NotADirectoryError(0, "it is a file")

    def _publish(self) -> None:
        for _, target in self._files:
            if target.is_dir():  # looked for first, so that no half of the files is renamed
                raise InputError(target, "is a folder where a file should go; remove it")
        try:
            for _, target in self._files[:0:-1]:  # a kill must not leave an old summary beside new tables
                target.unlink(missing_ok=True)
            for path, target in self._files:
                os.replace(path, target)
        except OSError as error:
            raise unwritable(target, error) from None
        self._files = []

    def _remove(self) -> None:
        """Remove temporary files, and the folders made here that are empty again."""
        for path, _ in self._files:
            path.unlink(missing_ok=True)
        for folder in reversed(self._made):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self._files, self._made = [], []


def lock(descriptor: int, path: Path) -> None:
    """Lock an open file or folder until it is closed.

    Raises
    ------
    InputError
        If a process has the lock already; the descriptor is then closed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(path, "is in use by another command; wait for it, or choose another --out") from None
    except OSError:  # a file system without locks
        pass


def _machine() -> str:
    """Return a short name of this machine, because process numbers identify processes only on one machine."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _remove_stale(folder: Path) -> None:
    """Remove temporary files of runs of this machine that were killed."""
    pattern = re.compile(rf"\..+\.(\d+)-{_machine()}\.part")
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = pattern.fullmatch(path.name)
            if match and not _lives(int(match[1])):
                path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Return whether a process with this number runs; True if it belongs to another user."""
    try:
        os.kill(process, 0)
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError):
        return False
    return True


def unwritable(target: Path, error: OSError) -> InputError:
    """Return the error to raise for a file or folder that cannot be written."""
    return InputError(target, f"cannot be written ({error.strerror or error})")


def to_json(data: Any, indent: int | None = None) -> str:
    """Return plain data as JSON; NaN and infinity are not allowed."""
    return json.dumps(plain(data), indent=indent, allow_nan=False)
