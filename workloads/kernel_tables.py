"""Reader of measured kernel tables, the one place that knows their columns.

A table is a CSV file whose stem names the kernel family. Two forms are read:

- one row a call, ``source, device, kernel, dtype, <shape>, timing, measured_s``
  (gemm, grouped_gemm, attention_prefill, attention_decode, mla, moe, norm, allreduce,
  collectives);
- the layer profiles of serving runs, with ``op`` instead of ``kernel`` and no ``timing``
  (gemm, elementwise, attention_mixed, moe); they come from a profiler of one layer and are
  read as ``timing = kernel``.

Lines at the head of a file that begin with ``#`` say where its rows come from and are left out.
Sizes are whole numbers of elements unless the name says bytes; ``measured_s`` is seconds of one
call. A row that cannot be used, or that repeats another to the last digit, is named with its file
and line and left out of the rows.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError, nearest

F8 = npt.NDArray[np.float64]
MAX_FILE_BYTES = 1 << 30

TEXT = ("source", "device", "kernel", "dtype", "kv_dtype", "timing", "layout", "distribution")
"""Columns that hold names; all others hold numbers."""

DTYPES = ("fp32", "fp16", "bf16", "fp8", "fp8_block", "int8", "nvfp4", "mxfp4", "w4a16_mxfp4")
TIMINGS = ("graph", "kernel", "event", "nccl-tests", "wall")


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns of one family.

    Attributes
    ----------
    shape : tuple of str
        Shape columns; they tell rows of different shapes apart.
    kernels : tuple of str
        Kernel names this family knows; empty = any.
    may_be_zero : tuple of str
        Numbers that may be 0 (no window, no prefix); all others are positive.
    means : tuple of str
        Shape columns that are means, so that they need not be whole numbers.
    """

    shape: tuple[str, ...]
    kernels: tuple[str, ...] = ()
    may_be_zero: tuple[str, ...] = ()
    means: tuple[str, ...] = ()


VECTOR = ("layernorm", "rmsnorm", "softmax", "gelu", "relu", "tanh", "rope", "silu_mul", "geglu",
          "add", "mul", "div", "fused_add_rmsnorm")  # fmt: skip
COLLECTIVE = ("all_gather", "reduce_scatter", "alltoall", "send_recv")
LIBRARIES = ("nccl", "rccl", "custom")

SCHEMAS: dict[str, Schema] = {
    "gemm": Schema(("m", "n", "k", "batch"), ("gemm", "linear_actquant")),
    "grouped_gemm": Schema(("groups", "m_per_group", "n", "k", "layout"), ("grouped_gemm",)),
    "attention_prefill": Schema(
        ("kv_dtype", "batch", "q_len", "kv_prefix", "heads_q", "heads_kv", "head_dim", "window",
         "causal"),
        (), ("kv_prefix", "window", "causal"),
    ),
    "attention_decode": Schema(
        ("kv_dtype", "batch", "kv_len", "heads_q", "heads_kv", "head_dim", "window"),
        (), ("window",),
    ),
    "mla": Schema(("kv_dtype", "batch", "q_len", "kv_len", "heads"), ("mla_decode", "mla_prefill")),
    "moe": Schema(
        ("tokens", "hidden", "inter", "experts", "topk", "tp", "ep", "gated", "distribution",
         "active_experts"),
        ("fused_moe", "moe_experts"), ("gated", "active_experts"), ("active_experts",),
    ),
    "norm": Schema(("rows", "cols"), VECTOR),
    "allreduce": Schema(
        ("bytes", "ranks"), tuple(f"{lib}:all_reduce" for lib in LIBRARIES)
    ),
    "collectives": Schema(
        ("bytes", "ranks"), tuple(f"{lib}:{op}" for lib in LIBRARIES for op in COLLECTIVE)
    ),
    "attention_mixed": Schema(
        ("heads_q", "heads_kv", "head_dim", "prefill_tokens", "prefill_context", "decode_seqs",
         "decode_context"),
        (), ("prefill_tokens", "prefill_context", "decode_seqs", "decode_context"),
        ("prefill_context", "decode_context"),
    ),
}  # fmt: skip

# Ops of the layer profiles, and the kernel each is; those with None have no kernel model.
PROFILE_OPS: dict[str, str | None] = {
    "qkv_proj": "gemm", "o_proj": "gemm", "gate_up_proj": "gemm", "down_proj": "gemm",
    "lm_head": "gemm", "act_fn": "silu_mul", "layernorm": "fused_add_rmsnorm",
    "final_layernorm": "fused_add_rmsnorm", "qk_norm": "rmsnorm", "rotary_emb": "rope",
    "embedding": None, "sampler": None,
}  # fmt: skip
OWN_NAME = ("qk_norm",)
"""Ops that keep their names where every op is kept: models count them with another op."""
PROFILE_COLUMNS = {"op": "kernel", "q_heads": "heads_q", "kv_heads": "heads_kv", "tokens": "rows",
                   "width": "cols"}  # fmt: skip
PROFILE_MOE = {"intermediate": "inter", "num_experts": "experts", "top_k": "topk"}


