"""The results of a sweep on disk: one line a point, appended whole, safe against a kill."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ....workloads.errors import InputError
from ...show.output import to_json
from .point import Outcome

FILE = "points.jsonl"


class Dataset:
    """`points.jsonl` of a folder, opened for one sweep at a time.

    A line is appended by one write; a kill leaves at most a line without its end, which is cut
    off at the next opening. Lines of other points and versions stay.

    Raises
    ------
    InputError
        Another sweep has it open, it cannot be written, or a line is no result.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.stored: dict[str, Outcome] = {}
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(self.path, f"cannot be written ({error.strerror})") from None
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        os.fsync(self._file)
        if os.fstat(self._file).st_size == 0:  # nothing came: leave no trace
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def append(self, key: str, point: Mapping[str, Any], version: str, outcome: Outcome) -> None:
        """Store one point's outcome."""
        line = {"key": key, "code": version, "point": dict(point), "metrics": outcome.metrics, "error": outcome.error}
        text = (to_json(line) + "\n").encode()
        if os.write(self._file, text) != len(text):
            raise InputError(self.path, "could not be written whole; is the disk full?")
        self.stored[key] = outcome

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            reason = "is in use by another sweep; wait for it or choose another --out"
            raise InputError(self.path, reason) from None

    def _read(self) -> None:
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            os.ftruncate(self._file, end)  # the line that a kill cut short
        for number, line in enumerate(whole[:end].splitlines(), 1):
            try:
                row = json.loads(line)
                self.stored[row["key"]] = Outcome(row["metrics"], row["error"])
            except (ValueError, KeyError, TypeError):
                reason = "is not a result of a sweep; delete the line"
                raise InputError(f"{self.path}:{number}", reason) from None
