"""Writing results: a file is whole or absent, and a bad folder is refused before the work."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..workloads.errors import InputError
from .result import plain


class OutputFolder:
    """A folder for result files, made and tried out when it is opened.

    Raises
    ------
    InputError
        The folder cannot be made or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"--out {str(path)!r}", f"cannot be written ({reason})") from None

    def write(self, name: str, fill: Callable[[Path], None]) -> Path:
        """Fill a temporary file, then give it its name."""
        target = self.path / name
        with _temporary(target) as path:
            fill(path)
        return target

    def json(self, name: str, data: Any) -> Path:
        """Write plain data as indented JSON."""
        text = to_json(data, indent=1) + "\n"
        return self.write(name, lambda path: _write_text(path, text))

    def text(self, name: str, text: str) -> Path:
        """Write text as it is."""
        return self.write(name, lambda path: _write_text(path, text))

    def table(self, name: str, columns: Mapping[str, npt.NDArray[Any]]) -> Path:
        """Write a table with numbers of six significant digits."""
        import pandas as pd

        frame = pd.DataFrame(dict(columns))
        return self.write(name, lambda path: frame.to_csv(path, index=False, float_format="%.6g"))

    def csv(self, name: str, columns: Mapping[str, npt.NDArray[np.generic]]) -> Path:
        """Write a table; times with 9 decimals, so that equal runs are equal bytes."""
        import pandas as pd

        frame = pd.DataFrame(dict(columns))
        return self.write(name, lambda path: frame.to_csv(path, index=False, float_format="%.9f"))


def to_json(data: Any, indent: int | None = None) -> str:
    """JSON of plain data, without NaN or infinity."""
    return json.dumps(plain(data), indent=indent, allow_nan=False)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A path beside `target` that becomes it at the end, or is removed on failure."""
    path = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield path
        os.replace(path, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(target, f"cannot be written ({reason})") from None
    finally:
        path.unlink(missing_ok=True)
