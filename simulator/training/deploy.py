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
from ..deploy.layout import shard_model, stage_models
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
    stages = stage_models(shard, cut.pp)
    chosen = system.mapping.attention if attention is None else attention
    device = checked_device(model, system, costs, memory, (), frameworks, chosen)
    return Deployment(
        model=model, shard=shard, stages=stages, system=system, device=device, layout=cut,
        placement=system.mapping.placement if placement is None else placement,
        run=Run(model.numerics, chosen),
        experts=expert_parts(stages, cut, routing, 0, shared=False), all_to_all=all_to_all or "",
    )  # fmt: skip


def training_formats(model: ModelSpec, dtype: str | None) -> ModelSpec:
    """The model in the format it is trained in: `dtype` of its matmuls, else that of activations."""
    plain = replace(model.numerics, weights=(), kv=model.numerics.default)
    return replace(model, numerics=plain.with_formats(dtype, None))
