"""Reader of tables of measured configurations: near-best configurations, and kernels of one fixed tile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...workloads.csvfile import Column, numbers, read_whole
from ...workloads.errors import InputError
from ...workloads.kernel_tables import Skipped
from ..catalog import load_device
from .config import I8, NAMES
from .form import F8, FORMS, Shape, TiledKernel
from .machine import Machine, machine_of
from .store import UNFITTED

GRID_COLUMNS = NAMES[:4]
NEAR = "near_best"
LEAST_S, MOST_S = 1e-9, 1e6
"""Shortest and longest valid time of a kernel [s], because errors are logarithms of ratios of times."""


@dataclass(frozen=True, slots=True)
class MeasuredKernel:
    """Measurements of one kernel on one device.

    Attributes
    ----------
    device : str
        As the tables call it.
    configs : int64 array, shape (n, fields)
        The space that was searched; configurations that do not fit are left out.
    times : float64 array, shape (shapes, n)
        Seconds of those within 1 % of the best; NaN elsewhere.
    best_s, default_s, median_s : float64 arrays, shape (shapes,)
        Seconds of the best, of the default (NaN where it was not timed) and the median of all.
    defaults : int64 array, shape (shapes, fields)
    """

    device: str
    machine: Machine
    form: TiledKernel
    shapes: tuple[Shape, ...]
    configs: I8
    times: F8
    best_s: F8
    default_s: F8
    median_s: F8
    defaults: I8

    def those(self, at: slice | npt.NDArray[np.bool_]) -> MeasuredKernel:
        """Return the data of some of the shapes."""
        return replace(
            self, shapes=tuple(self.shapes[i] for i in np.arange(len(self.shapes))[at]), times=self.times[at],
            best_s=self.best_s[at], default_s=self.default_s[at], median_s=self.median_s[at], defaults=self.defaults[at],
        )  # fmt: skip

    @property
    def best(self) -> npt.NDArray[np.intp]:
        """Index of the best configuration of each shape."""
        return np.asarray(np.nanargmin(self.times, axis=1))

    def predicted(self, parameters: F8) -> tuple[F8, F8]:
        """Return the predicted seconds of all configurations, shape (shapes, n), and of the defaults, shape (shapes,)."""
        together = np.empty((len(self.shapes), len(self.configs)))
        alone = np.empty(len(self.shapes))
        for i, shape in enumerate(self.shapes):
            rows = np.vstack([self.configs, self.defaults[i : i + 1]])
            seconds = self.form.prices(parameters, self.machine, shape, rows)["seconds"]
            together[i], alone[i] = seconds[:-1], seconds[-1]
        return together, alone


@dataclass(frozen=True, slots=True)
class FixedTile:
    """Measured calls of a kernel whose configuration is known and never changes.

    Attributes
    ----------
    device, machine, form
        As in `MeasuredKernel`.
    measured_s : float64 array, shape (n,)
    """

    device: str
    machine: Machine
    form: TiledKernel
    shapes: tuple[Shape, ...]
    measured_s: F8

    def predicted(self, parameters: F8, rows: npt.NDArray[np.intp] | None = None) -> F8:
        """Return the predicted seconds of all rows, or of some."""
        places = np.arange(len(self.shapes)) if rows is None else rows
        out = np.empty(len(places))
        for i, place in enumerate(places):
            shape = self.shapes[place]
            config = self.form.default(self.machine, shape).row[None]
            out[i] = self.form.prices(parameters, self.machine, shape, config)[0].seconds
        return out

    def halves(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the rows of every second (n, k), and the rows of the others."""
        pairs = [(int(s["n"]), int(s["k"])) for s in self.shapes]
        half = set(sorted(set(pairs))[::2])
        mask = np.array([pair in half for pair in pairs])
        return np.flatnonzero(mask), np.flatnonzero(~mask)


def read_grid(path: Path) -> list[tuple[int, ...]]:
    """Read the tiles and groups of a file with block_m, block_n, block_k and group_m.

    Raises
    ------
    InputError
        A missing column, or a value that is none; with file, line and column.
    """
    columns = read_whole(path, GRID_COLUMNS)
    values = [_whole(columns[name]) for name in GRID_COLUMNS]
    return [tuple(int(v) for v in row) for row in zip(*values, strict=True)]


