"""A device at run time: processors that share one memory, and how regions of work join."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..workloads.errors import InputError, SpecError
from ..workloads.numerics import BITS
from ..workloads.ops import Op
from .cost import Cost, CostModel, KernelModel, Roofline
from .ridge import break_even_tokens, ridge_point
from .spec import DeviceSpec, ProcessorSpec

FALLBACK = {
    "fp4": "fp8",
    "fp8_block": "fp8",
    "fp8": "bf16",
    "int8": "fp16",
    "bf16": "fp16",
    "fp16": "fp32",
}
"""Where a processor lacks a format it computes in the next wider one."""

WIDTH = {**BITS, "fp4": 4.0}


@dataclass(frozen=True, slots=True)
class Processor:
    """One compute-unit class with its cost model.

    Attributes
    ----------
    name, kind : str
        Key in the spec ("logic-pim") and kind of unit.
    runs : frozenset of str or None
        Op kinds it can run; None = all that `excludes` does not name.
    peak : mapping of str to float
        Nominal FLOP/s by format.
    bandwidth : float
        Nominal bytes per second of its memory path.
    model : CostModel
        Seconds and joules of an op.
    partial_sums : int
        Partial sums of an expert's output that it leaves: one a memory stack; 0 = none.
    excludes : frozenset of str
        Op kinds that it leaves to others.
    """

    name: str
    kind: str
    runs: frozenset[str] | None
    peak: Mapping[str, float]
    bandwidth: float
    model: CostModel
    partial_sums: int = 0
    excludes: frozenset[str] = frozenset()

    def can_run(self, kind: str) -> bool:
        return kind not in self.excludes if self.runs is None else kind in self.runs

    def ridge(self, dtype: str) -> float:
        """Op/B at which the two roofs meet."""
        return ridge_point(self.peak[dtype], self.bandwidth)

    def break_even_tokens(
        self, dtype: str, weight_bytes: float, token_bytes_per_weight: float = 0.0
    ) -> float:
        """Tokens at which an expert stops being load-bound, with the efficiencies of the model.

        See :func:`devices.ridge.break_even_tokens`.
        """
        flops, moved = self.peak[dtype], self.bandwidth
        if isinstance(self.model, Roofline):
            flops *= self.model.compute_efficiency
            moved *= self.model.memory_efficiency
        return break_even_tokens(ridge_point(flops, moved), weight_bytes, token_bytes_per_weight)

    def attainable(self, op_per_byte: float, dtype: str) -> float:
        """Nominal roofline at an Op/B [FLOP/s]."""
        return min(self.peak[dtype], op_per_byte * self.bandwidth)


@dataclass(frozen=True, slots=True)
class Region:
    """Work that starts together: one track per processor, joined by the slowest.

    Attributes
    ----------
    tracks : mapping of str to sequence of Op
        Processor name -> its ops, one after another.
    spaces : mapping of str to frozenset of int
        Memory spaces that a track reads; tracks that share one wait for each other. None by
        default: nothing conflicts.
    """

    tracks: Mapping[str, Sequence[Op]]
    spaces: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def conflict(self) -> bool:
        """Whether two tracks read one memory space."""
        seen: set[int] = set()
        for name in self.tracks:
            own = self.spaces.get(name, frozenset())
            if seen & own:
                return True
            seen |= own
        return False


@dataclass(frozen=True, slots=True)
class RegionCost:
    """A region's duration, and each op's processor and cost."""

    seconds: float
    ops: tuple[tuple[Op, str, Cost], ...]


class Device(Protocol):
    """Anything that can run regions; the FPGA replaces `run` with its own pipeline."""

    @property
    def spec(self) -> DeviceSpec: ...

    @property
    def processors(self) -> Mapping[str, Processor]: ...

    def run(self, regions: Sequence[Region]) -> list[RegionCost]: ...


@dataclass(frozen=True, slots=True)
class SharedMemoryDevice:
    """xPU, Logic-PIM or both on one memory.

    A region lasts as long as its slowest track, or as all of them where two read one memory
    space.
    """

    spec: DeviceSpec
    processors: Mapping[str, Processor]

    def run(self, regions: Sequence[Region]) -> list[RegionCost]:
        return [self._run_one(region) for region in regions]

    def _run_one(self, region: Region) -> RegionCost:
        ops: list[tuple[Op, str, Cost]] = []
        longest, together = 0.0, 0.0
        for name, track in region.tracks.items():
            costs = [self.processors[name].model.cost(op) for op in track]
            seconds = sum(c.seconds for c in costs)
            longest, together = max(longest, seconds), together + seconds
            ops += [(op, name, c) for op, c in zip(track, costs, strict=True)]
        return RegionCost(together if region.conflict else longest, tuple(ops))


def build_device(spec: DeviceSpec, *, calibrated: bool = False) -> SharedMemoryDevice:
    """Turn a description into a device.

    Parameters
    ----------
    spec : DeviceSpec
    calibrated : bool
        Cost the ops of a GPU-class product with the fitted kernel models where its cores and
        clock are known; otherwise, and for every other device (the systems of the Duplex paper
        among them), with rooflines.
    """
    processors = {name: _processor(name, p, spec) for name, p in spec.processors.items()}
    if calibrated:
        from .calibrated.model import calibrated_model, can_calibrate

        if can_calibrate(spec):
            processors = {
                name: replace(p, model=calibrated_model(spec, p.model))
                for name, p in processors.items()
                if isinstance(p.model, Roofline)
            }
    return SharedMemoryDevice(spec, processors)


def with_tables(device: SharedMemoryDevice, paths: Sequence[str]) -> SharedMemoryDevice:
    """Cost what was measured on a device by its kernel tables; see `tables.table_model`.

    Raises
    ------
    InputError
        No usable tables of the device, or one of several processors or without known cores.
    """
    from .tables.model import table_model

    only = list(device.processors.values())
    if len(only) != 1 or not isinstance(only[0].model, KernelModel):
        raise InputError(
            "--kernels", f"needs a calibrated device of one processor, not {device.spec.name}"
        )
    model = table_model(device.spec, paths, only[0].model)
    return replace(device, processors={only[0].name: replace(only[0], model=model)})


def with_framework(device: SharedMemoryDevice, kind: str, label: str) -> SharedMemoryDevice:
    """Cost one kind of op by one framework's kernels where the device has kernel models.

    Parameters
    ----------
    kind : str
        Of `Op`, of a family that names its `rates`.
    label : str
        As `kernel_tables.framework` gives it.
    """
    from .calibrated.model import CalibratedModel

    processors = {
        name: replace(p, model=p.model.with_framework(kind, label))
        if isinstance(p.model, CalibratedModel) else p
        for name, p in device.processors.items()
    }  # fmt: skip
    return replace(device, processors=processors)


def _processor(name: str, spec: ProcessorSpec, device: DeviceSpec) -> Processor:
    bandwidth = device.memory.bandwidth_bytes_per_s * spec.bandwidth_multiple
    efficiency = spec.memory_efficiency
    if spec.engine is not None:  # weights pass through the design's own ports
        ports = spec.engine.port_bytes_per_s(spec.engine.ports.weights)
        bandwidth, efficiency = min(bandwidth * efficiency, ports), 1.0
    peak = peaks_of(spec, device, bandwidth)
    energy = _all_formats(spec.compute_J_per_flop, f"{device.name}: {name}.compute_pJ_per_FLOP")
    activation = spec.activation_J_per_byte
    model = Roofline(
        peak=peak,
        bandwidth=bandwidth,
        compute_efficiency=spec.compute_efficiency,
        memory_efficiency=efficiency,
        fixed_s=spec.launch_s,
        stream_J_per_byte=spec.memory_J_per_byte,
        act_J_per_byte=spec.memory_J_per_byte if activation is None else activation,
        J_per_flop=energy,
    )
    runs = None if spec.runs is None else frozenset(spec.runs)
    sums = device.memory.stacks if spec.partial_sums else 0
    out = frozenset(spec.excludes)
    return Processor(name, spec.kind, runs, peak, bandwidth, model, sums, out)


def peaks_of(spec: ProcessorSpec, device: DeviceSpec, bandwidth: float) -> dict[str, float]:
    """Peak FLOP/s by format, from whichever of the four ways the spec gives it."""
    if spec.engine is not None:  # a fixed-point array: one rate, whatever the model's format
        return dict.fromkeys(WIDTH, 2.0 * spec.engine.macs * spec.engine.clock_Hz)
    if spec.peak_flops_per_s is not None:
        return _all_formats(spec.peak_flops_per_s, f"{device.name}: peak_TFLOPS")
    if spec.mac_array is not None:
        mac = spec.mac_array
        macs = mac.modules_per_stack * mac.macs_per_module * device.memory.stacks
        fp16 = 2.0 * macs * mac.clock_Hz
    else:
        fp16 = (spec.peak_op_per_byte or 0.0) * bandwidth
    # Half-width operands double the rate of the same multipliers (Duplex: INT8/FP8 peak doubles).
    return {name: fp16 * min(16.0 / width, 2.0) for name, width in WIDTH.items()}


def _all_formats(given: Mapping[str, float], where: str) -> dict[str, float]:
    """Fill formats a processor lacks from the next wider one it has."""
    out = dict(given)
    for name in WIDTH:
        wider = name
        while wider not in out and wider in FALLBACK:
            wider = FALLBACK[wider]
        if wider in out:
            out[name] = out[wider]
    if "bf16" not in out and "fp16" not in out:
        raise SpecError(where, "needs at least one of fp16, bf16 and fp32")
    return out
