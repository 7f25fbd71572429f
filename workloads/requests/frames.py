"""Tables of requests in memory, written to a file that all other code can read."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ..errors import InputError
from ..own_folder import temporary_folder, write_whole

if TYPE_CHECKING:
    import pandas as pd

Table: TypeAlias = "pd.DataFrame | Sequence[Mapping[str, object]]"
"""A pandas frame or a list of rows, with the columns of a trace file."""


def is_table(value: object) -> bool:
    """Return whether a value is a `Table` and not a path."""
    if isinstance(value, (str, bytes, os.PathLike)):
        return False
    rows = isinstance(value, Sequence) and bool(value) and all(isinstance(r, Mapping) for r in value)
    return rows or (hasattr(value, "to_csv") and hasattr(value, "columns"))


def table_file(table: Table, where: str) -> str:
    """Write the table to a CSV file that is named by its content; equal tables share one file.

    It is in a temporary folder of the caller, so that other processes can read it too; a file of its name with other
    content is rewritten.

    Raises
    ------
    InputError
        Rows of different columns, or a folder that cannot be written.
    """
    text = table.to_csv(index=False) if hasattr(table, "to_csv") else _written(table, where)
    data = text.encode()
    path = temporary_folder() / f"table-{hashlib.sha256(data).hexdigest()[:16]}.csv"
    try:
        if not path.exists() or path.read_bytes() != data:
            write_whole(path, data)
    except OSError as error:
        raise InputError(where, f"cannot be written to the file {path} ({error.strerror})") from None
    return str(path)


def _written(rows: Sequence[Mapping[str, object]], where: str) -> str:
    columns = list(rows[0])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for i, row in enumerate(rows):
        if list(row) != columns:
            raise InputError(where, f"row {i} has the columns {list(row)}, but the first row has {columns}")
        writer.writerow(["" if row[name] is None else row[name] for name in columns])
    return out.getvalue()
