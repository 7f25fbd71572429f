"""A model put on a system for training: cut by the degrees of a step, priced as for serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ...devices.collectives.plans import BY_COST, plan
from ...devices.spec import SystemSpec
from ...workloads.errors import InputError
from ...workloads.layers import Run
from ...workloads.model import ModelSpec
from ..deploy.checks import check_choices, checked_device
from ..deploy.deployment import Deployment
from ..deploy.expert_parts import expert_parts
from ..deploy.layout import shard_model
from .layout import TrainingLayout


def training_deployment(
    model: ModelSpec,
    system: SystemSpec,
    layout: TrainingLayout,
    *,
    placement: str | None = None,
    attention: str | None = None,
    routing: str = "uniform",
    all_to_all: str | None = None,
    costs: str = "auto",
    memory: str = "flat",
    frameworks: Mapping[str, str] = MappingProxyType({}),
) -> Deployment:
    """Put a model on a system as `deploy.deployment.deploy` does, with a training layout's degrees.

    Weights are kept in the format of the activations: what quantises them for serving comes later.
    """
    if system.mapping.separate or system.mapping.prefill_share is not None:
        raise InputError(system.name, "splits serving over kinds of device; training needs one kind")
    if system.device.fabric is not None:
        raise InputError(system.name, "is an FPGA, whose designs run only forward passes")
    if all_to_all == BY_COST:
        all_to_all = None
    if all_to_all is not None:
        plan("all_to_all", all_to_all, layout.group(system, layout.ep, layout.expert_tp))
    check_choices(system, {"--placement": placement, "--attention": attention, "--costs": costs, "--memory": memory})
    cut = layout.serving
    shard = shard_model(model, cut)
    stages = stages_of(shard, layout)
    chosen = system.mapping.attention if attention is None else attention
    device = checked_device(model, system, costs, memory, (), frameworks, chosen)
    return Deployment(
        model=model, shard=shard, stages=stages, system=system, device=device, layout=cut,
        placement=system.mapping.placement if placement is None else placement,
        run=Run(model.numerics, chosen),
        experts=expert_parts(stages, cut, routing, 0, shared=False), all_to_all=all_to_all or "",
    )  # fmt: skip


def training_model(model: ModelSpec, dtype: str | None, heads: int | None = None) -> ModelSpec:
    """The model as it is trained: its matmuls in `dtype`, else in the format of activations, and its MTP layers behind the others.

    Parameters
    ----------
    heads : int, optional
        Multi-token-prediction heads; as many as its file states if not given.

    Raises
    ------
    InputError
        Heads that the model's file does not describe.
    """
    heads = model.mtp_heads if heads is None else heads
    if heads and not model.mtp:
        raise InputError(f"--mtp {heads}", f"{model.name} has no multi-token-prediction layers")
    plain = replace(model.numerics, weights=(), kv=model.numerics.default)
    layers = model.layers + model.mtp * heads
    return replace(model, layers=layers, mtp_heads=heads, numerics=plain.with_formats(dtype, None))


def stages_of(shard: ModelSpec, layout: TrainingLayout) -> tuple[ModelSpec, ...]:
    """What one device of each pipeline stage holds, its parts one after another; what lies outside the layers goes to the last."""
    starts = [sum(layout.chunks[:i]) for i in range(len(layout.chunks))]
    out = []
    for s in range(layout.pp):
        chosen = zip(starts[s :: layout.pp], layout.chunks[s :: layout.pp], strict=True)
        layers = tuple(layer for start, size in chosen for layer in shard.layers[start : start + size])
        out.append(replace(shard, layers=layers, extra_weights=shard.extra_weights * (s == layout.pp - 1)))
    return tuple(out)
