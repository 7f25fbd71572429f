"""Images through one FPGA: latency, rate, energy, memory, and what task switches cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...devices.spec import SystemSpec
from ...simulator.fpga.deploy import FpgaDeployment, check_schedule, deploy_fpga, on_chip_bytes
from ...simulator.fpga.frames import Frames, OnProgress, num_tasks, serve_images
from ...simulator.scenario.load import load
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_seed
from ...workloads.vit_requests import arrivals, check_images, task_sequence
from ..show.output import STAMPS
from ..show.result import Rests, Result
from ..show.text import seconds, show
from .interval import Interval, interval_dict, spoken_range
from .rests import rests_of

FRAME = Interval(0.87, 1.15)
"""Factors on an image's time. No run on hardware validates the engine; the largest error of a published value is 15
% (docs/fpga.md)."""
QUANTILES = {"mean": None, "p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class FrameRun(Result):
    """Images served; see `frames`."""

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
        d = self.to_dict()
        return (
            f"An image takes {seconds(d['latency_s']['mean'])} on average (p99 "
            f"{seconds(d['latency_s']['p99'])}) at {show(d['images_per_s'])} images/s; the engine is "
            f"busy {d['busy']:.0%} of the time."
        )

    def to_dict(self) -> dict[str, Any]:
        f, n = self.served, len(self.served.task)
        hits, misses = (sum(getattr(run, x) for run in f.runs) for x in ("hits", "misses"))
        return {
            "model": self.deployment.model.name,
            "system": self.system,
            "schedule": self.schedule,
            "workload": self.workload,
            "images": n,
            "task_switches": int(np.count_nonzero(np.diff(f.task))),
            "latency_s": {
                name: float(f.latency_s.mean() if q is None else np.quantile(f.latency_s, q))
                for name, q in QUANTILES.items()
            },
            "service_s": f.cycles / f.clock_Hz / n,
            "images_per_s": n / f.makespan_s,
            "intervals": {
                "service_s": interval_dict(f.cycles / f.clock_Hz / n, FRAME),
                "latency_s_mean": interval_dict(float(f.latency_s.mean()), FRAME),
            },
            "makespan_s": f.makespan_s,
            "busy": f.cycles / f.clock_Hz / f.makespan_s,
            "joules": f.joules,
            "joules_per_image": f.joules / n,
            "memory_bytes_per_image": sum(run.memory_bytes for run in f.runs) / n,
            "on_chip_bytes": on_chip_bytes(self.deployment, self.schedule),
            "cache_hits": hits,
            "cache_misses": misses,
            "cache_hit_rate": hits / (hits + misses) if hits + misses else None,
            "longest_queue": max(run.longest_queue for run in f.runs),
            "shortest_queue": min(run.shortest_queue for run in f.runs),
            "units": self.units(),
            "warnings": list(self.deployment.warnings),
        }

    def units(self) -> list[dict[str, Any]]:
        """Cycles of an average image by part of the model and unit; stalls are separate."""
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

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """One row an image, as ``frames.csv`` holds them."""
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

    def records(self) -> Sequence[Mapping[str, Any]]:
        table = self.columns()
        return [{k: v[i].item() for k, v in table.items()} for i in range(len(table["image"]))]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        d = self.to_dict()
        hit = d["cache_hit_rate"]
        return [
            {"what": what, "value": value}
            for what, value in {
                "latency, mean": seconds(d["latency_s"]["mean"]),
                "latency, p99": seconds(d["latency_s"]["p99"]),
                "engine time of an image": seconds(d["service_s"]),
                "images per second": show(d["images_per_s"]),
                "engine busy": f"{d['busy']:.1%}",
                "energy of an image": f"{show(d['joules_per_image'])} J",
                "external memory traffic of an image": f"{d['memory_bytes_per_image'] / 1e6:,.1f} MB",
                "on-chip memory needed": f"{d['on_chip_bytes'] / 2**20:.2f} MiB",
                "expert cache hits": "-" if hit is None else f"{hit:.1%}",
                "queues, longest and shortest": f"{d['longest_queue']:.0f}, {d['shortest_queue']:.0f} tokens",
                "task switches": show(d["task_switches"]),
            }.items()
        ]

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        units = [
            {"part": u["part"], "unit": u["unit"], "busy cycles": show(round(u["busy_cycles"])),
             "stalled": show(round(u["stalled_cycles"])), "MAC/cycle": show(u["macs_per_cycle"]),
             "share": f"{u['share']:.1%}"}
            for u in self.units() if u["share"] > 0
        ]  # fmt: skip
        what = f"{self.deployment.model.name} on {self.system}, {self.schedule}: {self.workload}"
        return [what, self.rows(), f"{spoken_range(FRAME)}, from published values, not from runs.", units]


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
        Images per second; without it `in_flight` images are always waiting or served.
    tasks : str
        "single", "round-robin", "random" or task numbers such as "0,1,1".
    schedule : str
        "reordered", "cache" or "on-chip".
    routing, seed : str, int
        Routing of tokens to experts, sampled for each image, task and layer.
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
        raise InputError(where.name, "images run on one FPGA here; use x1")
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
    return FrameRun(d, where.name, schedule, what, served, (rests_of(system, where),))
