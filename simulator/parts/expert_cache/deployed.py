"""The expert cache of a deployment: checks of the options, and the weights that devices do not store."""

from __future__ import annotations

from ....devices.spec import SystemSpec
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec
from ...deploy.deployment import Deployment
from . import ExpertCacheOptions
from .store import ExpertStore, expert_store, tiers_of


def store_asked(options: ExpertCacheOptions, _: object) -> ExpertStore | None:
    """Return the expert cache of the options."""
    return expert_store(
        options.experts_resident, options.expert_cache, options.expert_predictor, options.expert_horizon
    )


def checked_store(store: ExpertStore, model: ModelSpec, system: SystemSpec, *_: object) -> ExpertStore:
    """Refuse an expert cache without experts, or without a memory for the others.

    Raises
    ------
    InputError
    """
    parts = [part.routed for layer in model.layers for part in layer.expert_parts]
    if all(routed.by_request for routed in parts):
        raise InputError("--experts-resident", f"{model.name} has no experts; remove the option")
    if system.mapping.separate:
        reason = "cannot be combined with a system whose processors are separate devices"
        raise InputError("--experts-resident", f"{reason}, as on {system.name}")
    tiers_of(system.device)
    return store


def elsewhere_bytes(store: ExpertStore, deployment: Deployment, stage: int) -> float:
    """Return the bytes of a pipeline stage's experts for which a device has no slots.

    Raises
    ------
    InputError
        More slots than experts on a device.
    """
    parts = [part for part in deployment.experts if part.stage == stage and not part.kept]
    if not parts:
        return 0.0
    sizes = [part.expert_bytes(deployment.run) for part in parts]
    staging = max(sizes) if store.rule.looks_ahead else 0.0  # see `ExpertCache`
    slots = [store.slots(part.held, deployment.system.name) for part in parts]
    return -staging + sum(
        (part.held - slots_of_part) * part.layers * size
        for part, slots_of_part, size in zip(parts, slots, sizes, strict=True)
    )
