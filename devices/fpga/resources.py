"""Does a design fit a board? Needed and available, resource by resource."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...workloads.errors import CapacityError, SpecError
from .spec import EngineSpec, FabricSpec

if TYPE_CHECKING:
    from ..spec import DeviceSpec

FILL_LIMITS = {"DSP slices": 0.80, "on-chip bytes": 0.80}
"""Fill above which timing closure gets hard (Xilinx/finn, src/finn/util/platforms.py,
DEFAULT_RES_LIMITS): a warning, not an error."""

ON_CHIP_SLACK = 0.05
"""Assumed: on-chip bytes beyond block and ultra RAM that LUT RAM can take. M3ViT's published
4.840 MiB are 2 % more than the 4.746 MiB of its board's block and ultra RAM."""


@dataclass(frozen=True, slots=True)
class Use:
    """How much of one resource a design takes, of how much there is."""

    resource: str
    needed: float
    available: float

    @property
    def share(self) -> float:
        return self.needed / self.available


def resource_use(engine: EngineSpec, fabric: FabricSpec) -> tuple[Use, ...]:
    """Needed and available of every resource that the design states."""
    return (
        Use("DSP slices", engine.dsp, fabric.dsp),
        Use("on-chip bytes", engine.buffer_bytes, fabric.on_chip_bytes),
        Use("memory ports", engine.ports.weights + engine.ports.data, fabric.memory_ports),
        Use("bits of a memory port", engine.ports.port_bits, fabric.memory_port_bits),
    )


def engine_of(device: DeviceSpec) -> tuple[str, EngineSpec, FabricSpec]:
    """Processor name, design and board of an FPGA device.

    Raises
    ------
    SpecError
        The device is not an FPGA.
    """
    for name, processor in device.processors.items():
        if processor.engine is not None and device.fabric is not None:
            return name, processor.engine, device.fabric
    raise SpecError(device.name, "is not an FPGA: it has no processor with an engine")


def check_resources(device: DeviceSpec) -> tuple[str, ...]:
    """Refuse a design that its board cannot hold.

    Returns
    -------
    tuple of str
        Warnings: fill beyond what closes timing, buffers beyond block and ultra RAM.

    Raises
    ------
    CapacityError
        A resource is short; the message holds needed and available.
    """
    _, engine, fabric = engine_of(device)
    warnings = []
    for use in resource_use(engine, fabric):
        limit = 1 + (ON_CHIP_SLACK if use.resource == "on-chip bytes" else 0)
        if use.share > limit:
            raise CapacityError(
                device.name,
                f"the design does not fit: needs {use.needed:,.0f} {use.resource}, {use.available:,.0f} available",
            )
        fill = FILL_LIMITS.get(use.resource)
        if fill is not None and use.share > fill:
            warnings.append(
                f"{device.name}: {use.needed:,.0f} of {use.available:,.0f} {use.resource} "
                f"({use.share:.0%}) are more than the {fill:.0%} that close timing easily"
            )
    return tuple(warnings)
