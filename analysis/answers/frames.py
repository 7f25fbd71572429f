"""Images on one FPGA: latency, rate, energy, memory, and the cost of task switches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...devices.spec import SystemSpec
from ...simulator.fpga.deploy import FpgaDeployment, check_schedule, deploy_fpga, on_chip_bytes
from ...simulator.fpga.frames import Frames, OnProgress, num_tasks, serve_images
from ...simulator.scenario.load import load
from ...workloads.errors import InputError
from ...workloads.latencies import QUANTILES, share_of
from ...workloads.model import ModelSpec
from ...workloads.requests.block import ColumnArrays
from ...workloads.requests.options import check_seed
from ...workloads.vit_requests import arrivals, check_images, task_sequence
from ..show.declared import row, text
from ..show.output import STAMPS
from ..show.result import Rests, Result
from ..show.text import Blocks, Records, Rows, show
from .interval import Interval, interval_dict, spoken_range
from .rests import basis_of

FRAME = Interval(0.87, 1.15)
"""Factors on an image's time. No run on hardware validates the engine; the largest error of a published value is 15
% (docs/fpga.md)."""


@dataclass(frozen=True, slots=True)
class FrameRun(Result):
    """Result of serving images on one FPGA; see `frames`."""

    FILE = "summary.json"
    TABLES = (("frames.csv", "columns", STAMPS),)

    deployment: FpgaDeployment
    system: str
    schedule: str
    workload: str
    served: Frames
    described: tuple[Rests, ...] = ()

    def rests(self) -> Sequence[Rests]:
        return self.described

    def remarks(self) -> Sequence[str]:
        return self.deployment.warnings

    def headline(self) -> str:
        """Latency and rate of images, and how busy the engine is."""
        return text(self, "headline")

    @property
    def images(self) -> int:
        return len(self.served.task)

    @property
    def task_switches(self) -> int:
        return int(np.count_nonzero(np.diff(self.served.task)))

    @property
    def latency(self) -> dict[str, float]:
        """Return the mean and the quantiles of an image's latency [s]."""
        latency_s = self.served.latency_s
        return {n: float(np.quantile(latency_s, q) if (q := share_of(n)) else latency_s.mean()) for n in QUANTILES}

    @property
    def service_s(self) -> float:
        """Return the engine's mean time for an image [s], without waiting."""
        return self.served.cycles / self.served.clock_Hz / self.images

    @property
    def images_per_s(self) -> float:
        return self.images / self.served.makespan_s

    def intervals(self) -> dict[str, Any]:
        """Return the intervals of an image's service time and mean latency."""
        return {
            "service_s": interval_dict(self.service_s, FRAME),
            "latency_s_mean": interval_dict(self.latency["mean"], FRAME),
        }

    @property
    def busy(self) -> float:
        """Return the share of time in which the engine works."""
        return self.served.cycles / self.served.clock_Hz / self.served.makespan_s

    @property
    def joules_per_image(self) -> float:
        return self.served.joules / self.images

    @property
    def memory_bytes_per_image(self) -> float:
        return float(self.total("memory_bytes") / self.images)

    def total(self, name: str) -> Any:
        """Return the sum of a counter over all images."""
        return sum(getattr(run, name) for run in self.served.runs)

    @property
    def on_chip_bytes(self) -> float:
        return on_chip_bytes(self.deployment, self.schedule)

    @property
    def cache_hits(self) -> int:
        return int(self.total("hits"))

    @property
    def cache_misses(self) -> int:
        return int(self.total("misses"))

    @property
    def longest_queue(self) -> float:
        return max(run.longest_queue for run in self.served.runs)

    @property
    def shortest_queue(self) -> float:
        return min(run.shortest_queue for run in self.served.runs)

    @property
    def cache_hit_rate(self) -> float | None:
        reads = self.cache_hits + self.cache_misses
        return self.cache_hits / reads if reads else None

    def units(self) -> Records:
        """Return the cycles of an average image by model part and unit; stalls are separate."""
        total: dict[tuple[str, str], list[float]] = {}
        for run in self.served.runs:
            for key, share in run.parts.items():
                sums = total.setdefault(key, [0.0, 0.0, 0.0])
                sums[0] += share.busy
                sums[1] += share.stalled
                sums[2] += share.macs
        n = len(self.served.runs)
        return [
            {"part": part, "unit": unit, "busy_cycles": busy / n, "stalled_cycles": stalled / n,
             "macs_per_cycle": macs / (busy + stalled) if busy + stalled else 0.0,
             "share": (busy + stalled) / self.served.cycles}
            for (part, unit), (busy, stalled, macs) in total.items()
        ]  # fmt: skip

    def columns(self) -> ColumnArrays:
        """Return one row for each image, the columns of ``frames.csv``."""
        f = self.served
        return {
            "image": np.arange(len(f.task)),
            "task": f.task,
            "arrival_s": f.arrival_s,
            "start_s": f.start_s,
            "end_s": f.end_s,
            "cycles": np.array([run.cycles for run in f.runs]),
            "cache_misses": np.array([run.misses for run in f.runs]),
        }

    def records(self) -> Rows:
        table = self.columns()
        return [{k: v[i].item() for k, v in table.items()} for i in range(len(table["image"]))]

    def rows(self) -> Rows:
        return [{"what": what, "value": value} for what, value in row(self).items()]

    def blocks(self) -> Blocks:
        units = [
            {"part": u["part"], "unit": u["unit"], "busy cycles": show(round(u["busy_cycles"])),
             "stalled": show(round(u["stalled_cycles"])), "MAC/cycle": show(u["macs_per_cycle"]),
             "share": f"{u['share']:.1%}"}
            for u in self.units() if u["share"] > 0
        ]  # fmt: skip
        return [
            text(self, "heading"),
            self.rows(),
            f"{spoken_range(FRAME)}, from published values, not from runs.",
            units,
        ]


