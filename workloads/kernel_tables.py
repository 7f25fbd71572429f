"""Reader of measured kernel tables, the one place that knows their columns (`kernel_schemas`).

A row that cannot be used, or that repeats another to the last digit, is named with its file and
line and left out of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .csvfile import read_usable
from .errors import InputError, nearest, typed_number
from .kernel_schemas import (
    DTYPES,
    MIXED,
    OWN_NAME,
    PROFILE_OPS,
    SCHEMAS,
    STEMS,
    TEXT,
    TIMINGS,
    USUAL,
    Schema,
    TableForm,
    fill,
)

F8 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row, or a whole file (line 0), that was skipped, and the reason."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class KernelTable:
    """Measured rows of one kernel family.

    Attributes
    ----------
    family : str
        Key of `SCHEMAS`.
    columns : mapping of str to array, shape (n,)
        float64 for numbers, object (str) for the names in `TEXT`; always with `measured_s`.
    file : object array of str, shape (n,)
    line : int64 array, shape (n,)
        Where each row stands.
    """

    family: str
    columns: Mapping[str, npt.NDArray[Any]]
    file: npt.NDArray[np.object_]
    line: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.line)

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """Return a column; a missing optional column has its default value in all rows."""
        usual = SCHEMAS[self.family].usual
        if column in usual and column not in self.columns:
            return np.full(len(self), usual[column], dtype=object)
        return self.columns[column]

    def take(self, rows: npt.NDArray[Any]) -> KernelTable:
        """Return the rows selected by a mask or by indices."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, file=self.file[rows], line=self.line[rows])

    def shape_keys(self) -> npt.NDArray[np.int64]:
        """Return for each row the number of its shape; equal shapes have equal numbers."""
        names = SCHEMAS[self.family].shape
        keys = list(zip(*(self.columns[name].tolist() for name in names), strict=True))
        ids = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        return np.array([ids[key] for key in keys], dtype=np.int64)


def framework(source: str) -> str:
    """Return the framework whose kernels a row measures: ``aiconfigurator/vllm-0.24.0`` -> ``aiconfigurator/vllm``.

    Only that repository times several frameworks; elsewhere the part behind the slash is a
    model or a kernel variant of one framework.

    Examples
    --------
    >>> framework("aiconfigurator/nccl-2.27.3"), framework("vidur/Llama-2-7b")
    ('aiconfigurator/nccl', 'vidur')
    """
    owner, _, rest = source.partition("/")
    return f"{owner}/{rest.split('-')[0]}" if owner == "aiconfigurator" and rest else owner


def table_files(paths: Iterable[str | Path], family: str | None = None) -> list[Path]:
    """Return the CSV files among the paths, and those in their folders, in the given order.

    Parameters
    ----------
    family : str, optional
        Family of the files, for any file names.

    Raises
    ------
    InputError
        If a file does not exist, a folder has no tables, or a stem or `family` is not a family.
    """
    out: list[Path] = []
    if family is not None and family not in SCHEMAS:
        raise InputError(f"--family {family}", f"is not a kernel family{nearest(family, SCHEMAS)}")
    for path in map(Path, paths):
        if path.is_dir() and family is not None:
            raise InputError(f"--family {family}", f"cannot be used for a folder ({path}); name a file")
        if path.is_dir():
            paths_found = sorted(p for p in path.glob("*.csv") if _family(p) is not None)
            if not paths_found:
                raise InputError(path, "has no kernel tables: files *.csv named like a kernel family, such as gemm.csv")
            out += paths_found
        elif path.is_file():
            if family is None and _family(path) is None:
                known = nearest(path.stem, [*SCHEMAS, *STEMS])
                raise InputError(path, f"does not have the name of a kernel family{known}; rename it or add --family")
            out.append(path)
        else:
            raise InputError(path, "no such file or folder")
    return out


def read_tables(
    paths: Iterable[str | Path], every_op: bool = False, form: TableForm = USUAL, family: str | None = None
) -> tuple[dict[str, KernelTable], list[Skipped]]:
    """Read kernel tables.

    Parameters
    ----------
    every_op : bool
        Keep ops of layer profiles that no kernel model covers (embedding, sampler), as kernels with separate names, and
        equal rows: they make no difference to an interpolation.
    form : TableForm
        Differences of the tables from kernel time tables.
    family : str, optional
        Family of all files, for any file names.

    Returns
    -------
    tables : dict of str to KernelTable
        All usable rows, by family.
    skipped : list of Skipped
        Skipped items: files without rows or without the columns of their family, rows with a missing, wrong or
        non-positive number, an unknown kernel, number format or timing, and rows that repeat an earlier one. Rows
        without a time are not measured yet: one entry per file represents all of them.
    """
    parts: dict[str, list[KernelTable]] = {}
    skipped: list[Skipped] = []
    for path in table_files(paths, family):
        table = read_table(path, skipped, every_op, form, family)
        if table is not None:
            parts.setdefault(table.family, []).append(table)
    return {family: joined(tables) for family, tables in parts.items()}, skipped


