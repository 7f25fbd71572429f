"""Kernel parameters for every line of a file of shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...devices.catalog import load_device
from ...devices.tiles.config import I8, NAMES, KernelConfig
from ...devices.tiles.machine import Machine
from ...workloads.csvfile import Column, numbers, read_whole
from ...workloads.errors import InputError
from ..show.output import SIGNIFICANT
from ..show.result import Drawing, Result
from ..show.text import Records
from .tune import Tuned, form_of, searched, tuned_of
from .tune_frames import tiles_frame

TOP_OF_FILE = 20
MOST_SHAPES = 100_000
MAP_CAPTION = (
    "Time of the best configuration with each tile over the best time of all; dots mark the best "
    "tile. Of several shapes with the same number, the plot shows the best one for each tile."
)


@dataclass(frozen=True, slots=True)
class TuneRows(Result):
    """Ranked configurations of the lines of a file; see `tune_rows`."""

    FILE = "tune.json"
    PICTURES = ("tiles.png",)
    TABLES = (("tune.csv", "frame", SIGNIFICANT),)

    kernel: str
    tuned: tuple[Tuned, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "rows": [
                {
                    "device": t.machine.name,
                    "shape": dict(t.shape),
                    "default": t.priced_dict(t.default),
                    "ranked": [
                        {**t.priced_dict(of), "rank": i, "also": list(of.also)} for i, of in enumerate(t.ranked, 1)
                    ],
                    "given": t.given and t.priced_dict(t.given),
                }
                for t in self.tuned
            ],
        }

    def rows(self) -> Records:
        return [
            {"device": t.machine.name, **t.shape, "best": str(t.ranked[0].config),
             "best_us": t.ranked[0].seconds * 1e6, "bound": t.ranked[0].bound,
             "default_us": t.default.seconds * 1e6,
             "given_us": t.given and t.given.seconds * 1e6}
            for t in self.tuned
        ]  # fmt: skip

    def report_title(self) -> str:
        return f"{self.kernel}: {len(self.tuned)} shapes"

    def drawings(self) -> list[Drawing]:
        from ..plots.tiles import tile_map

        form, device = self.tuned[0].form, self.tuned[0].machine.name
        mine = [t for t in self.tuned if t.machine.name == device]
        along = form.keys[0].name
        frame = tiles_frame([t.shape for t in mine], [t.ranking for t in mine], along)
        title = f"{form.name} on {device}: which tile for how many {along}"
        return [Drawing(tile_map(frame, along, title), MAP_CAPTION)]


def tune_rows(
    kernel: str, shapes: str | Path, *, device: str | None = None, top: int = TOP_OF_FILE,
    grid: str | Path | None = None, set_: Mapping[str, float] | None = None,
) -> TuneRows:  # fmt: skip
    """Rank the configurations of a kernel for every line of a file.

    Parameters
    ----------
    shapes : path
        CSV with `device`, the keys of the kernel's shapes, and optionally the columns of one configuration to predict
        too.
    device : str, optional
        Where the file has no column `device`.

    Raises
    ------
    InputError
        A missing or bad column, with file and line; or as `tune`.
    """
    form = form_of(kernel)
    path = Path(shapes)
    columns = read_whole(path, [k.name for k in form.keys if k.default is None])
    count = len(next(iter(columns.values())).cells)
    if count > MOST_SHAPES:
        raise InputError(path, f"has {count:,} rows; at most {MOST_SHAPES:,} at a time")
    if "device" not in columns and device is None:
        raise InputError(path, "has no column 'device'; add it or give --device")
    given = _given_configs(columns, count)
    machines: dict[str, Machine] = {}
    spaces: dict[str, I8 | None] = {}
    out = []
    for i in range(count):
        name = str(columns["device"].cells[i]).strip() if "device" in columns else str(device)
        if name not in machines:
            try:
                machines[name] = form.machine(load_device(name)[0]).changed(set_ or {})
            except InputError as error:
                raise InputError(f"{path}:{_line(columns, i)}", f"device {error}") from None
            spaces[name] = None if grid is None else searched(form, machines[name], Path(grid))
        keys = {k.name: columns[k.name].cells[i] for k in form.keys if k.name in columns}
        try:
            checked = form.shape(keys)
        except InputError as error:
            raise InputError(f"{path}:{_line(columns, i)}", str(error)) from None
        out.append(tuned_of(form, machines[name], checked, top, spaces[name], given[i]))
    return TuneRows(kernel, tuple(out))


def _line(columns: Mapping[str, Column], row: int) -> int:
    return int(next(iter(columns.values())).lines[row])


def _given_configs(columns: Mapping[str, Column], count: int) -> list[KernelConfig | None]:
    """The configuration of each line, where the file has the columns of one."""
    there = [name for name in NAMES if name in columns]
    if not set(NAMES[:3]) <= set(there):
        return [None] * count
    values = {name: numbers(columns[name], 1, 65536, whole=True).astype(int) for name in there}
    return [KernelConfig(**{n: int(v[i]) for n, v in values.items()}) for i in range(count)]
