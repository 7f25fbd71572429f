"""A device at run time: processors that share one memory, and regions of work that run on them in parallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..workloads.errors import InputError, reason_of
from ..workloads.ops import Op
from .cost import Cost, CostModel, KernelModel, Roofline
from .hosts.spec import HostSpec
from .kinds import PROCESSOR_KINDS, Described
from .lines import LineModel
from .peaks import all_formats, peaks_of
from .power.board import NO_BOARD, Board, board, coefficients
from .spec import DeviceSpec, ProcessorSpec

if TYPE_CHECKING:
    from .calibrated.model import CalibratedModel


# The ridge point, and the same idea counted in tokens: the break-even queue of an expert.


def ridge_point(flops_per_s: float, bytes_per_s: float) -> float:
    """Return the Op/B at which arithmetic and memory take equally long; infinite without a bandwidth.

    Examples
    --------
    >>> ridge_point(1e12, 1e10)
    100.0
    """
    return flops_per_s / bytes_per_s if bytes_per_s else float("inf")


def break_even_tokens(ridge: float, weight_bytes: float, token_bytes_per_weight: float = 0.0) -> float:
    """Return the number of tokens per expert from which loading its weights is hidden behind arithmetic.

    `n` tokens do ``2 n`` FLOP with every weight of `weight_bytes`, and move
    ``n * token_bytes_per_weight`` activation bytes besides it: the matmul's Op/B,
    ``2 n / (weight_bytes + n * token_bytes_per_weight)``, reaches the ridge point at the
    break-even. Where activations do not share the weights' path they cost nothing here.

    Parameters
    ----------
    ridge : float
        Ridge point of the processor [FLOP/B].
    weight_bytes : float
        Stored bytes of one weight [B].
    token_bytes_per_weight : float
        Activation bytes of one token over the expert's weights [B].

    Returns
    -------
    float
        Infinite if activations keep the expert below the ridge.

    Examples
    --------
    >>> break_even_tokens(48.0, 2.0), break_even_tokens(48.0, 1.0)
    (48.0, 24.0)
    """
    room = 2.0 - ridge * token_bytes_per_weight
    return ridge * weight_bytes / room if room > 0 else float("inf")


@dataclass(frozen=True, slots=True)
class Processor:
    """One class of compute units of a device, with its cost model.

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
    base : Roofline
        Its description as a cost model.
    model : CostModel
        Seconds and joules of an op: `base`, or what is known of its kernels.
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
    base: Roofline
    model: CostModel
    partial_sums: int = 0
    excludes: frozenset[str] = frozenset()

    def can_run(self, kind: str) -> bool:
        return kind not in self.excludes if self.runs is None else kind in self.runs

    def ridge(self, dtype: str) -> float:
        """Return the ridge point of the nominal roofs [FLOP/B]."""
        return ridge_point(self.peak[dtype], self.bandwidth)

    def break_even_tokens(self, dtype: str, weight_bytes: float, token_bytes_per_weight: float = 0.0) -> float:
        """Return the tokens from which an expert is no longer bound by loading its weights, at the model's rates.

        See :func:`devices.device.break_even_tokens`.
        """
        roof = self.model.roof(dtype)
        flops, moved = roof.peak * roof.compute_efficiency, roof.bandwidth * roof.memory_efficiency
        return break_even_tokens(ridge_point(flops, moved), weight_bytes, token_bytes_per_weight)

    def attained(self, flops: float, moved: float, dtype: str) -> float:
        """Return the FLOP/s of an op under the nominal roofs if it moves `moved` bytes; 0 if it moves none."""
        return min(self.peak[dtype], flops / moved * self.bandwidth) if moved else 0.0


@dataclass(frozen=True, slots=True)
class Region:
    """Work that starts at the same time on several processors and ends with the slowest of them.

    Attributes
    ----------
    tracks : mapping of str to sequence of Op
        Processor name -> its ops, one after another.
    spaces : mapping of str to frozenset of int
        Memory spaces that a track reads; tracks that share one wait for each other. None by default: nothing conflicts.
    """

    tracks: Mapping[str, Sequence[Op]]
    spaces: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def conflict(self) -> bool:
        """Whether two tracks read the same memory space."""
        seen: set[int] = set()
        for name in self.tracks:
            allowed = self.spaces.get(name, frozenset())
            if seen & allowed:
                return True
            seen |= allowed
        return False


@dataclass(frozen=True, slots=True)
class RegionCost:
    """Duration of a region, and the processor and cost of each of its ops."""

    seconds: float
    ops: tuple[tuple[Op, str, Cost], ...]


@dataclass(frozen=True, slots=True)
class SharedMemoryDevice:
    """A device with one or more processors (xPU, Logic-PIM) on one memory.

    A region lasts as long as its slowest track, or as all of them where two read one memory space.

    Attributes
    ----------
    collectives : KernelModel, optional
        Measured collectives of the link inside a node.
    board : Board
        Power of a device in addition to the energy of its work.
    """

    spec: DeviceSpec
    processors: Mapping[str, Processor]
    collectives: KernelModel | None = None
    board: Board = NO_BOARD

    @property
    def measured(self) -> bool:
        """Return whether times of its main processor come from measured kernels, fitted or tabulated."""
        return self.collectives is not None

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


