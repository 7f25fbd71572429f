"""Measure the time of every kernel configuration on this machine, and test the model that chooses among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ...kernels.configs import SPACES, KernelSearch, search
from ...kernels.gpu_measure import SPACES as GPU_SPACES
from ...kernels.gpu_measure import GpuSearched, Timer, copy_rate, gpu_host, open_device, search_gpu
from ...kernels.host import HostInfo
from ...workloads.errors import check_known
from ...workloads.kernel_tables import table_text
from ...workloads.requests.options import check_seed
from ..parallel import OnProgress
from ..show.result import Result
from ..show.text import Blocks, Rows
from .cpu_configs import FEWEST, Choice, Regret, choice

if TYPE_CHECKING:
    from ..show.output import OutputFolder

GPU_TABLE = "tables/configs_gpu_{}.csv"


@dataclass(frozen=True, slots=True)
class GpuConfigs(Result):
    """Measured times of all configurations of the CUDA kernels on a GPU."""

    host: HostInfo
    found: Sequence[GpuSearched]

    def to_dict(self) -> dict[str, Any]:
        return {"device": self.host.device, "gpu": self.host.cpu, "rows": list(self.rows())}

    def records(self) -> Rows:
        return [{"kernel": one.kernel, **row} for one in self.found for row in one.rows()]

    def rows(self) -> Rows:
        return [
            {"kernel": one.kernel, "shape": _words(one.columns),
             "default": _words(one.configs[one.default]), "best": _words(one.configs[one.best]),
             "us": one.samples[one.best].median_s * 1e6, "default over best": one.gain,
             "steady": one.steady}
            for one in self.found
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        count = sum(len(one.configs) for one in self.found)
        return [f"{self.host.cpu}: {count} configurations checked and timed", self.rows()]

    def write(self, files: OutputFolder) -> None:
        """Write every configuration's time by kernel, and the result."""
        head = [f"GPU: {self.host.cpu}", "seconds: median of graph replays"]
        for name in dict.fromkeys(one.kernel for one in self.found):
            rows = [{"device": self.host.device, **row}
                    for one in self.found if one.kernel == name for row in one.rows()]  # fmt: skip
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            files.text(GPU_TABLE.format(name), table_text(columns, head))
        files.answer("configs.json", self)


LEFT_OUT = ("kernel", "dtype", "kv_dtype", "distribution")


def _words(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items() if name not in LEFT_OUT)


def measure_gpu_configs(
    *, quick: bool = False, only: Sequence[str] = (), progress: OnProgress | None = None
) -> GpuConfigs:
    """Search all configurations of the CUDA kernels exhaustively.

    Parameters
    ----------
    quick : bool
        Fewer shapes and repetitions.
    only : sequence of str
        Names of the kernels to measure; by default all.
    progress : callable, optional
        Called with (shapes done, shapes in total).

    Raises
    ------
    InputError
        An unknown kernel, no CuPy or no GPU.
    """
    check_only(only, [space.name for space in GPU_SPACES])
    device = open_device()
    clock = Timer(device.cupy)
    rate = partial(copy_rate, device.cupy, clock)
    results = search_gpu(device, clock, rate, quick=quick, only=only, progress=progress)
    return GpuConfigs(gpu_host(device), results)


TABLE = "tables/configs_{}.csv"
HEAD = (
    "{}, one thread: time of a choice over the best configuration's, geometric mean (90th percentile) "
    "over shapes; constants fitted on half of them choose on the other half"
)


@dataclass(frozen=True, slots=True)
class ConfigsMeasured(Result):
    """Measured times of all configurations of the CPU kernels, and the quality of the model's choices.

    Attributes
    ----------
    choices : tuple of Choice
        Quality of the model for each kernel; kernels with too few usable shapes are skipped.
    """

    run: KernelSearch
    choices: tuple[Choice, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "device": self.run.host.device, "core": dict(self.run.core),
            "rows": [asdict(c) for c in self.choices], "undecided": list(self._undecided()),
        }  # fmt: skip

    def _undecided(self) -> Sequence[str]:
        judged = {c.kernel for c in self.choices}
        return [name for name in dict.fromkeys(f.kernel for f in self.run.found) if name not in judged]

    def records(self) -> Rows:
        return [row for one in self.run.found for row in one.rows()]

    def rows(self) -> Rows:
        return [
            {
                "kernel": c.kernel, "shapes": c.shapes, "left out": c.left_out,
                "configurations": c.configs, "model": _text(c.fitted),
                "unfitted": _text(c.unfitted), "default": _text(c.default),
                "random": _text(c.random), "error": f"{c.median_ape:.1%}",
            }
            for c in self.choices
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        out: Blocks = [HEAD.format(self.run.host.cpu), self.rows()]
        out += [
            f"{name}: fewer than {FEWEST} shapes count, the machine did not hold still; run again when it is quiet"
            for name in self._undecided()
        ]
        return out

    def write(self, files: OutputFolder) -> None:
        """Write every configuration's time by kernel, and the result."""
        head = [f"host: {self.run.host.cpu}, one thread", "seconds: lower quartile over rounds"]
        for kernel, columns in self.run.tables().items():
            files.text(TABLE.format(kernel), table_text(columns, head))
        files.answer("configs.json", self)


def _text(r: Regret) -> str:
    return f"{r.geomean:.3f} ({r.p90:.2f})"


def check_only(only: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names in `only` that are not in `known`."""
    for name in only:
        check_known("--only", name, known, f"unknown kernel {name!r}")


def measure_configs(
    *, quick: bool = False, only: Sequence[str] = (), seed: int = 0, progress: OnProgress | None = None
) -> ConfigsMeasured:
    """Search all configurations of the CPU kernels exhaustively on one thread.

    Parameters
    ----------
    quick : bool
        Fewer shapes and rounds.
    only : sequence of str
        Kernels by name; all without it.
    seed : int
        Of inputs and of the order of turns.
    progress : callable, optional
        Called with how many shapes are done, of how many.

    Raises
    ------
    InputError
        An unknown kernel.
    """
    check_seed(seed)
    check_only(only, [space.name for space in SPACES])
    run = search(quick=quick, only=only, seed=seed, progress=progress)
    results = []
    for space in SPACES:
        rows = [{**row, **run.core} for one in run.found if one.kernel == space.name for row in one.rows()]
        judged = choice(space.name, rows, asdict(space.default)) if rows else None
        results += [] if judged is None else [judged]
    return ConfigsMeasured(run, tuple(results))
