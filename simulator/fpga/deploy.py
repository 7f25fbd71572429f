"""A model on an FPGA device: check the resources of the board, and lower the model to a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...devices.checks import ON_CHIP_SLACK, check_resources, engine_of
from ...devices.fpga_engine import EngineSpec
from ...devices.spec import DeviceSpec
from ...workloads.batch import Batch
from ...workloads.errors import CapacityError, InputError
from ...workloads.layers import LayerKind, PatchEmbedding, RoutedKind, Run, is_routed
from ...workloads.model import ModelSpec, embedding_ops, head_ops, layer_ops
from ...workloads.ops import Loads
from ...workloads.routing import make_router
from .lowering import FpgaTarget, lower_ops
from .schedules import SCHEDULES, ExpertBlock, Item, Program


@dataclass(frozen=True, slots=True)
class FpgaDeployment:
    """A model on one FPGA.

    Attributes
    ----------
    target : FpgaTarget
        Design, utilisation and options of the lowering.
    warnings : tuple of str
        Warnings of the resource check.
    """

    model: ModelSpec
    device: DeviceSpec
    target: FpgaTarget
    warnings: tuple[str, ...]

    @property
    def engine(self) -> EngineSpec:
        return self.target.engine

    @property
    def memory_bytes_per_s(self) -> float:
        """Bandwidth of external memory for all ports together [B/s]."""
        name, _, _ = engine_of(self.device)
        memory = self.device.memory.bandwidth_bytes_per_s
        return memory * self.device.processors[name].memory_efficiency

    @property
    def front(self) -> PatchEmbedding:
        """The patch embedding of an encoder.

        Raises
        ------
        InputError
            The model takes no images.
        """
        if self.model.front is None:
            raise InputError(self.model.name, "takes tokens, not images")
        return self.model.front

    @property
    def moe(self) -> RoutedKind | None:
        """The expert block of the first MoE layer; None for a dense model."""
        blocks = [la.ffn for la in self.model.layers if is_routed(la.ffn)]
        return blocks[0] if blocks else None


def deploy_fpga(
    model: ModelSpec, device: DeviceSpec, *, attention_reorder: bool = True, check: bool = True
) -> FpgaDeployment:
    """Deploy a model on an FPGA device.

    Parameters
    ----------
    attention_reorder : bool
        Whether queries share passes over the keys, as the design's attention unit allows.
    check : bool
        Whether to reject a design that exceeds its board, and weights that exceed its external memory.

    Raises
    ------
    SpecError
        The device is not an FPGA.
    CapacityError
        Board or external memory is too small; the message gives the needed and the available amount.
    """
    name, engine, _ = engine_of(device)
    warnings = check_resources(device) if check else ()
    usable = device.memory.capacity_bytes * device.memory.usable_fraction
    needed = stored_bytes(model, engine)
    if check and needed > usable:
        raise CapacityError(
            device.name,
            f"{model.name} does not fit: needs {needed / 2**30:.2f} GiB of weights, {usable / 2**30:.2f} GiB available",
        )
    target = FpgaTarget(
        engine=engine,
        utilisation=device.processors[name].compute_efficiency,
        # Biases in separate buffers load in parallel with the weights, in negligible time.
        biases=model.front is not None and "biases_bytes" not in engine.buffers.others,
        attention_reorder=attention_reorder,
    )
    return FpgaDeployment(model, device, target, warnings)


def stored_bytes(model: ModelSpec, engine: EngineSpec) -> float:
    """Return the external memory for a model's weights in the design's format [B]."""
    if engine.weight_bits is None:
        return model.weight_bytes
    return model.total_params * engine.weight_bits / 8


def image_program(deployment: FpgaDeployment) -> Program:
    """Return the program of one image."""
    batch = Batch.of(chunks=[(deployment.front.tokens, 0)])
    loads = [_expected(la.ffn, batch.tokens) for la in deployment.model.layers]
    return _program(deployment, batch, loads)


def step_program(deployment: FpgaDeployment, batch: Batch, routing: str = "uniform", seed: int = 0) -> Program:
    """Return the program of one step of a language model on a batch, with sampled expert queues."""
    moe = [la.ffn.routed for la in deployment.model.layers if is_routed(la.ffn)]
    routers = {
        size: make_router(routing, layers=len(moe), experts=size[0], top_k=size[1], seed=seed)
        for size in dict.fromkeys((m.experts, m.top_k) for m in moe)
    }
    loads: list[Loads | None] = []
    for layer in deployment.model.layers:
        if is_routed(layer.ffn):
            row, routed = sum(x is not None for x in loads), layer.ffn.routed
            loads.append(routers[routed.experts, routed.top_k].loads(0, row, batch))
        else:
            loads.append(None)
    return _program(deployment, batch, loads)


def _expected(part: LayerKind | None, tokens: int) -> Loads | None:
    """Return equal expert loads; the image's own routing replaces them in a run."""
    if not is_routed(part):
        return None
    routed = part.routed
    return Loads.expected(float(tokens), routed.top_k, routed.experts, float(routed.experts))


