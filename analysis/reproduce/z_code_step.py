"""Memory of a training device under the strategies of DeepSpeed MoE (Z-code), from layouts."""

from __future__ import annotations

from dataclasses import dataclass

from ...devices.catalog import load_system
from ...simulator.deploy.layout import Layout, shard_model
from ...simulator.training.states import BytesPerWeight, States, stage_parameters, states
from ...workloads.catalog import load_model

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