@dataclass(frozen=True, slots=True)
class Form:
    """How tables differ from those of kernel times.

    Attributes
    ----------
    more : tuple of str
        Further columns of positive numbers.
    optional : tuple of str
        Columns that may be absent; the table is then without them.
    known_kernels : bool
        Whether `Schema.kernels` holds; tables of power name kernels by their framework.
    """

    more: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    known_kernels: bool = True


USUAL = Form()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row, or a whole file (line 0), that was not used and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one family.

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
        return self.columns[column]

    def take(self, rows: npt.NDArray[Any]) -> Table:
        """The rows of a mask or of indices."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, file=self.file[rows], line=self.line[rows])

    def shape_keys(self) -> npt.NDArray[np.int64]:
        """One number per distinct shape, in the order of the rows."""
        names = SCHEMAS[self.family].shape
        keys = list(zip(*(self.columns[name].tolist() for name in names), strict=True))
        ids = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        return np.array([ids[key] for key in keys], dtype=np.int64)


def framework(source: str) -> str:
    """Whose kernels a row timed: ``aiconfigurator/vllm-0.24.0`` -> ``aiconfigurator/vllm``.

    Only that repository times several frameworks; elsewhere the part behind the slash is a
    model or a kernel variant of one framework.

    Examples
    --------
    >>> framework("aiconfigurator/nccl-2.27.3"), framework("vidur/Llama-2-7b")
    ('aiconfigurator/nccl', 'vidur')
    """
    owner, _, rest = source.partition("/")
    return f"{owner}/{rest.split('-')[0]}" if owner == "aiconfigurator" and rest else owner


def table_files(paths: Iterable[str | Path]) -> list[Path]:
    """CSV files, and the CSV files of folders, in the order given.

    Raises
    ------
    InputError
        No such file, a folder without tables, or a stem that is no family.
    """
    out: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.glob("*.csv") if _family(p) is not None)
            if not found:
                raise InputError(path, "holds no kernel tables (*.csv named as a family)")
            out += found
        elif path.is_file():
            if _family(path) is None:
                known = nearest(path.stem, [*SCHEMAS, "elementwise"])
                raise InputError(path, f"is not named as a kernel family{known}")
            out.append(path)
        else:
            raise InputError(path, "no such file or folder")
    return out


def read_tables(
    paths: Iterable[str | Path],
    every_op: bool = False,
    form: Form = USUAL,
) -> tuple[dict[str, Table], list[Skipped]]:
    """Read kernel tables.

    Parameters
    ----------
    every_op : bool
        Keep ops of layer profiles that no kernel model covers (embedding, sampler), as kernels
        of their own names, and equal rows: they make no difference to an interpolation.
    form : Form
        How the tables differ from those of kernel times.

    Returns
    -------
    tables : dict of str to Table
        All usable rows, by family.
    skipped : list of Skipped
        What was left out: files without rows or without the columns of their family, rows
        with a missing, wrong or non-positive number, an unknown kernel, number format or timing,
        and rows that repeat an earlier one.
    """
    parts: dict[str, list[Table]] = {}
    skipped: list[Skipped] = []
    for path in table_files(paths):
        table = read_table(path, skipped, every_op, form)
        if table is not None:
            parts.setdefault(table.family, []).append(table)
    return {family: _join(tables) for family, tables in parts.items()}, skipped


def read_table(
    path: Path, skipped: list[Skipped], every_op: bool = False, form: Form = USUAL
) -> Table | None:
    """Read one file; what cannot be used is appended to `skipped`."""
    family = _family(path)
    if family is None:
        raise InputError(path, "is not named as a kernel family")
    text = _read_csv(path)
    raw, line, bad = text.columns, text.line, text.bad
    schema = SCHEMAS[family]
    if raw:
        _fill(raw, family)
    names = ["source", "device", "kernel", "dtype", *schema.shape, "timing", "measured_s"]
    names = [name for name in [*names, *form.more] if name in raw or name not in form.optional]
    wrong = _whole_file(raw, names) if raw else "is empty"
    if wrong:
        skipped.append(Skipped(str(path), 0, wrong))
        return None
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        if name in TEXT:
            columns[name] = raw[name]
        else:
            columns[name] = _numbers(raw[name], name, name in schema.may_be_zero, bad)
            if name in schema.shape and name not in schema.means:
                for i in np.flatnonzero(columns[name] != np.floor(columns[name])):
                    _mark(bad, int(i), f"{name} is {str(raw[name][i])!r}, not a whole number")
    _check_names(
        columns, schema if form.known_kernels else replace(schema, kernels=()), bad, every_op
    )
    if not every_op:  # several ops of a profile may be one kernel, which takes equal times
        _check_repeats(columns, line, bad)
    good = bad == ""
    skipped += [
        Skipped(str(path), int(n), reason)
        for n, reason in zip(line[~good], bad[~good], strict=True)
    ]
    file = np.full(len(line), str(path), dtype=object)
    return Table(family, columns, file, line).take(good)


def _whole_file(raw: Mapping[str, npt.NDArray[Any]], names: Sequence[str]) -> str:
    """Why a file has no usable table, or ""."""
    lacking = [name for name in names if name not in raw]
    if lacking:
        found = next((mark for mark in (";", "\t", "|") if any(mark in name for name in raw)), "")
        told = f"; fields are parted by {found!r}, not by a comma" if found else ""
        return f"lacks the columns {', '.join(lacking)}{told}"
    return "" if len(raw["measured_s"]) else "has no rows"


def _check_repeats(
    columns: Mapping[str, npt.NDArray[Any]], line: npt.NDArray[np.int64], bad: npt.NDArray[Any]
) -> None:
    """Mark rows that are equal to an earlier one in every column, the time included."""
    first: dict[tuple[Any, ...], int] = {}
    for i, row in enumerate(zip(*(values.tolist() for values in columns.values()), strict=True)):
        before = first.setdefault(row, int(line[i]))
        if before != line[i]:
            _mark(bad, i, f"repeats line {before}")


def _family(path: Path) -> str | None:
    stem = "norm" if path.stem == "elementwise" else path.stem
    return stem if stem in SCHEMAS else None


@dataclass(frozen=True, slots=True)
class _Text:
    """A file's columns as text, the line each row ends on, and what is wrong with its form."""

    columns: dict[str, npt.NDArray[Any]]
    line: npt.NDArray[np.int64]
    bad: npt.NDArray[Any]


