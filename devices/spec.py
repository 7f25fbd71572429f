"""Schemas of device and system descriptions (see ``devices/specs/*.yaml``), in SI units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ..workloads.errors import nearest
from ..workloads.ops import OP_KINDS
from ..workloads.specfile import Spec
from ..workloads.yamlfile import table_of
from .core_spec import CoreSpec, MacArraySpec, own_bandwidths
from .dram.layout import DataLayout
from .fpga_engine import EngineSpec, FabricSpec
from .hosts.spec import HostSpec
from .kinds import PROCESSOR_KINDS
from .lines import Count, FamilyFitSpec, Fraction, Lines, NonNegative, Positive, TierSpec
from .silicon.constants import SiliconSpec

MAX_DEVICES = 4096
"""Maximum number of devices in a node, and of nodes in a system."""
ARITHMETIC = ("fp32", "fp16", "bf16", "fp8", "int8", "fp4")
"""Number formats in which a processor can compute, with their rates and energies."""


def _arithmetic(name: str) -> str:
    if name not in ARITHMETIC:
        raise ValueError(f"unknown arithmetic format{nearest(name, ARITHMETIC)}")
    return name


def _known_kind(name: str) -> str:
    if name not in PROCESSOR_KINDS:
        raise ValueError(f"unknown processor kind {name!r}{nearest(name, PROCESSOR_KINDS.names())}")
    return name


Arithmetic = Annotated[str, AfterValidator(_arithmetic)]


def _op_kind(name: str) -> str:
    if name not in OP_KINDS:
        raise ValueError(
            f"{name!r:.40} is not a kind of op (tables show names, which are finer){nearest(name, OP_KINDS)}"
        )
    return name


OpKind = Annotated[str, AfterValidator(_op_kind)]
WORD = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"
Name = Annotated[str, Field(pattern=WORD, max_length=80)]


class ProcessorSpec(Spec):
    """One compute-unit class of a device.

    Peak is given directly (`peak_flops_per_s` by data type), by a MAC array, as a ratio to the processor's own memory
    bandwidth (`peak_op_per_byte`), or by an FPGA design (`engine`); exactly one of the four. Its memory bandwidth is
    `bandwidth_multiple` times the external bandwidth (also in a description that extends another and changes it), or an
    absolute value `bandwidth_GBps`. Weights and KV cost `memory_J_per_byte`; inputs and outputs `activation_J_per_byte`
    if given. Without any peak or bandwidth it runs nothing. `kind` is its position: an NPU or TPU is an "xpu", units at
    the banks of a DRAM (AiM, HBM-PIM) are "bank-pim", on a stack's base die "logic-pim". `runs` names the kinds of op
    the processor takes (`workloads.ops.OP_KINDS`); default: all except `excludes`. With `partial_sums` its units are in
    the memory stacks and split every expert over them: each stack leaves a partial sum of an expert's output, which the
    main processor reads and adds. `shared_memory_bytes` is shared by a core's thread blocks, given if serving engines
    run FlashAttention-2 (`devices.tables.blocks`); `core` describes a core. `matrix_rows` are the minimum rows of a
    matrix instruction: 16 on tensor cores, 1 on vector units. `compute_capability` is NVIDIA's, which selects a
    framework's kernels. `dispatch_s` passes on the device between two kernels of a replayed graph, beyond NVIDIA's
    timed graphs. `area_mm2` is the area of its parts in one memory stack [mm2]. `parameters` are further numbers of a
    user-defined kind (`devices.kinds`).
    """

    kind: Annotated[str, AfterValidator(_known_kind)]
    peak_flops_per_s: Annotated[dict[Arithmetic, NonNegative], Field(min_length=1)] | None = None
    mac_array: MacArraySpec | None = None
    peak_op_per_byte: Positive | None = None
    engine: EngineSpec | None = None
    bandwidth_multiple: NonNegative = 1.0
    compute_efficiency: Fraction
    memory_efficiency: Fraction
    launch_s: NonNegative
    memory_J_per_byte: NonNegative
    activation_J_per_byte: NonNegative | None = None
    compute_J_per_flop: Annotated[dict[Arithmetic, NonNegative], Field(min_length=1)]
    runs: tuple[OpKind, ...] | None = None
    excludes: tuple[OpKind, ...] = ()
    partial_sums: bool = False
    cores: Count | None = None
    shared_memory_bytes: Positive | None = None
    core: CoreSpec | None = None
    matrix_rows: Count = 16
    compute_capability: Positive | None = None
    dispatch_s: NonNegative = 0.0
    clock_Hz: Positive | None = None
    area_mm2: dict[str, Positive] | None = None
    parameters: dict[Name, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_peak(self) -> ProcessorSpec:
        given = [self.peak_flops_per_s, self.mac_array, self.peak_op_per_byte, self.engine]
        if sum(g is not None for g in given) != 1:
            raise ValueError("give one of peak_TFLOPS, mac_array, peak_op_per_byte and engine")
        if (self.kind == "fpga") != (self.engine is not None):
            raise ValueError("kind fpga needs an engine, and an engine needs kind fpga")
        wanted = set(PROCESSOR_KINDS[self.kind].parameters)
        if wanted != set(self.parameters):
            named = ", ".join(sorted(wanted)) or "none"
            raise ValueError(f"must have all parameters of kind {self.kind} and no others: {named}")
        lacking = set(self.peak_flops_per_s or ()) - set(self.compute_J_per_flop)
        if lacking:
            raise ValueError(f"compute_pJ_per_FLOP lacks {', '.join(sorted(lacking))}")
        return self


class MemorySpec(Spec):
    """Main memory of one device, shared by its processors.

    Of `spaces` memory spaces, two processors can read two different ones at full rate each; reads of one space wait for
    each other. Kernels can have `data_fraction` of the bandwidth, which ECC within the chips or a lower clock than that
    of the product's name leaves. `dram` says what it is made of, where that is known. The last-level cache's bandwidth,
    and the latencies of loads from it and from memory on a busy device, are the tile model's (`devices.tiles`).
    """

    stacks: Count = 1
    capacity_bytes: Positive
    bandwidth_bytes_per_s: Positive
    data_fraction: Fraction = 1.0
    usable_fraction: Fraction
    spaces: Count = 1
    cache_bytes: NonNegative = 0.0
    cache_bandwidth_bytes_per_s: Positive | None = None
    cache_latency_s: Positive | None = None
    latency_s: Positive | None = None
    logic_die_mm2: Positive | None = None
    dram: DataLayout | None = None


class LinkSpec(Spec):
    """A link of one device: bandwidth one way, latency of one hop.

    In a mesh it is split evenly over `peers`; among fewer devices the rest stays idle. Over a switch any peer gets all.
    Links of a device that name the same `medium` are carried by it, as peer copies and network
    traffic are by PCIe: while one of them runs, the other does not.
    """

    name: str
    bandwidth_bytes_per_s: Positive
    latency_s: NonNegative
    energy_J_per_byte: NonNegative = 0.0
    medium: Name | None = None
    peers: Count = 1


class BridgeSpec(LinkSpec):
    """A link between a limited number of devices of a node, such as an NVLink bridge over two cards."""

    devices: Annotated[int, Field(ge=2)]


class MappingSpec(Spec):
    """How a model is mapped on a system's devices, where a run does not say otherwise.

    `placement` is the rule that assigns ops to processors (`simulator.deploy.placement`), `splitter` the division of
    experts in co-processing: "paper" tries the prefixes of the order of increasing load, "optimal" every subset.
    `experts` are sharded over the devices of a node, or distributed to groups, for all layers or per layer; `attention`
    is one pass over K and V, or scores through main memory: written and read once, or twice if softmax is a separate
    kernel.

    With `separate` every processor is a separate device, with a memory of the device's size and a port on the link: ops
    that the first one `excludes` run on another, which stores the weights of experts and the KV cache. With `pipeline`
    layers are distributed over the devices, in as many stages as divide them and the model has layers for. Of a
    system's devices, `prefill_share` only prefill and the others only decode; without it every device does both.
    """

    placement: str = "op-per-byte"
    splitter: Literal["paper", "optimal"] = "paper"
    experts: Literal["expert-parallel", "expert-parallel-by-layer", "tensor-parallel"] = "expert-parallel"
    attention: Literal["flash", "fused-softmax", "unfused"] = "flash"
    separate: bool = False
    pipeline: bool = False
    prefill_share: Annotated[float, Field(gt=0, lt=1)] | None = None

    def group(self, device: DeviceSpec) -> int:
        """Return the number of devices that work as one: one per processor if they are `separate`."""
        return len(device.processors) if self.separate else 1

    def fewest(self, device: DeviceSpec) -> int:
        """Return the number of devices of the smallest system."""
        return self.group(device) * (1 if self.prefill_share is None else 2)


class DeviceSpec(Spec):
    """One device: processors that share a memory, its links, power and cost.

    `kernels` names the kernel parameters that the device shares with others of its silicon (see
    `calibrated.kernel_sets`).

    `static_W` is idle power. A board with a power limit has `limit_W` and the `process` of its cores: the energy of its
    work then comes from the power model (`devices.power`), not from `memory_J_per_byte` and `compute_J_per_flop`.
    `clock_share` is the remaining clock under a cap or a locked clock over the clock at its limit, with the voltage;
    `rated_W` is then the power limit without them.

    `host` is the default class of host (`devices.hosts`) of its systems; without it the link follows the description
    and the device's rows. A `bridge` replaces `link` and `host` in nodes with no more devices than it joins; in larger
    ones, where only some pairs are bridged and a ring is as slow as its slowest hop, it is ignored.

    Its part of the host's memory, `host_memory`, stores experts that do not fit its own
    (`simulator.parts.expert_cache`), and a `disk` those that do not fit the host's. `lines` are fitted lines of kinds
    of op, which have priority over other costs (`devices.lines`). `silicon` describes its dies, from which its area and
    cost follow (`devices.silicon`); `parameters` are the variables of the description's expressions
    (`workloads.parameters`).
    """

    name: Name
    title: str = ""
    aliases: tuple[str, ...] = ()
    memory: MemorySpec
    processors: dict[Name, ProcessorSpec] = Field(min_length=1)
    link: LinkSpec
    node_link: LinkSpec
    bridge: BridgeSpec | None = None
    host_memory: TierSpec | None = None
    disk: TierSpec | None = None
    node_size: Count = 8
    static_W: NonNegative = 0.0
    limit_W: Positive | None = None
    rated_W: Positive | None = None
    clock_share: Fraction = 1.0
    process: Literal["N7", "N6", "8N", "N5", "4N", "4NP", "N3P"] | None = None
    price_USD_per_hour: Positive | None = None
    kernels: Name | None = None
    host: Name | None = None
    calibration: dict[Name, FamilyFitSpec] = Field(default_factory=dict)
    fabric: FabricSpec | None = None
    silicon: SiliconSpec | None = None
    parameters: dict[Name, float] = Field(default_factory=dict)
    lines: Lines = Field(default_factory=dict)

    def among(self, devices: int) -> DeviceSpec:
        """Return the device as one of `devices` in a node: its bridge becomes the link if it joins them all."""
        if self.bridge is None or not 1 < devices <= self.bridge.devices:
            return self
        return self.model_copy(update={"link": self.bridge, "bridge": None, "host": None})

    def __repr__(self) -> str:
        memory = self.memory
        return (
            f"<DeviceSpec: {self.name} ({self.title or 'no title'}), {', '.join(self.processors)}, "
            f"{memory.capacity_bytes / 2**30:.4g} GiB at {memory.bandwidth_bytes_per_s / 1e9:,.0f} "
            "GB/s; see .model_dump()>"
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return a table of every number except the fits, for a notebook."""
        return table_of(self.model_dump(exclude={"calibration"}, exclude_none=True))

    @model_validator(mode="before")
    @classmethod
    def _no_mapping(cls, given: Any) -> Any:
        for key in MappingSpec.model_fields if isinstance(given, dict) else ():
            if key in given:
                raise ValueError(
                    f"{key} is not part of a device: give `mapping: {{{key}: ...}}` next to `device:` in a system's file"
                )
        return own_bandwidths(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _fabric(self) -> DeviceSpec:
        if self.on_engine and self.fabric is None:
            raise ValueError("a processor with an engine needs `fabric` of the board, and `fabric` needs an engine")
        designs = [p for p in self.processors.values() if p.kind.startswith("fpga")]
        if self.fabric is not None and not designs:
            raise ValueError("a processor with an engine needs `fabric` of the board, and `fabric` needs an engine")
        if designs and len(self.processors) > 1:
            raise ValueError("an FPGA must have exactly one processor, with its engine")
        if self.fabric is not None:
            self._fits(designs, self.fabric)
        return self

    @model_validator(mode="after")
    def _limit_above_idle(self) -> DeviceSpec:
        if self.limit_W is not None and self.limit_W <= self.static_W:
            raise ValueError(
                f"limit_W: {self.limit_W:g} W must exceed the {self.static_W:g} W idle power of the device"
            )
        return self

    @staticmethod
    def _fits(designs: Sequence[ProcessorSpec], fabric: FabricSpec) -> None:
        """Refuse a design with more multipliers than the board has; engines are checked elsewhere."""
        for design in designs:
            takes = design.parameters
            needed = takes.get("macs", 0.0) * takes.get("dsp_per_mac", 0.0)
            if needed > fabric.dsp:
                raise ValueError(f"the design needs {needed:,.0f} DSP slices, {fabric.dsp:,} available")

    @property
    def on_engine(self) -> bool:
        """Whether its time comes from an event simulation (`simulator.fpga`) and not from the times of single ops."""
        return any(p.engine is not None for p in self.processors.values())


class SystemSpec(Spec):
    """Devices on links, and how models are mapped on them.

    `nodes` nodes of `devices_per_node` devices each, in a host that says how these are connected.
    """

    name: Annotated[str, Field(pattern=WORD, max_length=100)]  # a device's name and its counts
    title: str = ""
    device: DeviceSpec
    devices_per_node: Annotated[int, Field(ge=1, le=MAX_DEVICES)]
    nodes: Annotated[int, Field(ge=1, le=MAX_DEVICES)] = 1
    mapping: MappingSpec = Field(default_factory=MappingSpec)
    host: HostSpec | None = None

    def __repr__(self) -> str:
        count = f"{self.nodes} x {self.devices_per_node}" if self.nodes > 1 else self.devices_per_node
        return f"<SystemSpec: {self.name}, {count} devices: {self.device!r}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return a table of every number except the fits, for a notebook."""
        shown = self.model_dump(exclude={"device": {"calibration"}}, exclude_none=True)
        return table_of(shown)

    @model_validator(mode="after")
    def _whole_groups(self) -> SystemSpec:
        if self.devices_per_node % self.group:
            raise ValueError(
                f"devices_per_node must be a multiple of {self.group}: one device for each "
                f"processor of {self.device.name}"
            )
        if self.mapping.prefill_share is not None:
            self.pools()
        return self

    @property
    def group(self) -> int:
        """Number of devices that work as one."""
        return self.mapping.group(self.device)

    @property
    def groups_per_node(self) -> int:
        """Number of groups of devices that work as one, per node."""
        return self.devices_per_node // self.group

    @property
    def groups(self) -> int:
        """Number of groups of devices that work as one, in the whole system."""
        return self.groups_per_node * self.nodes

    def pools(self) -> tuple[SystemSpec, SystemSpec]:
        """Return the prefill devices and the decode devices as separate systems.

        Each pool has whole nodes if the share allows it, otherwise a part of every node.

        Raises
        ------
        ValueError
            The system has no share, or one that leaves a side without devices.
        """
        share = self.mapping.prefill_share
        if share is None:
            raise ValueError(f"{self.name} has no prefill_share")
        mapping = self.mapping.model_copy(update={"prefill_share": None})
        nodes, part = share * self.nodes, share * self.groups_per_node
        if nodes == int(nodes) and nodes > 0:
            sizes = [(self.groups_per_node, int(nodes)), (self.groups_per_node, 0)]
            sizes[1] = (self.groups_per_node, self.nodes - int(nodes))
        elif part == int(part) and part > 0:
            rest = self.groups_per_node - int(part)
            sizes = [(int(part), self.nodes), (rest, self.nodes)]
        else:
            raise ValueError(f"prefill_share {share:g} does not divide the devices of {self.name}")
        first, second = (
            SystemSpec(name=f"{self.name}-{label}", title=self.title, device=self.device,
                       devices_per_node=groups * self.group, nodes=count, mapping=mapping,
                       host=self.host)
            for label, (groups, count) in zip(("prefill", "decode"), sizes, strict=True)
        )  # fmt: skip
        return first, second
