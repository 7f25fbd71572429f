"""Best tiles of a design's products, and the resulting efficiencies.

With ``kernel: best`` each product of a step gets its best tile on the design (`devices.tiles`); the simulation uses the
resulting shares of peak and bandwidth, over the products bound by either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ....devices.spec import DeviceSpec
from ....devices.tiles.config import KernelConfig
from ....devices.tiles.form import calls_of
from ....devices.tiles.machine import Machine, machine_of
from ....devices.tiles.rank import rank
from ....devices.tiles.store import constants
from ....simulator.step.costing import PlacedOp
from ....workloads.errors import InputError
from ....workloads.ops import Op
from .bounds import DesignStep

OF_TILES = "assumed: the tile model's, every product of the workloads with its best tile"
"""Source of the efficiencies."""
LEAST = 1e-3
"""Of an efficiency."""


@dataclass(frozen=True, slots=True)
class TunedDesign:
    """What a design attains with its best tiles.

    Attributes
    ----------
    compute, memory : float
        Shares of its peak and of its bandwidth; 1 where no product is bound by that.
    config : KernelConfig or None
        Tile of the product that takes longest.
    """

    compute: float
    memory: float
    config: KernelConfig | None
    processor: str

    @property
    def settings(self) -> dict[str, float]:
        """As a point sets them."""
        head = f"system.device.processors.{self.processor}"
        return {f"{head}.compute_efficiency": self.compute, f"{head}.memory_efficiency": self.memory}

    def to_dict(self) -> dict[str, Any]:
        tile = None if self.config is None else self.config.to_dict()
        return {"compute_efficiency": self.compute, "memory_efficiency": self.memory, "tile": tile}

    def text(self) -> str:
        """Return the same as text."""
        return f"tiles such as {self.config} give {self.compute:.0%} of its peak and {self.memory:.0%} of its bandwidth"

    def of(self, device: DeviceSpec) -> DeviceSpec:
        """The device with them."""
        xpu = device.processors[self.processor].model_copy(
            update={"compute_efficiency": self.compute, "memory_efficiency": self.memory}
        )
        return device.model_copy(update={"processors": {**device.processors, self.processor: xpu}})


def products(step: DesignStep | None) -> tuple[PlacedOp, ...]:
    """Ops of a workload's steps that may have tiles.

    Raises
    ------
    InputError
        A workload without a fixed number of sequences.
    """
    if step is None:
        raise InputError("design.kernel", "needs workloads with closed_loop, input_len, output_len")
    return (*step.middle.ops, *step.prompt.ops)


def tuned(device: DeviceSpec, ops: Iterable[PlacedOp]) -> TunedDesign:
    """Choose the tile of every product of steps, on a device's xPU.

    Raises
    ------
    SpecError
        No xPU whose cores and clock are known.
    """
    machine, sums = machine_of(device), {"compute": [0.0, 0.0], "memory": [0.0, 0.0]}
    name = next(n for n, p in device.processors.items() if p.kind == "xpu")
    known: dict[str, tuple[float, KernelConfig]] = {}
    longest, config = 0.0, None
    peaks = device.processors[name].peak_flops_per_s or {}
    wide = device.memory.bandwidth_bytes_per_s * device.memory.data_fraction
    for placed in ops:
        op = placed.op
        if op.kind not in ("gemm", "experts") or op.dtype not in peaks:
            continue
        took, best = _seconds(op, machine, known)
        if best is None:
            continue
        work, moved = op.flops / peaks[op.dtype], op.bytes / wide
        sums["compute" if work > moved else "memory"][0] += max(work, moved) * placed.count
        sums["compute" if work > moved else "memory"][1] += took * placed.count
        if took * placed.count > longest:
            longest, config = took * placed.count, best
    share = {k: min(1.0, max(LEAST, a / b)) if b else 1.0 for k, (a, b) in sums.items()}
    return TunedDesign(share["compute"], share["memory"], config, name)


def _seconds(
    op: Op, machine: Machine, known: dict[str, tuple[float, KernelConfig]]
) -> tuple[float, KernelConfig | None]:
    """Time of an op's kernels with their best tiles, and the first one's; none where no form covers it."""
    took, first = 0.0, None
    for form, shape in calls_of(op):
        key = f"{form.name} {sorted(shape.items())}"
        if key not in known:
            best = rank(form, machine, shape, constants(form.constants(machine, shape)).p).top(1)[0]
            known[key] = best.seconds, best.config
        took += known[key][0]
        first = first or known[key][1]
    return took, first
