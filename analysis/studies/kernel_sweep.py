"""Sweeps with ``kernel: best``: for every variant of a device the best kernels of a step, and its time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...devices.catalog import load_system
from ...devices.tiles.calls import Call, calls_of
from ...devices.tiles.config import KernelConfig
from ...devices.tiles.machine import SETTINGS, Machine, machine_of
from ...devices.tiles.rank import Priced, price_one, rank, reason_of
from ...devices.tiles.store import constants
from ...devices.tiles.variant import changed_spec
from ...simulator.deploy.deployment import Deployment
from ...simulator.step.explicit import StageCost
from ...workloads.errors import InputError, nearest
from ...workloads.requests.options import check_count
from ..answers.price import added_area_mm2
from ..answers.step import step_of, work_joules
from ..parallel.study import Study
from ..show.output import SIGNIFICANT, OutputFolder
from ..show.result import Result
from ..show.text import Blocks, Records
from .front import front
from .kernel_file import KERNEL
from .sweep.file import FileKind, SweepFile, SweepPoint, read_sweep

KEYS = ("title", "base", "axes", "constraints", "objectives")
BEST, DEVICE = "best", "device."
STEP = {"batch": 64, "context": 2048, "prefill": 0}
"""The step of a point, where nothing else is said."""
METRICS = ("step_s", "kept_step_s", "default_step_s", "joules", "processor_area_mm2")
"""Seconds of a step with every kernel re-chosen, with the device's kernels, and with the frameworks' untuned ones;
dynamic joules; area added by processors near memory [mm2]."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One kernel of a step on one variant of a device.

    Attributes
    ----------
    count : int
        Launches in a step.
    kept : Priced or None
        The configuration that is best on the device as it is; None where it cannot run.
    """

    op: str
    kernel: str
    shape: Mapping[str, Any]
    count: int
    best: Priced
    kept: Priced | None
    default: Priced

    def to_dict(self) -> dict[str, Any]:
        return {
            "op": self.op, "kernel": self.kernel, "shape": dict(self.shape), "count": self.count,
            "config": self.best.config.to_dict(), "seconds": self.best.seconds,
            "bound": self.best.bound, "kept_seconds": self.kept and self.kept.seconds,
            "default_seconds": self.default.seconds,
            "changed": self.kept is None or self.kept.config != self.best.config,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class KernelPoint:
    """One variant: its columns, what it comes to, and its kernels; or why there is nothing."""

    columns: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    kernels: tuple[Chosen, ...]
    feasible: bool
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """Columns and metrics, for tables."""
        return {**self.columns, **self.metrics, "feasible": self.feasible, "error": self.error}


@dataclass(frozen=True, slots=True)
class KernelSweep(Result):
    """See `sweep_kernels`."""

    title: str
    points: tuple[KernelPoint, ...]
    objectives: Mapping[str, str]

    @property
    def failed(self) -> int:
        return sum(p.error is not None for p in self.points)

    def to_dict(self) -> dict[str, Any]:
        rows = [p.row() for p in self.points]
        good = [row for row in rows if row["feasible"]]
        return {
            "title": self.title, "points": len(rows), "failed": self.failed,
            "objectives": dict(self.objectives),
            "pareto": front(good, dict(self.objectives)) if self.objectives else [],
            "rows": [
                {**row, "kernels": [k.to_dict() for k in p.kernels]}
                for row, p in zip(rows, self.points, strict=True)
            ],
        }  # fmt: skip

    def records(self) -> Records:
        return [p.row() for p in self.points]

    def rows(self) -> Records:
        known = [k for k in METRICS if any(p.metrics[k] is not None for p in self.points)]
        return [
            {**p.columns, **{k: p.metrics[k] for k in known},
             "kernels changed": sum(k.to_dict()["changed"] for k in p.kernels), "error": p.error}
            for p in self.points
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        text = f"{self.title}: {len(self.points):,} variants, {self.failed:,} failed"
        out: Blocks = [text, self.rows()]
        first = next((p for p in self.points if p.kernels), None)
        if first is not None:
            out.append([
                {"op": k.op, "kernel": k.kernel, "x": k.count, "config": str(k.best.config),
                 "us": k.best.seconds * 1e6, "bound": k.best.bound,
                 "default_us": k.default.seconds * 1e6}
                for k in first.kernels
            ])  # fmt: skip
            out.append("kernels: of the first variant")
        return out

    def write(self, files: OutputFolder) -> None:
        """Write points.csv, kernels.csv and sweep.json."""
        import pandas as pd

        files.table("points.csv", self.frame(), SIGNIFICANT)
        kernels = [
            {**p.columns, "op": k.op, "kernel": k.kernel, "count": k.count, **k.best.config.to_dict(),
             "seconds": k.best.seconds, "kept_s": k.kept.seconds if k.kept else math.nan,
             "default_s": k.default.seconds, "bound": k.best.bound}
            for p in self.points for k in p.kernels
        ]  # fmt: skip
        if kernels:
            files.table("kernels.csv", pd.DataFrame(kernels), SIGNIFICANT)
        files.answer("sweep.json", self)


def sweep_kernels(path: str | Path) -> KernelSweep:
    """Choose the kernels of a step again for every variant of a device.

    Parameters
    ----------
    path : path
        YAML with `base` (``kernel: best``, model, system, and batch, context or prefill of the
        step), `axes` (``device.KEY`` of `machine.SETTINGS`, or options of the step), and, as in
        other sweeps, `constraints` and `objectives`.

    Raises
    ------
    InputError
        If the file is invalid; the message names the key. A variant that cannot be costed has the reason in its row.
    """
    file = read_sweep(path, OF_KERNELS)
    if file.base[KERNEL] != BEST:
        raise InputError(f"{path}: base.kernel", f"must be {BEST}, not {file.base[KERNEL]!r}")
    variants = Study(partial(_variant, file=file))
    return KernelSweep(file.title, tuple(variants.results(file.points())), file.objectives)


def _check(name: str, where: str) -> None:
    """Refuse a `device.` key that is none; options of a step are looked at where it is costed."""
    key = name.removeprefix(DEVICE)
    if name.startswith(DEVICE) and key not in SETTINGS:
        raise InputError(where, f"is not a number of a device that can be set{nearest(key, SETTINGS)}")
    if name.startswith(("system.", "model.")):
        raise InputError(where, "has no part in sweeps of kernels; device.KEY changes the device")


OF_KERNELS = FileKind(KEYS, _check, frozenset(METRICS))


def _variant(point: SweepPoint, file: SweepFile) -> KernelPoint:
    try:
        values = {name: value for name, value in point.settings.items() if name != KERNEL}
        metrics, kernels = _evaluate(values)
    except InputError as error:
        return KernelPoint(point.columns, dict.fromkeys(METRICS), (), False, str(error))
    row = {**point.settings, **point.columns, **metrics}
    return KernelPoint(point.columns, metrics, kernels, file.feasible(row))


def _evaluate(values: Mapping[str, Any]) -> tuple[dict[str, float | None], tuple[Chosen, ...]]:
    """Kernels of a step and what it comes to."""
    changes = {k.removeprefix(DEVICE): _real(k, v) for k, v in values.items() if k.startswith(DEVICE)}
    options = {k: v for k, v in values.items() if not k.startswith(DEVICE)}
    model, system = str(options.pop("model")), load_system(str(options.pop("system")))
    size = {name: check_count(options.pop(name, usual), name, 0, 1 << 31) for name, usual in STEP.items()}
    device = changed_spec(system.device, changes)
    deployment, stage = step_of(
        model, system.model_copy(update={"device": device}), size["batch"], size["context"], size["prefill"], options
    )
    kernels, saved = _kernels(deployment, stage, machine_of(device), machine_of(system.device))
    step = stage.seconds - saved
    kept_s = _sum(kernels, lambda k: k.kept and k.kept.seconds)
    metrics = {
        "step_s": step + (_sum(kernels, lambda k: k.best.seconds) or 0.0),
        "kept_step_s": None if kept_s is None else step + kept_s,
        "default_step_s": step + (_sum(kernels, lambda k: k.default.seconds) or 0.0),
        "joules": work_joules(deployment, stage),
        "processor_area_mm2": added_area_mm2(device),
    }
    return metrics, kernels


def _real(name: str, value: Any) -> float:
    """A number of a device."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(name, f"must be a number, not {value!r}")
    return float(value)


