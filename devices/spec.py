"""Schemas of device and system descriptions (see ``devices/specs/*.yaml``), in SI units."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..workloads.specfile import Spec

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0, lt=2**31)]
MAX_DEVICES = 4096
"""Most devices of a node, and most nodes of a system."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=80)]


class MacArraySpec(Spec):
    """Multiply-accumulate units of a processor near memory; peak = 2 x MACs x clock."""

    modules_per_stack: Count
    macs_per_module: Count
    clock_Hz: Positive


class ProcessorSpec(Spec):
    """One compute-unit class of a device.

    Peak is given directly (`peak_flops_per_s` by data type), by a MAC array, or as a ratio
    to the processor's own memory bandwidth (`peak_op_per_byte`); exactly one of the three.
    Its memory bandwidth is `bandwidth_multiple` times the external bandwidth.
    """

    kind: Literal["xpu", "logic-pim", "bank-pim", "bank-group-pim"]
    peak_flops_per_s: dict[str, Positive] | None = None
    mac_array: MacArraySpec | None = None
    peak_op_per_byte: Positive | None = None
    bandwidth_multiple: Positive = 1.0
    compute_efficiency: Fraction
    memory_efficiency: Fraction
    launch_s: NonNegative
    memory_J_per_byte: NonNegative
    activation_J_per_byte: NonNegative | None = None
    compute_J_per_flop: dict[str, NonNegative]
    runs: tuple[str, ...] | None = None
    cores: Count | None = None
    clock_Hz: Positive | None = None

    @model_validator(mode="after")
    def _one_peak(self) -> ProcessorSpec:
        given = [self.peak_flops_per_s, self.mac_array, self.peak_op_per_byte]
        if sum(g is not None for g in given) != 1:
            raise ValueError("give one of peak_TFLOPS, mac_array and peak_op_per_byte")
        return self


class MemorySpec(Spec):
    """Main memory of one device, shared by its processors."""

    stacks: Count = 1
    capacity_bytes: Positive
    bandwidth_bytes_per_s: Positive
    usable_fraction: Fraction
    spaces: Count = 1
    cache_bytes: NonNegative = 0.0


class LinkSpec(Spec):
    """A link of one device: bandwidth one way, latency of one hop."""

    name: str
    bandwidth_bytes_per_s: Positive
    latency_s: NonNegative
    energy_J_per_byte: NonNegative = 0.0


class DeviceSpec(Spec):
    """One device: processors that share a memory, its links, power and price."""

    name: Name
    title: str = ""
    aliases: tuple[str, ...] = ()
    memory: MemorySpec
    processors: dict[Name, ProcessorSpec] = Field(min_length=1)
    link: LinkSpec
    node_link: LinkSpec
    node_size: Count = 8
    static_W: NonNegative = 0.0
    price_USD_per_hour: Positive | None = None
    placement: str = "op-per-byte"
    experts: Literal["expert-parallel", "tensor-parallel"] = "expert-parallel"
    attention: Literal["flash", "unfused"] = "flash"


class SystemSpec(Spec):
    """Devices on links: `nodes` nodes of `devices_per_node` devices each."""

    name: Name
    title: str = ""
    device: DeviceSpec
    devices_per_node: Annotated[int, Field(ge=1, le=MAX_DEVICES)]
    nodes: Annotated[int, Field(ge=1, le=MAX_DEVICES)] = 1
