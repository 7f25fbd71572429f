"""The results of a sweep, each point's once; on disk one line a point, appended in full and safe against a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ....workloads.errors import InputError
from ....workloads.textfile import digest_of
from ...answers.identity import UNREADABLE, identity
from ...parallel.local import Workers
from ...parallel.study import Store, Study
from ...show.output import lock, to_json, unwritable
from ...show.record import code_version
from .point import Outcome, evaluate

FILE = "points.jsonl"
Settings = Mapping[str, Any]
"""Of a point, by `parameters` names."""


class Outcomes(Store[Settings, Outcome]):
    """Outcomes of points by what they depend on: their settings, what the files hold, and the code."""

    def __init__(self) -> None:
        super().__init__()
        self.version = code_version()
        self._files: dict[str, str] = {}

    def key(self, point: Settings) -> str:
        return key_of(point, self.version, self._files)

    def holds(self, key: str, point: Settings) -> bool:
        return key in self.stored and not any(d.startswith(UNREADABLE) for d in identity(point, self._files).values())

    def study(self, workers: Workers) -> Study[Settings, Outcome]:
        """Simulations of points."""
        return Study(partial(evaluate, version=self.version), workers=workers, store=self, lost=partial(Outcome, None))


def key_of(point: Settings, version: str, known: dict[str, str]) -> str:
    """Digest of everything a point's outcome depends on; of files, what they hold."""
    return digest_of({"point": {**point, **identity(point, known)}, "code": version})


class OutcomeFile(Outcomes):
    """`points.jsonl` of a folder, opened for one sweep at a time.

    A line is appended by one write; a kill leaves at most a line without its end, which is cut
    off at the next opening. Lines of other points and versions stay.

    Raises
    ------
    InputError
        If another sweep has it open, it cannot be written, or a line is not a result.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / FILE
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            except OSError as error:
                raise unwritable(self.path, error) from None
            lock(self._file, self.path)
            with suppress(FileNotFoundError):
                if os.path.samefile(self._file, self.path):
                    break
            os.close(self._file)  # another process removed or replaced the file before it was locked
        try:
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

    def keep(self, key: str, point: Settings, outcome: Outcome) -> None:
        row = {"key": key, "code": self.version, "point": dict(point), **asdict(outcome)}
        text = f"{to_json(row)}\n".encode()
        with suppress(OSError):
            if os.write(self._file, text) == len(text):
                super().keep(key, point, outcome)
                return
        raise InputError(self.path, "could not be written completely; check the free disk space")

    def _read(self) -> None:
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        os.ftruncate(self._file, end)  # without the line that a kill cut short
        for number, line in enumerate(data[:end].splitlines(), 1):
            try:
                row = json.loads(line)
                self.stored[row["key"]] = Outcome(row["metrics"], row["error"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise InputError(f"{self.path}:{number}", "is not a result of a sweep; delete the line") from None
