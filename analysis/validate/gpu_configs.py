"""Time every configuration of the CUDA kernels on this machine's GPU (``measure configs --backend cupy``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ...kernels.gpu_measure import Timer, copy_rate, gpu_host, open_device
from ...kernels.gpu_search import SPACES, GpuSearched, search_gpu
from ...kernels.host import HostInfo
from ...workloads.kernel_tables import table_text
from ..parallel import OnProgress
from ..show.result import Result
from ..show.text import Blocks, Rows
from .measure_configs import check_only

if TYPE_CHECKING:
    from ..show.output import OutputFolder

TABLE = "tables/configs_gpu_{}.csv"


@dataclass(frozen=True, slots=True)
class GpuConfigs(Result):
    """Every configuration's time on a GPU."""

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
            files.text(TABLE.format(name), table_text(columns, head))
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
        Kernels by name; all without it.
    progress : callable, optional
        Called with how many shapes are done, of how many.

    Raises
    ------
    InputError
        An unknown kernel, no CuPy or no GPU.
    """
    check_only(only, [space.name for space in SPACES])
    device = open_device()
    clock = Timer(device.cupy)
    rate = partial(copy_rate, device.cupy, clock)
    results = search_gpu(device, clock, rate, quick=quick, only=only, progress=progress)
    return GpuConfigs(gpu_host(device), results)
