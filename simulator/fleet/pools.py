"""The nodes of a cluster, the KV transfer link between prefill and decode pools, and the replicas behind a router."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from ...devices.hosts.catalog import link_of
from ...devices.spec import LinkSpec
from ...workloads.errors import InputError
from ..deploy.deployment import Deployment
from ..engine.kv import CacheSettings
from ..engine.policies import Policy
from ..engine.state import F8
from ..limits import MAX_REPLICAS


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas of a system behind a router.

    Attributes
    ----------
    router : str
        See `routers`.
    replicas : int
        Copies of the whole system.
    parts : mapping of str to object
        What parts have of the fleet, by their names.
    faults, autoscale : optional
        `failures.failing.Faults`, and `autoscale.asked.Autoscale`: how many of the replicas there are when.
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
    """Return the nodes of a fleet: the independent ranks of every replica, or prefill and decode pools."""
    if not deployment.pools:
        entry = (deployment,) * (deployment.replicas * fleet.replicas)
        return Pools(entry, parts=fleet.parts)
    system = deployment.system
    link = link_of(system) if system.nodes == 1 else system.device.node_link
    entry, decode = ((side,) * (side.replicas * fleet.replicas) for side in deployment.pools)
    return Pools(entry, decode, KvLink.of(link), parts=fleet.parts)


@dataclass(frozen=True, slots=True)
class KvLink:
    """The link that transfers KV caches from the prefill to the decode pool.

    Attributes
    ----------
    bandwidth_bytes_per_s : float
        One-way bandwidth of one device, which sends and receives over its own port.
    latency_s : float
        Of one cache [s].
    by_layer : bool
        Whether a layer's cache leaves as soon as the prompt has passed it.
    """

    name: str
    bandwidth_bytes_per_s: float
    latency_s: float
    by_layer: bool = False

    @property
    def paced(self) -> bool:
        """Return whether the link's bandwidth is finite, so that transfers take time."""
        return isfinite(self.bandwidth_bytes_per_s)

    @classmethod
    def of(cls, spec: LinkSpec) -> KvLink:
        """Return the KV transfer link for a link of a device's description."""
        return cls(spec.name, spec.bandwidth_bytes_per_s, spec.latency_s)


@dataclass(frozen=True, slots=True)
class Pools:
    """A cluster's nodes.

    Attributes
    ----------
    entry : tuple of Deployment
        Nodes that requests arrive at; they do everything unless there are `decode` nodes.
    decode : tuple of Deployment
        Nodes that go on after the first token.
    link : KvLink or None
        What KV caches cross from one to the other.
    policy, cache : optional
        Of the decode nodes, if they differ from the entry nodes.
    parts : mapping of str to object
        What parts have of the fleet, by their names.
    scales : tuple
        How many replicas of each of two pools there are when; the nodes are then all that there may be.
    """

    entry: tuple[Deployment, ...]
    decode: tuple[Deployment, ...] = ()
    link: KvLink | None = None
    policy: Policy | None = None
    cache: CacheSettings | None = None
    scales: tuple[Any, Any] = (None, None)
    parts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moves:
    """KV transfers of a run, one row for each request; NaN if its cache was not transferred."""

    # when a cache left and when it was there [s]; of one that was sent again, the last time
    start_s: F8
    end_s: F8
    total_bytes: float  # all that has crossed the link
    count: int  # caches that have
