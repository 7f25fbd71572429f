"""Memory of one device in a training step, by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ...devices.spec import SystemSpec
from ...workloads.errors import CapacityError
from ...workloads.model import ModelSpec
from .layers import Passes
from .layout import TrainingLayout, TrainingOptions
from .states import BytesPerWeight, layer_parameters, stage_parameters, states

AHEAD = 2
"""Layers whose weights ZeRO 3 holds whole at once: the one at work and the next."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes of one device by kind [B].

    Attributes
    ----------
    weights, gradients, optimizer : float
        Of its shard, after ZeRO.
    gathered : float
        Weights that ZeRO 3 brings together for the layers at work.
    activations : float
        Kept for backward passes to come, of all micro-batches on their way.
    working : float
        Of the layer that whole-layer recomputation makes anew.
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


def stage_memory(
    stages: Sequence[ModelSpec],
    index: int,
    layout: TrainingLayout,
    options: TrainingOptions,
    per_weight: BytesPerWeight,
    layers: Sequence[Passes],
    waiting: float,
) -> TrainingMemory:
    """Memory of a device of one pipeline stage.

    Parameters
    ----------
    layers : sequence of Passes
        Of the stage's layers.
    waiting : float
        Most bytes of activations that it keeps at once [B].
    """
    model_states = states(
        stage_parameters(stages, index, layout.tp), per_weight, options.zero, layout.copies, layout.expert_dp
    )
    gathered = 0.0
    if options.zero == 3:
        sizes = [layer_parameters(layer) for layer, _ in stages[index].groups]
        gathered = AHEAD * per_weight.weights * max((p.dense + p.experts for p in sizes), default=0.0)
    working = max((p.working_bytes for p in layers), default=0.0)
    return TrainingMemory(
        model_states.weights, model_states.gradients, model_states.optimizer, gathered, waiting, working
    )


def usable_bytes(system: SystemSpec) -> float:
    """Memory of a device that a step may fill [B]."""
    return system.device.memory.capacity_bytes * system.device.memory.usable_fraction


def check_fits(memory: TrainingMemory, model: ModelSpec, system: SystemSpec, degrees: str) -> None:
    """Refuse a step that a device's memory does not hold.

    Raises
    ------
    CapacityError
        Names the kinds that take most, and what takes less.
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
