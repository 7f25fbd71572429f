"""Z-code and DeepSpeed MoE training (arXiv 2109.10465): 3.5 trillion parameters on 512 A100.

Bytes of states per device by strategy, from a model and layouts; the paper prints only sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from opbyte.extend import ModelSpec, Table, load_model, load_system
from opbyte.extend.models import MixtureOfExperts
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

from .published import Prediction, paper

MODEL, SYSTEM, DEVICES = "z-code-3.5t", "a100-40gb-64x8", 512
SLICES = 8
"""Degree of tensor slicing of the strategies with M; the slices are within a node."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """Sharding of the dense part and the optimiser's state; experts are on all devices.

    Attributes
    ----------
    name : str
        In the paper's letters: E experts, D data, M slices of the model, Z ZeRO 2.
    tp, zero : int
        Slices of the dense part, and the stage of ZeRO over data-parallel ranks.
    offload : bool
        Whether the optimiser's state is in the host's memory.
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
    """Return the bytes of weights, gradients and optimiser state of one device."""
    dp = DEVICES // strategy.tp
    layout = Layout(strategy.tp, dp, DEVICES, 1)
    shard = shard_model(load_model(MODEL), layout)
    copies = strategy.tp * dp // (layout.ep * layout.expert_tp)
    parameters = stage_parameters((shard,), 0, strategy.tp)
    bytes_each = BytesPerWeight.adam(shard.numerics.act_bytes)
    return states(parameters, bytes_each, strategy.zero, dp, copies)


def on_device(strategy: Strategy, offload: bool | None = None) -> float:
    """Return the bytes of a strategy's states in the memory of one device."""
    states = device_states(strategy)
    away = strategy.offload if offload is None else offload
    return states.weights + states.gradients + (0.0 if away else states.optimizer)


def usable_bytes() -> float:
    """Return the memory of a device that a training step may use [B]."""
    memory = load_system(SYSTEM).device.memory
    return memory.capacity_bytes * memory.usable_fraction


SEQUENCES, LENGTH = 32, 512
"""Sequences of a data-parallel rank in a step, and their tokens [assumed]."""


def with_experts(model: ModelSpec, experts: int) -> ModelSpec:
    """Return the model with `experts` experts in each of its MoE layers."""
    return model.map_parts(MixtureOfExperts, lambda ffn: replace(ffn, experts=experts))


def scaled_step(devices: int) -> TrainingStep:
    """Return a training step with the same number of experts per device as on 512 devices.

    The memory of a device includes its share of the host's; PCIe is not modelled.
    """
    model, system = load_model(MODEL), load_system(f"a100-40gb-{devices // 8}x8")
    (experts, *_) = [p.routed.experts for la in model.layers for p in la.expert_parts]
    scaled = with_experts(model, experts * devices // DEVICES)
    memory = system.device.memory.model_copy(update={"capacity_bytes": 1e12})
    device = system.device.model_copy(update={"memory": memory})
    roomy = system.model_copy(update={"device": device})
    options = TrainingOptions(SEQUENCES * devices // SLICES, LENGTH, micro_batch=SEQUENCES, zero=2)
    layout = training_layout(scaled, roomy, options, tp=SLICES, ep=devices)
    return training_step(training_deployment(scaled, roomy, layout), layout, options)


GIB = 2**30


def predictions() -> Iterator[Prediction]:
    """Predict all rows from the model's layout on the devices."""
    states, note = device_states(LAST), f"{load_model(MODEL).total_params / 1e12:.3f} T parameters on {DEVICES}"
    yield Prediction("z-code.3.5T.weights_GiB", states.weights / GIB, note)
    yield Prediction("z-code.3.5T.states_GiB", states.total / GIB, note)
    for name, offload in (("fits_with_offload", True), ("fits_without_offload", False)):
        fits, note = on_device(LAST, offload) <= usable_bytes(), f"{usable_bytes() / GIB:.0f} GiB are usable"
        yield Prediction(f"z-code.3.5T.{name}", float(fits), note)


def _strategies() -> Table:
    rows = []
    for strategy in STRATEGIES:
        states = device_states(strategy)
        rows.append({
            "strategy": strategy.name, "weights_GiB": states.weights / GIB,
            "gradients_GiB": states.gradients / GIB, "optimizer_GiB": states.optimizer / GIB,
            "optimizer_on": "host" if strategy.offload else "device",
            "device_GiB": on_device(strategy) / GIB,
            "fits": on_device(strategy) <= usable_bytes(),
        })  # fmt: skip
    return Table("strategies", "States of one of 512 devices by strategy", rows)


def _scaling() -> Table:
    """Return the throughput per device by number of devices, with equally many experts on each device."""
    rows = []
    for devices in (64, 128, 256, 512):
        step = scaled_step(devices)
        tokens = SEQUENCES * devices // SLICES * LENGTH
        waits = step.seconds - step.by_stream["compute"] - step.by_stream["optimizer"]
        rows.append({"devices": devices, "step_ms": step.seconds * 1e3,
                     "tokens_per_s_device": tokens / step.seconds / devices,
                     "waiting_for_links": waits / step.seconds})  # fmt: skip
    return Table("scaling", "Training with 29 experts a device, by devices", rows)


def _drawn() -> Table:
    """Return the bytes by kind and strategy for the plot."""
    rows = [
        {"case": row["strategy"], "weights": row["weights_GiB"], "gradients": row["gradients_GiB"],
         "optimiser on the device": row["optimizer_GiB"] * (row["optimizer_on"] == "device"),
         "optimiser on the host": row["optimizer_GiB"] * (row["optimizer_on"] == "host")}
        for row in _strategies().rows
    ]  # fmt: skip
    return Table("steps", "States of 3.5 T parameters on one of 512 devices (GiB)", rows)


paper(
    "z-code", "Predict Z-code's training: states of 3.5 trillion parameters on 512 A100 by strategy.", predictions,
    tables=(_strategies, _scaling), drawn={"steps": _drawn}, runs=len(STRATEGIES),
)  # fmt: skip