def read_table(
    path: Path, skipped: list[Skipped], every_op: bool = False, form: TableForm = USUAL, family: str | None = None
) -> KernelTable | None:
    """Read one file; append the rows that cannot be used to `skipped`."""
    family = family or _family(path)
    if family is None:
        raise InputError(path, "does not have the name of a kernel family, such as gemm.csv")
    cells, unread = read_usable(path)
    raw = {name: np.array(column.cells, dtype=object) for name, column in cells.items()}
    line = np.array(next(iter(cells.values())).lines if cells else [], dtype=np.int64)
    bad = np.full(len(line), "", dtype=object)
    schema = SCHEMAS[family]
    if raw:
        fill(raw, family)
        for name, value in schema.usual.items():
            raw.setdefault(name, np.full(len(line), value, dtype=object))
    names = ["source", "device", "kernel", "dtype", *schema.shape, "timing", "measured_s"]
    names += [*schema.more, *schema.usual]
    names = [name for name in [*names, *form.more] if name in raw or name not in form.optional]
    wrong = _whole_file(raw, names, len(line) + len(unread)) if raw else "is empty"
    if wrong:
        skipped.append(Skipped(str(path), 0, wrong))
        return None
    waiting = _left_blank(raw["measured_s"], line, bad)
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        if name in TEXT:
            columns[name] = raw[name]
        else:
            columns[name] = _numbers(raw[name], name, name in schema.may_be_zero, bad)
            if name in schema.shape and name not in schema.means:
                for i in np.flatnonzero(columns[name] != np.floor(columns[name])):
                    _mark(bad, int(i), f"{name} is {str(raw[name][i])!r}, not a whole number")
    _check_names(columns, schema if form.known_kernels else replace(schema, kernels=()), bad, every_op)
    if family == "gemm":
        _check_served(columns, bad)
    if family == "moe":
        _check_host(columns, bad)
    if family == "moe" and not path.with_name("moe_more.csv").exists():
        _check_mixed(columns, bad)
    if not every_op:  # several ops of a profile may be one kernel, which takes equal times
        _check_repeats(columns, line, bad)
    good = bad == ""
    usable = ~good & (bad != WAITS)
    wrong_rows = [*zip(line[usable].tolist(), bad[usable].tolist(), strict=True), *unread, *waiting]
    skipped += [Skipped(str(path), number, reason) for number, reason in sorted(wrong_rows)]
    file = np.full(len(line), str(path), dtype=object)
    return KernelTable(family, columns, file, line).take(good)


def _whole_file(raw: Mapping[str, npt.NDArray[Any]], names: Sequence[str], rows: int) -> str:
    """Return the reason why a whole file cannot be used; "" if it can."""
    lacking = [name for name in names if name not in raw]
    if lacking:
        separator = next((mark for mark in (";", "\t", "|") if any(mark in name for name in raw)), "")
        text = f"; fields are separated by {separator!r}; use commas" if separator else ""
        return f"lacks the columns {', '.join(lacking)}{text}"
    return "" if rows else "has no rows"


WAITS = "waits to be measured"
"""Mark of rows whose time is still to be measured."""


def _left_blank(times: npt.NDArray[Any], line: npt.NDArray[np.int64], bad: npt.NDArray[Any]) -> list[tuple[int, str]]:
    """Mark rows with an empty time; return one line number and reason for all of them."""
    blank = np.flatnonzero([not str(cell).strip() for cell in times])
    bad[blank] = WAITS
    if not len(blank):
        return []
    others = f" and in {len(blank) - 1:,} more of {len(times):,} rows" if len(blank) > 1 else ""
    return [(int(line[blank[0]]), f"measured_s is empty here{others}: not measured yet")]


HOST_BOUND_S = 9e-4
"""Least time [s] of SGLang's wide-parallel experts that measures the device: three times the shortest row whose kernels
were started one by one. Shorter rows measure the host."""


def _check_host(columns: Mapping[str, npt.NDArray[Any]], bad: npt.NDArray[Any]) -> None:
    """Mark rows of wide expert parallelism that measure the host's time."""
    started = (columns["kernel"] == "wide_experts") & (columns["timing"] == "event")
    for i in np.flatnonzero(started & (columns["measured_s"] < HOST_BOUND_S)):
        _mark(
            bad,
            int(i),
            f"kernels of wide experts launched one by one in less than {HOST_BOUND_S * 1e3:g} ms measure the host",
        )