def frames(
    model: str | Path | ModelSpec, system: str | Path | SystemSpec, *, images: int = 16,
    rate: float | None = None, in_flight: int = 1, tasks: str = "single",
    schedule: str = "reordered", routing: str = "uniform", seed: int = 0,
    progress: OnProgress | None = None,
) -> FrameRun:  # fmt: skip
    """Serve images on one FPGA.

    Parameters
    ----------
    rate : float, optional
        Arrival rate [images/s]. Default: a closed loop of `in_flight` images.
    tasks : str
        Task of each image: "single", "round-robin", "random" or task numbers such as "0,1,1".
    schedule : str
        Order of the experts: "reordered", "cache" or "on-chip".
    routing, seed : str, int
        Distribution of tokens over experts, and the seed of its samples; sampled for each image, task and layer.
    progress : callable, optional
        Called with (images done, images in all).

    Raises
    ------
    InputError
        No FPGA, no encoder, several devices, unknown names, numbers out of range.
    CapacityError
        A design or model that does not fit.
    """
    check_images(images)
    check_seed(seed)
    spec, where = load(model, system)
    if where.devices_per_node * where.nodes > 1:
        raise InputError(where.name, "only one FPGA is simulated for images; use the system with -x1")
    if spec.front is None:
        raise InputError(spec.name, "takes tokens, not images; use opbyte compare or simulate")
    d = deploy_fpga(spec, where.device)
    check_schedule(d, schedule)
    order = task_sequence(tasks, images, num_tasks(d), seed)
    stamps = None if rate is None else arrivals(images, rate)
    pace = f"{in_flight} in flight" if rate is None else f"{rate:g} a second"
    served = serve_images(
        d, order, arrivals=stamps, in_flight=in_flight, schedule=schedule, routing=routing, seed=seed, progress=progress
    )
    what = f"{images:,} images, {pace}, tasks {tasks}"
    return FrameRun(d, where.name, schedule, what, served, (basis_of(system, where),))
