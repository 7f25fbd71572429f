"""Memory of one device in a training step, by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from ...devices.spec import SystemSpec
from ...workloads.errors import CapacityError, InputError
from ...workloads.model import ModelSpec
from .layout import TrainingLayout, TrainingOptions
from .states import BytesPerWeight, ParameterCounts, layer_parameters, stage_parameters, states

AHEAD = 2
"""Number of layers with gathered weights at once under ZeRO 3: the running layer and the next one. Also of layers with whole gradients under ZeRO 2 and 3:
the running layer and the one whose gradients are scattered (`foreach_reduce` of pytorch/pytorch@8fc2039, torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py)."""


@dataclass(frozen=True, slots=True)
class Passes:
    """Time and memory of one micro-batch in a layer, forward and backward.

    Attributes
    ----------
    forward, backward : mapping of str to float
        Time by part of the model, or by kind of exchange [s].
    kept_bytes : float
        Activations stored from the forward to the backward pass [B].
    working_bytes : float
        Additional bytes during the backward pass: recomputed activations, or transfers to or from the host [B].
    weights_s : float
        Time of the backward pass for the gradients of weights [s].
    moved_bytes : float
        Part of `kept_bytes` that modules move to host memory [B].
    joules : mapping of str to float
        Dynamic energy of both passes' kernels on one device, by part of the model [J].
    """

    forward: Mapping[str, float]
    backward: Mapping[str, float]
    kept_bytes: float = 0.0
    working_bytes: float = 0.0
    weights_s: float = 0.0
    moved_bytes: float = 0.0
    joules: Mapping[str, float] = field(default_factory=dict)

    @property
    def forward_s(self) -> float:
        return sum(self.forward.values())

    @property
    def backward_s(self) -> float:
        return sum(self.backward.values())


OFFLOAD = "offload"
"""Label of the time in a pass that devices wait for transfers to or from host memory."""


def host_seconds(system: SystemSpec, moved_bytes: float, option: str = "--offload") -> float:
    """Return the time of a transfer to or from host memory [s].

    Raises
    ------
    InputError
        The device has no `host_memory`, which `option` needs.
    """
    tier = system.device.host_memory
    if tier is None:
        raise InputError(
            option,
            f"needs the key `host_memory` in the description of {system.device.name}: capacity, rate and latency",
        )
    return moved_bytes / tier.bandwidth_bytes_per_s


def offloaded(layer: Passes, system: SystemSpec, moved_bytes: float, layers: float, option: str) -> Passes:
    """Return a layer's passes with some activations moved to host memory.

    The transfer overlaps with the computation of `layers` layers. The activations of `AHEAD` layers are in transfer at a time.
    """
    took = host_seconds(system, moved_bytes, option)
    forward, backward = (
        {**way, OFFLOAD: max(took - layers * sum(way.values()), 0.0)} for way in (layer.forward, layer.backward)
    )
    kept, working = layer.kept_bytes - moved_bytes, layer.working_bytes + AHEAD * moved_bytes
    return replace(layer, forward=forward, backward=backward, kept_bytes=kept, working_bytes=working)


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes of one device by kind [B].

    Attributes
    ----------
    weights, gradients, optimizer : float
        Bytes of its shard, after ZeRO.
    gathered : float
        Weights that ZeRO 3 gathers for the running layers, and gradients that ZeRO 2 and 3 do not scatter yet.
    activations : float
        Activations stored for backward passes, of all micro-batches in flight.
    working : float
        Bytes of the layer that whole-layer recomputation recomputes, or of a loss without a fused kernel.
    """

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    working: float

    @property
    def total(self) -> float:
        return sum(self.by_kind().values())

    def by_kind(self) -> dict[str, float]:
        return asdict(self)

    def summed(self) -> dict[str, float]:
        return {**self.by_kind(), "total": self.total}


def stage_memory(
    stages: Sequence[ModelSpec],
    held: Sequence[int],
    layout: TrainingLayout,
    options: TrainingOptions,
    per_weight: BytesPerWeight,
    passes: Sequence[Passes],
    waiting: float,
    formats: Sequence[Sequence[float]],
) -> TrainingMemory:
    """Return the memory of one device of a pipeline stage, by kind [B].

    Parameters
    ----------
    held : sequence of int
        Stages whose weights the device stores.
    passes : sequence of Passes
        Passes of the stage's layers, embedding and head.
    waiting : float
        Peak of stored activations [B].
    formats : sequence of sequence of float
        Bytes of a weight in each layer of all stages.
    """
    parameters = sum((stage_parameters(stages, i, layout.tp) for i in held), ParameterCounts(0.0, 0.0))
    # Two pipeline ranks with the same stages share states like data-parallel ranks.
    zero, ranks, each = options.zero, [len(held) * n for n in layout.sharing], per_weight.weights
    model_states = states(parameters, per_weight, zero, *ranks)
    sizes = [(layer_parameters(la), b) for i in held for la, b in zip(stages[i].layers, formats[i], strict=True)]
    whole = [(p.dense + p.experts) * (b * (zero == 3) + per_weight.gradients * (zero >= 2)) for p, b in sizes]
    gathered = AHEAD * max(whole, default=0.0)
    weights = model_states.weights + sum(
        states(p, BytesPerWeight(b - each, 0.0, 0.0), zero, *ranks).weights for p, b in sizes
    )
    working = max((p.working_bytes for p in passes), default=0.0)
    optimizer = model_states.optimizer * (not options.offload_optimizer)
    return TrainingMemory(weights, model_states.gradients, optimizer, gathered, waiting, working)


SPARE = 0.5
"""Share of a serving engine's unused memory that a training step leaves unused too.

Llama-3.1-405B in FP8 on 256 GB200 ran without recomputation and uses 0.92 of a device, where an engine uses 0.9
(NVIDIA-NeMo/Megatron-Bridge@067f987, perf_recipes).
"""


def usable_bytes(system: SystemSpec, spare: float = SPARE) -> float:
    """Return the memory that a step may use [B]; `spare` is the share of an engine's unused memory that stays unused."""
    memory = system.device.memory
    return memory.capacity_bytes * (1.0 - spare * (1.0 - memory.usable_fraction))


def check_fits(memory: TrainingMemory, model: ModelSpec, system: SystemSpec, degrees: str) -> None:
    """Reject a step that needs more than the usable memory of a device.

    Raises
    ------
    CapacityError
        Names the two largest kinds, and options that need less memory.
    """
    usable = usable_bytes(system)
    if memory.total <= usable:
        return
    largest = sorted(memory.by_kind().items(), key=lambda kind: -kind[1])[:2]
    most = ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in largest)
    raise CapacityError(
        system.name,
        f"training {model.name} does not fit: needs {memory.total / 2**30:.1f} GiB per device "
        f"({most}), {usable / 2**30:.1f} GiB available ({degrees}); --pp, --tp, a higher --zero, "
        "--recompute full or a smaller --micro-batch take less",
    )