def _read_csv(path: Path) -> _Text:
    """All columns as text; blank lines are left out."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(path, "larger than 1 GiB; not a kernel table")
        with path.open(encoding="utf-8-sig", newline="") as lines:
            before = comment_lines(path)
            reader = csv.reader(itertools.islice(lines, before, None))
            names = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num + before, row) for row in reader if row]
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(path, "is not UTF-8 text") from None
    except csv.Error as error:
        raise InputError(path, f"is not a CSV table ({error})") from None
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise InputError(path, f"has the column {twice!r} twice")
    width, empty = len(names), [""] * len(names)
    bad = [f"has {len(r)} fields, not {width}" if len(r) != width else "" for _, r in rows]
    cells = np.array([r if len(r) == width else empty for _, r in rows], dtype=object)
    cells = cells.reshape(len(rows), width)
    columns = {name: cells[:, i] for i, name in enumerate(names)}
    line = np.array([n for n, _ in rows], dtype=np.int64)
    return _Text(columns, line, np.array(bad, dtype=object))


def comment_lines(path: Path) -> int:
    """Lines at the head of a table that begin with ``#``: where its rows come from."""
    count = 0
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith("#"):
                break
            count += 1
    return count


def _fill(raw: dict[str, npt.NDArray[Any]], family: str) -> None:
    """Bring a layer profile of a serving run to the common columns."""
    count = len(next(iter(raw.values()), ()))
    if family in ("norm", "attention_mixed", "gemm"):
        for old, new in PROFILE_COLUMNS.items():
            if old in raw and new not in raw:
                raw[new] = raw.pop(old)
    if family == "gemm" and "batch" not in raw:
        raw["batch"] = np.full(count, "1", dtype=object)
    if family == "moe" and "intermediate" in raw:
        raw.update({new: raw.pop(old) for old, new in PROFILE_MOE.items() if old in raw})
        for name, value in (("tp", "1"), ("ep", "1"), ("gated", "1"), ("distribution", "balanced")):
            raw.setdefault(name, np.full(count, value, dtype=object))
        raw.setdefault("kernel", np.full(count, "fused_moe", dtype=object))
    if family == "attention_mixed":
        raw.setdefault("kernel", np.full(count, "mixed_attention", dtype=object))
    raw.setdefault("timing", np.full(count, "kernel", dtype=object))


def _numbers(text: npt.NDArray[Any], name: str, zero: bool, bad: npt.NDArray[Any]) -> F8:
    """Column of numbers; rows that hold none are marked in `bad`."""
    try:
        values = text.astype(np.float64)
    except ValueError:
        values = np.array([_number(cell) for cell in text], dtype=np.float64)
    low = 0.0 if zero else np.nextafter(0.0, 1.0)
    for i in np.flatnonzero(~(np.isfinite(values) & (values >= low) & (values < 1e18))):
        wanted = "a number of at least 0" if zero else "a positive number"
        _mark(bad, int(i), f"{name} is {str(text[i])!r}, not {wanted}")
    return values


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _check_names(
    columns: dict[str, npt.NDArray[Any]], schema: Schema, bad: npt.NDArray[Any], every_op: bool
) -> None:
    kernel = columns["kernel"]
    own = {op for op, kind in PROFILE_OPS.items() if kind is None or op in OWN_NAME}
    extra = own if every_op else set()
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


def _join(tables: Sequence[Table]) -> Table:
    first = tables[0]
    columns = {
        name: np.concatenate([table.columns[name] for table in tables]) for name in first.columns
    }
    return Table(
        first.family,
        columns,
        np.concatenate([table.file for table in tables]),
        np.concatenate([table.line for table in tables]),
    )
