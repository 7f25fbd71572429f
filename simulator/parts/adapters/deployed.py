"""A model with the adapters of its tenants."""

from __future__ import annotations

from ....workloads.adapters import Tenants, tenants_of, with_adapters
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec
from ...deploy.deployment import Deployment
from .options import AdapterOptions


def tenants_asked(options: AdapterOptions, _: object) -> Tenants | None:
    """Adapters as options say."""
    return tenants_of(options.adapters, options.adapter_rank, options.adapters_resident, options.adapter_popularity)


def adapted(tenants: Tenants, model: ModelSpec) -> tuple[ModelSpec, str]:
    """The model with its adapters, and how requests choose among them."""
    return with_adapters(model, tenants), tenants.popularity


def check_adapters(_: Tenants, deployment: Deployment) -> None:
    """Refuse adapters of ranks in lock step."""
    if deployment.lockstep:
        raise InputError("--adapters", "cannot be combined with ranks that share experts; use --dp 1")
