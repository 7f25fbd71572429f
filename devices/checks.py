"""Checks of a description: numbers far beyond any product, and FPGA designs that do not fit their board."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..workloads.errors import CapacityError, SpecError
from ..workloads.numerics import Numerics
from .fpga_engine import EngineSpec, FabricSpec
from .peaks import lacking
from .spec import DeviceSpec

INSIDE_TBPS = 60.0
"""Largest plausible bandwidth inside the memory stacks [TB/s], above the Duplex paper's bank PIM (16 x 3.35 TB/s)."""
TIERED_TBPS = 40.0
"""Largest plausible bandwidth inside one chip of tiered 3D DRAM [TB/s], above Stratum's 34.34 TB/s."""


def doubts(spec: DeviceSpec) -> tuple[str, ...]:
    """Return one line for each number of a device that is far beyond any product, in the file's units.

    The bounds lie five to ten times beyond the catalog's extremes (of 2025: 8 TB/s and 288 GiB of
    a GB300, 15 PFLOP/s in fp4, 2.5 us a launch, 7.5 pJ/bit of GDDR6, 238 W at idle).

    Examples
    --------
    >>> from .catalog import load_device
    >>> doubts(load_device("h100")[0])
    ()
    """
    memory, processors = spec.memory, spec.processors
    on_chip = any(p.kind == "fpga-pipeline" for p in processors.values())  # all of its memory
    checks = [
        ("memory.bandwidth_GBps", memory.bandwidth_bytes_per_s / 1e9, 1.0, 80_000.0),
        ("memory.capacity_GiB", memory.capacity_bytes / 2**30, 0.0 if on_chip else 0.1, 4_096.0),
        ("link.bandwidth_GBps", spec.link.bandwidth_bytes_per_s / 1e9, 0.05, 20_000.0),
        ("static_W", spec.static_W, 0.0, 2_000.0),
    ]
    out: list[str] = []
    for name, p in processors.items():
        peaks = (p.peak_flops_per_s or {}).values()
        checks += [
            (f"{name}.peak_TFLOPS", max(peaks, default=0.0) / 1e12, 0.0, 150_000.0),
            (f"{name}.launch_us", p.launch_s * 1e6, 0.0, 1_000.0),
            (f"{name}.memory_pJ_per_bit", p.memory_J_per_byte / 8e-12, 0.0, 100.0),
            (f"{name}.compute_pJ_per_FLOP", max(p.compute_J_per_flop.values()) * 1e12, 0.0, 50.0),
        ]
        inside = memory.bandwidth_bytes_per_s * p.bandwidth_multiple / 1e12
        limit = TIERED_TBPS * memory.stacks if p.kind == "tiered-pim" else INSIDE_TBPS
        if p.bandwidth_multiple > 1.0 and inside > limit:
            out.append(
                f"{spec.name}: {name} reads {inside:,.0f} TB/s inside the memory, "
                f"bandwidth_multiple {p.bandwidth_multiple:g} of the external bandwidth; if only "
                "that was raised, lower the multiple"
            )
    for key, value, least, most in checks:
        if not least <= value <= most:
            beyond = f"below {least:g}" if value < least else f"above {most:,g}"
            out.append(f"{spec.name}: {key} {value:,g} is far {beyond}; check the unit")
    return tuple(out)


def without_arithmetic(numerics: Numerics, devices: Iterable[DeviceSpec]) -> list[str]:
    """Say which devices convert the model's 4-bit weights to 16 bits: some engines cannot load them there.

    vLLM and SGLang have Marlin for it on NVIDIA's GPUs and Petit on AMD's; TensorRT-LLM has nothing.
    """
    groups = [group for group in ("attention", "ffn", "experts") if replace(numerics, lacks=()).compute(group) == "fp4"]
    return [
        f"{device.name} has no FP4 arithmetic: {numerics.weight_format(groups[0])} weights are multiplied in 16 bits, "
        "as Marlin and Petit do; some engines cannot load them"
        for device in devices
        if groups and "fp4" in lacking(device)
    ]


FILL_LIMITS = {"DSP slices": 0.80, "on-chip bytes": 0.80}
"""Fill of a resource above which timing closure gets hard (Xilinx/finn, src/finn/util/platforms.py,
DEFAULT_RES_LIMITS). It causes a warning, not an error."""

ON_CHIP_SLACK = 0.05
"""Assumed: on-chip bytes beyond block and ultra RAM that LUT RAM can take. M3ViT's published
4.840 MiB are 2 % more than the 4.746 MiB of its board's block and ultra RAM."""


@dataclass(frozen=True, slots=True)
class Use:
    """The amount of one resource that a design needs, and the amount that the board has."""

    resource: str
    needed: float
    available: float

    @property
    def share(self) -> float:
        return self.needed / self.available


def resource_use(engine: EngineSpec, fabric: FabricSpec) -> tuple[Use, ...]:
    """Return the needed and available amount of every resource that the design states."""
    return (
        Use("DSP slices", engine.dsp, fabric.dsp),
        Use("on-chip bytes", engine.buffer_bytes, fabric.on_chip_bytes),
        Use("memory ports", engine.ports.weights + engine.ports.data, fabric.memory_ports),
        Use("bits of a memory port", engine.ports.port_bits, fabric.memory_port_bits),
    )


def engine_of(device: DeviceSpec) -> tuple[str, EngineSpec, FabricSpec]:
    """Return the processor's name, the design and the board of an FPGA device.

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
    """Refuse a design that its board cannot hold; return warnings about tight resources.

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
