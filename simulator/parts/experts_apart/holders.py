"""A deployment with routed experts on separate devices: attention/FFN disaggregation.

Attention devices run everything but the routed experts and store the KV cache; the others store only routed experts and
take part in every step (MegaScale-Infer, arXiv 2504.02263). With pipeline stages each stage has a share of both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....devices.spec import LinkSpec
from ....workloads.errors import CapacityError
from ....workloads.ops import Op
from ...deploy.deployment import Deployment, ExpertsApart

ATTENTION, EXPERTS, OUT, BACK = "attention", "experts", "link to experts", "link back"
"""Streams of a step with alternating micro-batches: attention devices, expert devices, and the link in each direction.

MegaScale-Infer calls this the ping-pong pipeline (section 4.1).
"""


def expert_bytes(deployment: Deployment) -> tuple[float, ...]:
    """Return the bytes of routed experts that a device of each pipeline stage stores."""
    return tuple(
        sum(
            p.held * p.layers * p.expert_bytes(deployment.run)
            for p in deployment.experts
            if p.stage == s and not p.kept
        )
        for s in range(deployment.layout.pp)
    )


def held_bytes(holder: Deployment) -> tuple[float, float]:
    """Return the usable memory of an expert device, and the bytes of its experts in the largest stage [B].

    Raises
    ------
    CapacityError
        The experts do not fit into memory.
    """
    memory, expert_weights = holder.system.device.memory, max(expert_bytes(holder))
    usable = memory.capacity_bytes * memory.usable_fraction
    if expert_weights > usable:
        raise CapacityError(
            holder.system.name, f"the experts of {holder.model.name} do not fit: need "
            f"{expert_weights / 2**30:.1f} GiB per device, {usable / 2**30:.1f} GiB available",
        )  # fmt: skip
    return usable, expert_weights


def devices_of(deployment: Deployment) -> int:
    """Return the number of devices of a system, over all its engines; separate expert devices are not counted."""
    return deployment.system.devices_per_node * deployment.system.nodes


def devices_apart(deployment: Deployment) -> int:
    """Return the number of separate devices that store one system's experts; 0 if there are none."""
    return 0 if deployment.apart is None else devices_of(deployment.apart.holder)


def runs_on(deployment: Deployment, op: Op) -> Deployment:
    """Return the deployment whose devices run an op: the holder's for disaggregated experts."""
    away = op.routed and op.layer != "adapters"
    return deployment.apart.holder if deployment.apart is not None and away else deployment


def with_experts_on(attention: Deployment, holder: Deployment, link: LinkSpec, batches: int) -> Deployment:
    """Return a deployment whose routed experts are on the devices of another deployment.

    Parameters
    ----------
    attention, holder : Deployment
        The same model on the devices of each group; adapters are on the attention devices.
    link : LinkSpec
        Link between both groups; its rate is of one device in one direction [B/s].
    batches : int
        Micro-batches of a step.
    """
    apart = ExpertsApart(holder, link, batches, expert_bytes(attention))
    layout = replace(attention.layout, apart=True, ep=holder.layout.ep, expert_tp=holder.layout.expert_tp)
    theirs = iter(holder.experts)
    experts = tuple(part if part.kept else next(theirs) for part in attention.experts)
    name = f"{attention.system.name} with experts on {holder.system.name}"
    return replace(
        attention, experts=experts, layout=layout, apart=apart, parts=_with_copies(attention, holder),
        system=attention.system.model_copy(update={"name": name}),
    )  # fmt: skip


def _with_copies(attention: Deployment, holder: Deployment) -> dict[str, Any]:
    """Return the parts of the attention deployment, with the redundant experts of the holder."""
    copies = {name: value for name, value in holder.parts.items() if name == "expert-copies"}
    return {**attention.parts, **copies}