def build_device(
    spec: DeviceSpec,
    *,
    calibrated: bool = False,
    kernels: Sequence[str] = (),
    frameworks: Mapping[str, str] = MappingProxyType({}),
    host: HostSpec | None = None,
    assumed: bool = False,
) -> SharedMemoryDevice:
    """Build a device from its description.

    Parameters
    ----------
    calibrated : bool
        Use the fitted kernel models for ops of GPU-class processors if their cores and clock are known; other
        processors use the cost model of their kind (`devices.kinds`), which for the library's, as on the Duplex
        paper's systems, is a roofline.
    kernels : sequence of str
        Measured kernel tables of the device, which come before any model.
    frameworks : mapping of str to str
        Kind of op -> framework whose kernels run it, as `kernel_tables.framework` names it, instead of the base of all.
    host : HostSpec, optional
        What the links between devices make of collectives; as the device's rows say without one.
    assumed : bool
        Nobody named the host.

    Raises
    ------
    InputError
        Tables without a row of this device, or a device without a processor that they could be of.
    """
    processors = {name: _processor(name, p, spec) for name, p in spec.processors.items()}
    fitted = calibrated and any(map(can_calibrate, spec.processors.values()))
    if kernels and not fitted:
        raise InputError("--kernels", f"needs a calibrated device, not {spec.name}")
    boards = board(spec) if fitted else Board(spec.static_W, None)
    collectives: KernelModel | None = None
    for name, described in spec.processors.items() if calibrated else ():
        plain = processors[name]
        if not can_calibrate(described):
            processors[name] = replace(plain, model=_of_kind(plain.base, name, spec))
            continue
        base = _powered(plain.base, boards)
        own_fit = _fitted(base, spec, described, frameworks)
        model = _with_tables(own_fit, spec, kernels)
        processors[name] = replace(plain, base=base, model=model)
        # Kernel tables of one device say nothing of collectives.
        collectives = collectives or _in_host(own_fit, host, assumed)
    if spec.lines and calibrated:
        for name, plain in processors.items():
            own_lines = LineModel(spec.lines, plain.model)
            processors[name] = replace(plain, model=own_lines)
            collectives = collectives or own_lines
    return SharedMemoryDevice(spec, processors, collectives, boards)


def _powered(model: Roofline, card: Board) -> Roofline:
    """Return a processor's roofline with the energies of the board's power model, if the board has one."""
    return model if card.model is None else coefficients(card.model, model)


def _of_kind(base: Roofline, name: str, device: DeviceSpec) -> CostModel:
    """Return the cost model of one processor by its kind.

    Raises
    ------
    InputError
        The kind's function fails on this description.
    """
    spec = device.processors[name]
    described = Described(name, device.name, base, spec.parameters, device.memory.stacks, spec.cores, spec.clock_Hz)
    try:
        return PROCESSOR_KINDS[spec.kind].model_of(described)
    except Exception as error:
        reason = f"kind {spec.kind} returned no cost model ({reason_of(error)})"
        raise InputError(f"{device.name}: processors.{name}", reason) from error


def can_calibrate(processor: ProcessorSpec) -> bool:
    """Return whether a processor is GPU-class and its cores and clock are known."""
    return processor.kind == "xpu" and None not in (processor.cores, processor.clock_Hz)


def _fitted(
    base: Roofline, spec: DeviceSpec, processor: ProcessorSpec, frameworks: Mapping[str, str]
) -> CalibratedModel:
    """Return the fitted kernel models of one processor."""
    from .calibrated.model import calibrated_model

    model = calibrated_model(spec, processor, base)
    for kind, label in frameworks.items():
        model = model.with_framework(kind, label)
    return model


def _with_tables(fit: CalibratedModel, spec: DeviceSpec, kernels: Sequence[str]) -> KernelModel:
    """Return the kernel models with measured tables that have priority over them."""
    if not kernels:
        return fit
    from .tables.model import table_model

    return table_model(spec, kernels, fit)


def _in_host(fit: CalibratedModel, host: HostSpec | None, assumed: bool) -> KernelModel:
    """Return the kernel models of collectives for the links of a host."""
    from .hosts.links import hosted

    return hosted(fit, host, assumed)


def _processor(name: str, spec: ProcessorSpec, device: DeviceSpec) -> Processor:
    bandwidth = device.memory.bandwidth_bytes_per_s * spec.bandwidth_multiple
    efficiency = spec.memory_efficiency
    if spec.engine is not None:  # weights pass through the design's own ports
        ports = spec.engine.port_bytes_per_s(spec.engine.ports.weights)
        bandwidth, efficiency = min(bandwidth * efficiency, ports), 1.0
    peak = peaks_of(spec, device, bandwidth)
    energy = all_formats(spec.compute_J_per_flop, f"{device.name}: {name}.compute_pJ_per_FLOP")
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
    if not bandwidth or not all(peak.values()):  # it can run nothing
        runs = frozenset()
    sums = device.memory.stacks if spec.partial_sums else 0
    out = frozenset(spec.excludes)
    return Processor(name, spec.kind, runs, peak, bandwidth, model, model, sums, out)
