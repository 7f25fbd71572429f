"""How many replicas serve, behind which router, and which of them fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...devices.hosts.catalog import link_of
from ...workloads.errors import InputError
from ..deploy.deployment import Deployment
from ..limits import MAX_REPLICAS
from .pools import KvLink, Pools


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas of a system.

    Attributes
    ----------
    router : str
        See `routers`.
    replicas : int
        Copies of the whole system.
    parts : mapping of str to object
        What parts have of the fleet, by their names.
    faults, autoscale : optional
        `failures.faults.Faults`, and `autoscale.asked.Autoscale`: how many of the replicas there are when.
    """

    router: str = "round-robin"
    replicas: int = 1
    faults: Any = None
    autoscale: Any = None
    parts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise InputError("--replicas", f"must be in [1, {MAX_REPLICAS}], not {self.replicas}")


def pools_of(deployment: Deployment, fleet: Fleet) -> Pools:
    """Nodes of a fleet: independent ranks of every copy, or the two pools of split systems."""
    if not deployment.pools:
        entry = (deployment,) * (deployment.replicas * fleet.replicas)
        return Pools(entry, parts=fleet.parts)
    system = deployment.system
    link = link_of(system) if system.nodes == 1 else system.device.node_link
    entry, decode = ((side,) * (side.replicas * fleet.replicas) for side in deployment.pools)
    return Pools(entry, decode, KvLink.of(link), parts=fleet.parts)