def _whole(column: Column) -> F8:
    return numbers(column, 1, 65536, whole=True)


def read_configs(
    paths: Iterable[str | Path], needed: bool = True
) -> tuple[list[MeasuredKernel], list[FixedTile], list[Skipped]]:
    """Read the tables of folders: ``KERNEL_near_best.csv`` with its shapes and grid, and ``gemm.csv``.

    Unless they are `needed`, all of them may be missing.

    Raises
    ------
    InputError
        If a folder or file does not exist, has no usable row, or has a bad cell.
    """
    by_stem: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(path, "no such file or folder")
        inside = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        by_stem |= {file.stem: file for file in inside}
    measured: list[MeasuredKernel] = []
    fixed: list[FixedTile] = []
    skipped: list[Skipped] = []
    used: set[str] = set()
    for kernel in sorted(FORMS):
        stems = [f"{kernel}_{part}" for part in (NEAR, "shapes", "grid")]
        if stems[0] not in by_stem:
            continue
        for stem in stems[1:]:
            if stem not in by_stem:
                raise InputError(by_stem[stems[0]], f"needs the file {stem}.csv in the same folder")
        new, left = _near_best(FORMS[kernel], *(by_stem[stem] for stem in stems))
        measured, skipped, used = measured + new, skipped + left, used | set(stems)
    if "gemm" in by_stem:
        new_fixed, left = _fixed(by_stem["gemm"])
        fixed, skipped = fixed + new_fixed, skipped + left
        used.add("gemm")
    skipped += [
        Skipped(str(file), 0, "is not a table of configurations that this command reads")
        for stem, file in by_stem.items() if stem not in used
    ]  # fmt: skip
    if needed and not measured and not fixed:
        why = "; ".join(s.reason for s in skipped if s.reason.startswith("device "))
        reason = why or "holds no table of configurations (fused_moe_near_best.csv, ...)"
        raise InputError(", ".join(map(str, paths)), reason)
    return measured, fixed, skipped


def _near_best(form: TiledKernel, near: Path, shapes: Path, grid: Path) -> tuple[list[MeasuredKernel], list[Skipped]]:
    """Return the measurements of each device from a kernel's three tables."""
    keys = tuple(key.name for key in form.keys if key.default is None)
    quadruples = read_grid(grid)
    rows = read_whole(near, ["device", *keys, *NAMES[:6], "measured_s"])
    totals = read_whole(
        shapes, ["device", *keys, "best_s", "default_s", "grid_median_s", *(f"default_{name}" for name in NAMES[:6])]
    )
    out, skipped = [], []
    for device in dict.fromkeys(map(str, totals["device"].cells)):
        try:
            machine = machine_of(load_device(device)[0])
        except InputError as error:
            skipped.append(Skipped(str(shapes), 0, f"device {device}: {error.reason}"))
            continue
        per_device = _device(form, device, machine, keys, quadruples, rows, totals)
        if per_device.shapes:
            out.append(per_device)
        else:
            reason = f"device {device}: {near.name} has no times for the configurations of {grid.name}"
            skipped.append(Skipped(str(near), 0, reason))
    return out, skipped


