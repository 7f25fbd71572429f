"""How many replicas serve, behind which router, and which of them fail."""

from __future__ import annotations

from dataclasses import dataclass

from ..workloads.errors import InputError
from .cluster import Pools
from .deployment import Deployment
from .faults import Faults


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas of a system.

    Attributes
    ----------
    router : str
        See `routers`.
    replicas : int
        Copies of the whole system.
    faults : Faults or None
    """

    router: str = "round-robin"
    replicas: int = 1
    faults: Faults | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= 4096:
            raise InputError("--replicas", f"must be in [1, 4096], not {self.replicas}")


def pools_of(deployment: Deployment, fleet: Fleet) -> Pools:
    """Nodes of a fleet: independent ranks of every copy, or the two pools of split systems."""
    if not deployment.pools:
        return Pools((deployment,) * (deployment.replicas * fleet.replicas))
    device = deployment.system.device
    link = device.link if deployment.system.nodes == 1 else device.node_link
    entry, decode = ((side,) * (side.replicas * fleet.replicas) for side in deployment.pools)
    return Pools(entry, decode, link)