def _program(deployment: FpgaDeployment, batch: Batch, loads: Sequence[Loads | None]) -> Program:
    """Lower a batch to the engine's program, in the order of execution."""
    if batch.tokens < 1:
        raise InputError("tokens", f"must be at least 1, not {batch.tokens}")
    m, run = batch.moments(deployment.model.windows), Run(deployment.model.numerics)
    ops = [embedding_ops(deployment.model, m, run)]
    for layer, load in zip(deployment.model.layers, loads, strict=True):
        ops += layer_ops(layer, m, run, load)
    ops.append(head_ops(deployment.model, m, run, 1))
    items: list[Item] = []
    for part in ops:
        items += lower_ops(part, deployment.target)
    blocks = 0
    for i, item in enumerate(items):
        if isinstance(item, ExpertBlock):
            items[i] = replace(item, index=blocks)
            blocks += 1
    return tuple(items)


def on_chip_bytes(deployment: FpgaDeployment, schedule: str) -> float:
    """Return the on-chip memory that a schedule needs [B].

    ``reordered`` needs the ping-pong pair, for any number of experts. ``cache`` needs its entries, and ``on-chip`` all
    experts of a layer, if these are larger than the pair. Without experts the router table is not needed.
    """
    engine, moe = deployment.engine, deployment.moe
    pair = 2 * engine.buffers.weights_bytes
    others = engine.buffer_bytes - pair
    table = engine.buffers.others.get("router_bytes", 0.0)
    if moe is None:
        return others - table + pair
    shape = moe.expert_op(Loads(np.ones(1), np.ones(1)), Run(deployment.model.numerics)).shape
    hidden, inter, matrices = (shape[name] for name in ("hidden", "inter", "matrices"))
    weights = matrices * hidden * inter + (matrices - 1) * inter + hidden  # with biases
    expert = weights * (engine.weight_bits or 16) / 8
    stored = {"reordered": 0, "on-chip": moe.routed.experts}
    stored["cache"] = int(engine.cache.experts) if engine.cache else 0
    gate = moe.routed.experts * moe.hidden * (engine.weight_bits or 16) / 8
    return others - table + gate + max(pair, stored[schedule] * expert)


def check_schedule(deployment: FpgaDeployment, schedule: str) -> None:
    """Reject a schedule whose experts exceed the on-chip memory of the board.

    Raises
    ------
    CapacityError
        The message gives the needed and the available amount.
    """
    SCHEDULES[schedule]  # reports an unknown name first
    needed, fabric = on_chip_bytes(deployment, schedule), engine_of(deployment.device)[2]
    if needed > fabric.on_chip_bytes * (1 + ON_CHIP_SLACK):
        raise CapacityError(
            deployment.device.name,
            f"schedule {schedule} does not fit: needs {needed / 2**20:.2f} MiB on chip, "
            f"{fabric.on_chip_bytes / 2**20:.2f} MiB available",
        )