def _device(
    form: TiledKernel, device: str, machine: Machine, keys: Sequence[str],
    quadruples: list[tuple[int, ...]], rows: Mapping[str, Column], totals: Mapping[str, Column],
) -> MeasuredKernel:  # fmt: skip
    """Return the rows of one device as a grid of shapes and configurations; NaN if not measured."""
    from .forms.fused_moe import expanded

    mine = [i for i, name in enumerate(totals["device"].cells) if name == device]
    sizes = np.stack([_whole(totals[key])[mine] for key in keys], axis=1).astype(np.int64)
    shapes = tuple(form.shape({key: int(v) for key, v in zip(keys, row, strict=True)}) for row in sizes)
    configs = expanded(machine, quadruples)
    shared_bytes = form.prices(UNFITTED.p, machine, shapes[0], configs)["shared_bytes"]
    configs = configs[shared_bytes <= machine.vector.shared_block]
    place = {tuple(c): j for j, c in enumerate(configs.tolist())}
    which = {tuple(s): i for i, s in enumerate(sizes.tolist())}
    times = np.full((len(shapes), len(configs)), np.nan)
    at = [i for i, name in enumerate(rows["device"].cells) if name == device]
    timed = numbers(rows["measured_s"], LEAST_S, MOST_S)[at]
    of_shape = np.stack([_whole(rows[key])[at] for key in keys], axis=1).astype(int).tolist()
    of_config = np.stack([_whole(rows[name])[at] for name in NAMES[:6]], axis=1).astype(int).tolist()
    for s, c, seconds in zip(of_shape, of_config, timed, strict=True):
        i, j = which.get(tuple(s)), place.get((*c, 1))
        if i is not None and j is not None:
            times[i, j] = seconds
    defaults = np.array([form.default(machine, s).row for s in shapes])
    measured_kept = ~np.isnan(times).all(axis=1)
    measured = MeasuredKernel(
        device, machine, form, shapes, configs, times,
        numbers(totals["best_s"], LEAST_S, MOST_S)[mine], _optional(totals["default_s"], LEAST_S, MOST_S)[mine],
        numbers(totals["grid_median_s"], LEAST_S, MOST_S)[mine], _defaults(totals, mine, defaults),
    )  # fmt: skip
    return measured.those(measured_kept)  # of which a configuration in the space was timed


def _optional(column: Column, least: float = -np.inf, most: float = np.inf) -> F8:
    """Return the numbers of a column; empty cells are NaN."""
    given = np.array([str(cell).strip() != "" for cell in column.cells], bool)
    cells = [cell if one else max(least, 0.0) for cell, one in zip(column.cells, given, strict=True)]
    return np.where(given, numbers(replace(column, cells=cells), least, most), np.nan)


def _defaults(totals: Mapping[str, Column], mine: list[int], otherwise: I8) -> I8:
    """Return the configurations that the table lists as default, else the form's default."""
    columns = [totals[f"default_{name}"] for name in NAMES[:6]]
    given = np.stack([_optional(column)[mine] for column in columns], axis=1)
    out = otherwise.copy()
    said = ~np.isnan(given).any(axis=1)
    for column, cells in zip(columns, given.T, strict=True):
        bad = said & ~((cells >= 1) & (cells <= 65536) & (cells == np.floor(cells)))
        if bad.any():
            raise column.error(mine[int(np.argmax(bad))], "must be a whole number from 1 to 65536")
    out[said, :6] = given[said].astype(np.int64)
    return out


def _fixed(path: Path) -> tuple[list[FixedTile], list[Skipped]]:
    """Read the rows of products whose tile is known: scales of 128 x 128, by device."""
    form = FORMS["gemm"]
    columns = read_whole(path, ["device", "dtype", "m", "n", "k", "measured_s"])
    known = [d == "fp8_block" for d in columns["dtype"].cells]
    out, skipped = [], []
    if not all(known):
        skipped.append(
            Skipped(str(path), 0, f"{known.count(False)} rows left out, because their libraries choose the tile")
        )
    sizes = np.stack([numbers(columns[key], 1, 1 << 24, whole=True) for key in ("m", "n", "k")], axis=1).astype(int)
    seconds = numbers(columns["measured_s"], 0)
    for device in dict.fromkeys(map(str, columns["device"].cells)):
        mine = [i for i, d in enumerate(columns["device"].cells) if d == device and known[i]]
        try:
            machine = machine_of(load_device(device)[0])
        except InputError as error:
            skipped.append(Skipped(str(path), 0, f"device {device}: {error.reason}"))
            continue
        if mine:
            shapes = tuple(
                form.shape({"m": m, "n": n, "k": k, "dtype": "fp8_block"}) for m, n, k in sizes[mine].tolist()
            )
            out.append(FixedTile(device, machine, form, shapes, seconds[mine]))
    return out, skipped
