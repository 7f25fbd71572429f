"""Ranking of CPU kernel configurations for this machine from a few rates of its core.

`opbyte measure configs` times all configurations and scores the choices. `tune_rows` ranks configurations of a GPU
kernel for every line of a file of shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...devices.catalog import load_device
from ...devices.tiles.config import I8, NAMES, KernelConfig
from ...devices.tiles.cpu import FORMS, Core
from ...devices.tiles.machine import Machine
from ...kernels.ceilings import rates
from ...kernels.configs import SPACES, ConfigSpace, this_core
from ...kernels.host import this_host
from ...kernels.jit import use_threads
from ...kernels.lab import Bench
from ...workloads.csvfile import Column, numbers, read_whole
from ...workloads.errors import InputError, check_known, nearest
from ..show.output import SIGNIFICANT
from ..show.result import Drawing, Result
from ..show.text import Blocks, Records, Rows, seconds
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
        CSV with the column `device`, the sizes of the kernel, and optionally the columns of one configuration whose time is
        also predicted.
    device : str, optional
        Device of all lines, if the file has no column `device`.

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
    """Return the configuration of each line; None if the file has no columns for one."""
    present = [name for name in NAMES if name in columns]
    if not set(NAMES[:3]) <= set(present):
        return [None] * count
    values = {name: numbers(columns[name], 1, 65536, whole=True).astype(int) for name in present}
    return [KernelConfig(**{n: int(v[i]) for n, v in values.items()}) for i in range(count)]


BLOCK_BYTES = 256 << 20
EVIDENCE = (
    "slots of the loops and traffic of the caches (devices/tiles/cpu.py); rates of this core measured now; "
    "`opbyte measure configs` times every configuration"
)


@dataclass(frozen=True, slots=True)
class HostChoice:
    """One configuration with its time, split by resource."""

    config: Mapping[str, int]
    terms: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.terms.values())

    @property
    def bound(self) -> str:
        """Return the resource with the longest time."""
        return max(self.terms, key=lambda name: self.terms[name])


@dataclass(frozen=True, slots=True)
class HostTune(Result):
    """Ranked configurations of a CPU kernel; see `tune_host`."""

    FILE = "tune.json"
    TABLES = (("tune.csv", "frame", SIGNIFICANT),)

    kernel: str
    device: str
    shape: Mapping[str, int]
    default: HostChoice
    found: tuple[HostChoice, ...]
    top: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel, "device": self.device, "shape": dict(self.shape),
            "searched": len(self.found), "invalid": {},
            "default": {"config": dict(self.default.config), "seconds": self.default.seconds,
                        "bound": self.default.bound},
            "ranked": [
                {"rank": i, "config": dict(c.config), "seconds": c.seconds, "bound": c.bound,
                 "terms": dict(c.terms), "why": self.why(c)}
                for i, c in enumerate(self.found[: self.top], 1)
            ],
            "evidence": [EVIDENCE],
        }  # fmt: skip

    def why(self, choice: HostChoice) -> str:
        """Return a sentence that explains a configuration's time by its terms."""
        shares = {name: part / choice.seconds for name, part in choice.terms.items()}
        first, *rest = sorted(shares.items(), key=lambda item: -item[1])
        text = ", ".join(f"{name} {share:.0%}" for name, share in rest if share >= 0.01)
        saved = self.default.seconds / choice.seconds
        return f"{first[0]} {first[1]:.0%}" + (f", {text}" if text else "") + (
            f"; the default takes {saved:.2f} times as long"
        )  # fmt: skip

    def records(self) -> Rows:
        return [
            {"rank": i, **c.config, "seconds": c.seconds, "bound": c.bound,
             **{f"{name}_s": part for name, part in c.terms.items()}}
            for i, c in enumerate(self.found[: self.top], 1)
        ]  # fmt: skip

    def rows(self) -> Rows:
        return [
            {"rank": i, **c.config, "time": seconds(c.seconds), "bound": c.bound}
            for i, c in enumerate(self.found[: self.top], 1)
        ]

    def blocks(self) -> Blocks:
        shape = ", ".join(f"{k} {v}" for k, v in self.shape.items())
        return [
            f"{self.kernel} on {self.device}, one thread: {shape}; {len(self.found)} configurations",
            self.rows(), f"1: {self.why(self.found[0])}", EVIDENCE,
        ]  # fmt: skip


def tune_host(kernel: str, shape: Mapping[str, object], top: int = 10) -> HostTune:
    """Rank the configurations of a CPU kernel on this machine, without running it.

    Parameters
    ----------
    kernel : str
        A kernel of `kernels.configs.SPACES`.
    shape : mapping
        Sizes of the kernel by column name.

    Raises
    ------
    InputError
        If the kernel is unknown, or the shape's names differ from the kernel's columns.
    """
    names = [space.name for space in SPACES]
    if kernel not in names:
        known = ", ".join(names)
        raise InputError(f"KERNEL {kernel!r}", f"has no configurations here{nearest(kernel, names)}; known: {known}")
    space = SPACES[names.index(kernel)]
    sizes = _checked(space, shape)
    use_threads(1)
    bench = Bench(BLOCK_BYTES, 1)
    of = Core.of(asdict(rates(bench)) | this_core(bench))
    form = FORMS[kernel]

    def priced(config: Any) -> HostChoice:
        fields = asdict(config)
        return HostChoice(fields, form.terms(form.start, of, sizes, fields))

    ranked = sorted(map(priced, space.configs()), key=lambda choice: choice.seconds)
    return HostTune(kernel, this_host(1).device, sizes, priced(space.default), tuple(ranked), top)


def _checked(space: ConfigSpace, shape: Mapping[str, object]) -> dict[str, int]:
    """Return the shape's numbers in the order of its columns; `window` defaults to 0."""
    for name in shape:
        check_known(f"--shape {name}", name, space.shape, f"is not a key of {space.name}")
    out = {}
    for name in space.shape:
        value = shape.get(name, 0 if name in ("window", "kv_prefix") else None)
        try:
            number = int(str(value))
        except ValueError:
            number = -1
        if number < (0 if name in ("window", "kv_prefix") else 1):
            raise InputError(f"--shape {name}", f"must be a whole number, not {value!r:.40}")
        out[name] = number
    if "heads_q" in out and out["heads_q"] % out["heads_kv"]:
        raise InputError("--shape heads_q", f"must be a multiple of heads_kv, {out['heads_kv']}")
    return out