def _check_served(columns: Mapping[str, npt.NDArray[Any]], bad: npt.NDArray[Any]) -> None:
    """Mark gemm rows without columns, except quantisation kernels that the engine itself uses."""
    for i in np.flatnonzero(columns["n"] == 0.0):
        whose, kernel = framework(str(columns["source"][i])).rpartition("/")[2], columns["kernel"][i]
        if kernel == "gemm":
            _mark(bad, int(i), "n is '0', not a positive number")
        elif whose == "sglang" or (whose, kernel) == ("vllm", "scale_matrix"):
            _mark(bad, int(i), f"{whose} serves another kernel than timed here to make activations fp8")


def _check_mixed(columns: Mapping[str, npt.NDArray[Any]], bad: npt.NDArray[Any]) -> None:
    """Mark rows that are means over two different kernels."""
    names = zip(columns["source"], columns["device"], columns["dtype"], strict=True)
    for i, (source, device, dtype) in enumerate(names):
        whose = framework(str(source)).rpartition("/")[2]
        if (whose, dtype) in MIXED and str(device).startswith("B200"):
            _mark(bad, i, f"{dtype} experts of {whose} here are means of two kernels")


def _check_repeats(columns: Mapping[str, npt.NDArray[Any]], line: npt.NDArray[np.int64], bad: npt.NDArray[Any]) -> None:
    """Mark rows that equal an earlier row in every column, including the time."""
    first: dict[tuple[Any, ...], int] = {}
    for i, row in enumerate(zip(*(values.tolist() for values in columns.values()), strict=True)):
        before = first.setdefault(row, int(line[i]))
        if before != line[i]:
            _mark(bad, i, f"repeats line {before}")


def _family(path: Path) -> str | None:
    stem = STEMS.get(path.stem, path.stem)
    return stem if stem in SCHEMAS else None


def _numbers(text: npt.NDArray[Any], name: str, zero: bool, bad: npt.NDArray[Any]) -> F8:
    """Convert a column to numbers; mark rows without a valid number in `bad`."""
    try:
        values = text.astype(np.float64)
    except ValueError:
        values = np.array([typed_number(cell) for cell in text], dtype=np.float64)
    low = 0.0 if zero else np.nextafter(0.0, 1.0)
    for i in np.flatnonzero(~(np.isfinite(values) & (values >= low) & (values < 1e18))):
        wanted = "a number of at least 0" if zero else "a positive number"
        _mark(bad, int(i), f"{name} is {str(text[i])!r}, not {wanted}")
    return values


def _check_names(columns: dict[str, npt.NDArray[Any]], schema: Schema, bad: npt.NDArray[Any], every_op: bool) -> None:
    """Rename ops of profilers to their kernels, and mark rows with unknown names."""
    kernel = columns["kernel"]
    extra_ops = {op for op, kind in PROFILE_OPS.items() if kind is None or op in OWN_NAME}
    extra = extra_ops if every_op else set()
    for op in set(kernel.tolist()) & set(PROFILE_OPS):
        renamed = PROFILE_OPS[op]
        rows = kernel == op
        if op in extra:
            continue
        if renamed is None:
            for i in np.flatnonzero(rows):
                _mark(bad, int(i), f"kernel {op!r} has no model")
        else:
            kernel = np.where(rows, renamed, kernel)
    columns["kernel"] = kernel
    checks: list[tuple[str, Sequence[str]]] = [("dtype", DTYPES), ("timing", TIMINGS)]
    if schema.kernels:
        checks.append(("kernel", schema.kernels))
    for name, known in checks:
        for value in set(columns[name].tolist()) - set(known) - extra:
            reason = f"unknown {name} {value!r}{nearest(str(value), known)}"
            for i in np.flatnonzero(columns[name] == value):
                _mark(bad, int(i), reason)


def _mark(bad: npt.NDArray[Any], row: int, reason: str) -> None:
    if not bad[row]:
        bad[row] = reason


def joined(tables: Sequence[KernelTable]) -> KernelTable:
    """Join tables of one family into one table."""
    first = tables[0]
    columns = {name: np.concatenate([table.columns[name] for table in tables]) for name in first.columns}
    return KernelTable(
        first.family,
        columns,
        np.concatenate([table.file for table in tables]),
        np.concatenate([table.line for table in tables]),
    )


def table_text(columns: Mapping[str, Sequence[Any]], header: Sequence[str]) -> str:
    """Return a kernel table as CSV text, with its provenance as comments at the top."""
    import pandas as pd

    body = pd.DataFrame(dict(columns)).to_csv(index=False, float_format="%.6g")
    return "".join(f"# {line}\n" for line in header) + body
