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
        Name of a router, see `routers`.
    replicas : int
        Number of replicas of the whole system.
    parts : mapping of str to object
        Name of a part -> its settings for the fleet.
    faults, autoscale : optional
        Failures of replicas (`failures.failing.Faults`), and changes of their number (`autoscale.asked.Autoscale`).
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
        Latency of one transfer [s].
    by_layer : bool
        Whether the cache of a layer is sent as soon as the layer has processed the prompt.
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
        Nodes that requests arrive at. They only prefill if there are `decode` nodes.
    decode : tuple of Deployment
        Nodes that decode after the first token; empty without P/D disaggregation.
    link : KvLink or None
        KV transfer link from entry nodes to decode nodes.
    policy, cache : optional
        Policy and cache settings of the decode nodes, if they differ from the entry nodes'.
    parts : mapping of str to object
        Name of a part -> its settings for the cluster.
    scales : tuple
        Autoscalers of the prefill and the decode pool; the nodes are then the maximum of each pool.
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

    # begin and end of the transfer [s], of the last one if a cache was sent again
    start_s: F8
    end_s: F8
    total_bytes: float  # transferred over the link
    count: int  # transferred caches
