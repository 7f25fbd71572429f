"""What a cluster is made of: its nodes, and the link that KV caches cross between two pools of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

from ...devices.spec import LinkSpec
from ..batching.kv import CacheSettings
from ..batching.policies import Policy
from ..deploy.deployment import Deployment
from .autoscale import Autoscale
from .encoders import Encoder


@dataclass(frozen=True, slots=True)
class KvLink:
    """What KV caches cross from a pool to the other.

    Attributes
    ----------
    name : str
    bandwidth_bytes_per_s : float
        One way of one device, which sends and receives over a port of its own.
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
        """Whether bytes take time on it."""
        return isfinite(self.bandwidth_bytes_per_s)

    @classmethod
    def of(cls, spec: LinkSpec) -> KvLink:
        """A link of a device's description."""
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
        Those of the decode nodes, where they are not those of the entry nodes.
    encoder : Encoder or None
        What requests' images pass before them.
    scales : tuple of Autoscale or None
        How many replicas of each of two pools there are when; the nodes are then all that there may be.
    """

    entry: tuple[Deployment, ...]
    decode: tuple[Deployment, ...] = ()
    link: KvLink | None = None
    policy: Policy | None = None
    cache: CacheSettings | None = None
    encoder: Encoder | None = None
    scales: tuple[Autoscale | None, Autoscale | None] = (None, None)


@dataclass(slots=True)
class Ports:
    """A node's ends of the link, one for each of its ranks: one cache at a time each.

    A port is made of those of the rank's devices, which work together. Which rank a request comes
    from or goes to is the engine's own matter: the port that is free first takes its cache.
    """

    count: int
    # when each port has sent or received all bytes of the caches that it has been given [s]
    free_s: list[float] = field(init=False)
    # when the last of them was there [s]; later than `free_s` where a prompt's last layer was
    # waited for. A cache takes the earliest of either list, whichever port it is: so a slower link
    # never brings one earlier.
    last_s: list[float] = field(init=False)
    busy_s: float = 0.0  # seconds that caches took, of all ports

    def __post_init__(self) -> None:
        self.free_s, self.last_s = [0.0] * self.count, [0.0] * self.count


def _first(times: list[float]) -> int:
    return min(range(len(times)), key=times.__getitem__) if len(times) > 1 else 0


def cross(
    link: KvLink, out: Ports, into: Ports, now: float, begun: float, wire_s: float, layers: int
) -> tuple[float, float]:
    """Send a cache over the ports of both sides that are free first.

    Caches are sent in order; none overtakes another one.

    Parameters
    ----------
    now : float
        When the prompt has ended and the receiver has room [s].
    begun : float
        When the first of the cache could leave [s]: `now`, unless layers leave one by one.
    wire_s : float
        Seconds that the bytes take.
    layers : int
        Of the model; the last one's cache cannot leave before `now`.

    Returns
    -------
    start, end : float
        When it leaves and when it is there [s].
    """
    i, j = _first(out.free_s), _first(into.free_s)
    k, m = _first(out.last_s), _first(into.last_s)
    took = link.latency_s + wire_s
    last = max(now, out.last_s[k], into.last_s[m])
    if begun < now:
        start = max(begun, out.free_s[i], into.free_s[j])
        free = start + took
        end = max(free, last + (link.latency_s + wire_s / layers))
    else:
        start = last
        free = end = start + took
    out.free_s[i] = into.free_s[j] = free
    out.last_s[k] = into.last_s[m] = end
    out.busy_s += took
    into.busy_s += took
    return start, end
