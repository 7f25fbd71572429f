"""Memory of a training device under the strategies of DeepSpeed MoE (Z-code), from layouts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from opbyte.extend import ModelSpec, load_model, load_system
from opbyte.extend.models import Layer, MixtureOfExperts
from opbyte.extend.systems import Layout, shard_model
from opbyte.extend.training import (
    BytesPerWeight,
    States,
    TrainingOptions,
    TrainingStep,
    stage_parameters,
    states,
    training_deployment,
    training_layout,
    training_step,
)

MODEL, SYSTEM, DEVICES = "z-code-3.5t", "a100-40gb-64x8", 512
SLICES = 8
"""Tensor slicing of the strategies with M: within a node."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """How the dense part and the optimiser's state are shared; experts lie on all devices.

    Attributes
    ----------
    name : str
        In the paper's letters: E experts, D data, M slices of the model, Z ZeRO 2.
    tp, zero : int
        Slices of the dense part, and the stage of ZeRO over data-parallel ranks.
    offload : bool
        Whether the optimiser's state lies in the host's memory.
    """

    name: str
    tp: int
    zero: int
    offload: bool = False


STRATEGIES = (
    Strategy("E + D", 1, 0), Strategy("E + D + M", SLICES, 0), Strategy("E + D + Z", 1, 2),
    Strategy("E + Z-offload", 1, 2, offload=True),
    Strategy("E + Z-offload + M", SLICES, 2, offload=True),
)  # fmt: skip
LAST = STRATEGIES[-1]


def device_states(strategy: Strategy) -> States:
    """Bytes of weights, gradients and optimiser state that one device answers for."""
    dp = DEVICES // strategy.tp
    layout = Layout(strategy.tp, dp, DEVICES, 1)
    shard = shard_model(load_model(MODEL), layout)
    copies = strategy.tp * dp // (layout.ep * layout.expert_tp)
    own = stage_parameters((shard,), 0, strategy.tp)
    each = BytesPerWeight.adam(shard.numerics.act_bytes)
    return states(own, each, strategy.zero, dp, copies)


def on_device(strategy: Strategy, offload: bool | None = None) -> float:
    """Bytes in the device's memory."""
    held = device_states(strategy)
    away = strategy.offload if offload is None else offload
    return held.weights + held.gradients + (0.0 if away else held.optimizer)


def usable_bytes() -> float:
    """Memory of a device that a step may fill."""
    memory = load_system(SYSTEM).device.memory
    return memory.capacity_bytes * memory.usable_fraction


def total_parameters() -> int:
    """Parameters of the model."""
    return load_model(MODEL).total_params


SEQUENCES, LENGTH = 32, 512
"""Sequences of a data-parallel rank in a step, and their tokens [assumed]."""


def with_experts(model: ModelSpec, experts: int) -> ModelSpec:
    """The model with another number of experts in its layers."""

    def change(layer: Layer) -> Layer:
        if not isinstance(layer.ffn, MixtureOfExperts):
            return layer
        return replace(layer, ffn=replace(layer.ffn, experts=experts))

    return model.map_layers(change)


def scaled_step(devices: int) -> TrainingStep:
    """A training step with as many experts a device as on 512, the optimiser's place left open.

    The memory of a device stands for its own and its part of the host's; nothing is said of PCIe.
    """
    model, system = load_model(MODEL), load_system(f"a100-40gb-{devices // 8}x8")
    (experts, *_) = [p.routed.experts for la in model.layers for p in la.expert_parts]
    own = with_experts(model, experts * devices // DEVICES)
    memory = system.device.memory.model_copy(update={"capacity_bytes": 1e12})
    device = system.device.model_copy(update={"memory": memory})
    roomy = system.model_copy(update={"device": device})
    options = TrainingOptions(SEQUENCES * devices // SLICES, LENGTH, micro_batch=SEQUENCES, zero=2)
    layout = training_layout(own, roomy, options, tp=SLICES, ep=devices)
    return training_step(training_deployment(own, roomy, layout), layout, options)