def _sum(kernels: Sequence[Chosen], seconds: Any) -> float | None:
    """Seconds of all launches; None where one cannot run."""
    values = [seconds(k) for k in kernels]
    if any(v is None for v in values):
        return None
    return float(sum(v * k.count for v, k in zip(values, kernels, strict=True)))


def _kernels(
    deployment: Deployment, stage: StageCost, machine: Machine, as_built: Machine
) -> tuple[tuple[Chosen, ...], float]:
    """Kernels on the device's xPU that forms cover, and seconds that they take without the tile model."""
    chosen: dict[tuple[Any, ...], Chosen] = {}
    replaced = 0.0
    kinds = {name: p.kind for name, p in deployment.system.device.processors.items()}
    seen: dict[tuple[Any, ...], tuple[Priced, Priced | None, Priced]] = {}
    for placed in stage.ops:
        calls = calls_of(placed.op) if placed.critical and kinds.get(placed.processor) == "xpu" else []
        if not calls:
            continue
        replaced += placed.cost.seconds * placed.count
        for form, shape in calls:
            key = (form.name, *sorted(shape.items()))
            if key not in seen:
                seen[key] = _choose((form, shape), machine, as_built)
            same = chosen.get((placed.op.name, *key))
            count = placed.count + (same.count if same else 0)
            chosen[(placed.op.name, *key)] = Chosen(placed.op.name, form.name, shape, count, *seen[key])
    return tuple(chosen.values()), replaced


def _choose(call: Call, machine: Machine, as_built: Machine) -> tuple[Priced, Priced | None, Priced]:
    """The best configuration, the one that is best on the device as it is, and the default."""
    form, shape = call
    p = constants(form.constants(machine, shape)).p

    def price(config: KernelConfig) -> Priced:
        return price_one(form, machine, shape, p, config)

    best = rank(form, machine, shape, p).top(1)[0]
    usual = best.config if machine == as_built else rank(form, as_built, shape, p).top(1)[0].config
    kept_config = None if reason_of(form, machine, shape, usual) else price(usual)
    return best, kept_config, price(form.default(machine, shape))
