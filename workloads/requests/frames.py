"""Requests that a script holds as a table, as the file that everything else reads."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Table: TypeAlias = "pd.DataFrame | Sequence[Mapping[str, object]]"
"""A pandas frame, or a list of rows: columns as in a trace's file."""


def is_table(value: object) -> bool:
    """Whether a value is a `Table`, which no path is."""
    if isinstance(value, (str, bytes, os.PathLike)):
        return False
    rows = (
        isinstance(value, Sequence) and bool(value) and all(isinstance(r, Mapping) for r in value)
    )
    return rows or (hasattr(value, "to_csv") and hasattr(value, "columns"))


def table_file(table: Table, where: str) -> str:
    """The table as a CSV file, named by what it holds: equal tables are one file.

    It lies in the folder for temporary files, so that other processes can read it too.

    Raises
    ------
    InputError
        Rows of different columns, or a folder that cannot be written.
    """
    text = table.to_csv(index=False) if hasattr(table, "to_csv") else _written(table, where)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"opbyte-{_user()}" / f"table-{digest}.csv"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            own = path.with_suffix(f".{os.getpid()}")
            own.write_text(text, encoding="utf-8")
            own.replace(path)
    except OSError as error:
        raise InputError(where, f"cannot be handed on as {path} ({error.strerror})") from None
    return str(path)


def _written(rows: Sequence[Mapping[str, object]], where: str) -> str:
    columns = list(rows[0])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for i, row in enumerate(rows):
        if list(row) != columns:
            raise InputError(where, f"row {i} has the columns {list(row)}, the first {columns}")
        writer.writerow(["" if row[name] is None else row[name] for name in columns])
    return out.getvalue()


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"
