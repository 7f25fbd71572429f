"""Adapters that do not all fit: slots in a device's memory, and a link that brings the others.

A request waits until its adapter lies in a slot, and holds it there until its last token: an adapter in
use never leaves. Of those that nobody uses the one used longest ago goes. The link carries one adapter
after another; requests whose adapter is there pass those that wait, as in vLLM's scheduler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import simpy

from ...workloads.adapters import Tenants, adapter_bytes
from ...workloads.errors import CapacityError, InputError
from ...workloads.requests import RequestBlock, RequestStream
from ...workloads.routing import make_router
from ..deploy.deployment import Deployment
from ..expert_cache.store import tiers_of
from .calls import call_at

CHOICES = 0xADA
"""Sets the draws of requests that name no adapter apart from all others."""


@dataclass(slots=True)
class AdapterCounts:
    """What requests asked of the slots.

    Attributes
    ----------
    asked, hits, loads : int
        Requests, those whose adapter was in a slot or on its way, and adapters brought.
    link_s, waited_s : float
        Seconds that the link was busy, and that requests waited for adapters, all together.
    """

    asked: int = 0
    hits: int = 0
    loads: int = 0
    link_s: float = 0.0
    waited_s: float = 0.0


@dataclass(slots=True)
class Shelf:
    """Slots for adapters on one engine's devices.

    Attributes
    ----------
    env : simpy.Environment
    tenants : Tenants
    load_s : float
        Seconds that the link takes for one adapter.
    seed : int
        Of the choices of requests that name none.
    release : callable
        Takes the row of a request whose adapter is there, and the time.
    """

    env: simpy.Environment
    tenants: Tenants
    load_s: float
    seed: int
    release: Callable[[int, float], None]
    counts: AdapterCounts = field(default_factory=AdapterCounts)
    _names: list[int] = field(default_factory=list)  # adapter of each row
    _ready: dict[int, float] = field(default_factory=dict)  # by adapter in a slot; last used last
    _users: Counter[int] = field(default_factory=Counter)
    _waiting: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    _free_s: float = 0.0
    _cumulative: npt.NDArray[np.float64] = field(init=False)
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._cumulative = np.cumsum(popularity(self.tenants))
        self._rng = np.random.default_rng([self.seed, CHOICES])

    def read(self, block: RequestBlock) -> None:
        """Take in the adapters that requests name, or choose for them."""
        if block.adapters is not None:
            self._names += block.adapters.tolist()
            return
        drawn = np.searchsorted(self._cumulative, self._rng.random(len(block)), side="right")
        self._names += np.minimum(drawn, self.tenants.adapters - 1).tolist()

    def ask(self, row: int, now: float) -> None:
        """A request arrives: it goes on at once, with its adapter, or when a slot is free."""
        name = self._names[row]
        self.counts.asked += 1
        if name in self._ready:
            self.counts.hits += 1
            self._enter(row, name, now, now)
        elif self._room():
            self._load(name, now)
            self._enter(row, name, now, now)
        else:
            self._waiting.setdefault(name, []).append((row, now))

    def done(self, row: int, now: float) -> None:
        """A request has completed; the first that waits takes the slot, if nobody needs it now."""
        name = self._names[row]
        self._users[name] -= 1
        self._ready[name] = self._ready.pop(name)  # used last
        if self._users[name] or not self._waiting:
            return
        following = next(iter(self._waiting))
        self._room()
        self._load(following, now)
        for waiting, since in self._waiting.pop(following):
            self._enter(waiting, following, since, now)

    def _room(self) -> bool:
        """Whether a slot is free, once what nobody uses has left."""
        if len(self._ready) < self.tenants.resident:
            return True
        idle = next((name for name in self._ready if not self._users[name]), None)
        if idle is None:
            return False
        del self._ready[idle]
        return True

    def _load(self, name: int, now: float) -> None:
        """Bring an adapter, behind those on the link."""
        self._free_s = max(self._free_s, now) + self.load_s
        self._ready[name] = self._free_s
        self.counts.loads += 1
        self.counts.link_s += self.load_s

    def _enter(self, row: int, name: int, since: float, now: float) -> None:
        """Hold the adapter for a request, which goes on as soon as it is there."""
        self._users[name] += 1
        at = self._ready[name] = self._ready.pop(name)
        at = max(at, now)
        self.counts.waited_s += at - since
        if at <= self.env.now:
            self.release(row, at)
            return
        call_at(self.env, at, lambda: self.release(row, at))


def popularity(tenants: Tenants) -> npt.NDArray[np.float64]:
    """Probability that a request that names none uses each adapter, shape (adapters,)."""
    router = make_router(
        tenants.popularity, layers=1, experts=tenants.adapters, top_k=1, seed=0, by_request=True
    )
    shares: npt.NDArray[np.float64] = router.prob[0]
    return shares


def load_seconds(d: Deployment) -> float:
    """Seconds that one adapter takes on a device's link to the host's memory.

    Raises
    ------
    InputError
        A device whose description gives no host memory.
    CapacityError
        A host's memory that does not hold all adapters.
    """
    assert d.tenants is not None
    try:
        host = tiers_of(d.system.device).host
    except InputError as error:
        raise InputError("--adapters-resident", error.reason) from None
    size = adapter_bytes(d.shard)
    needed = d.tenants.adapters * size
    if needed > host.capacity_bytes:
        raise CapacityError(
            d.system.name,
            f"{d.tenants.adapters} adapters need {needed / 2**30:.1f} GiB of a device's share of the "
            f"host's memory, {host.capacity_bytes / 2**30:.1f} GiB available",
        )
    return host.latency_s + size / host.bandwidth_bytes_per_s


def shelf_of(
    env: simpy.Environment,
    entry: Sequence[Deployment],
    seed: int,
    release: Callable[[int, float], None],
) -> Shelf:
    """Slots of the one engine of a run.

    Raises
    ------
    InputError
        Several engines, each of which would have slots of its own.
    """
    d = entry[0]
    if len(entry) > 1:
        raise InputError("--adapters-resident", "needs one engine: one replica, --dp 1")
    assert d.tenants is not None
    return Shelf(env, d.tenants, load_seconds(d), seed, release)


def known(stream: RequestStream, tenants: Tenants) -> RequestStream:
    """The same stream, refusing a request whose adapter there is none of."""

    def blocks() -> Iterator[RequestBlock]:
        for block in stream:
            if block.adapters is not None and (block.adapters >= tenants.adapters).any():
                i = int((block.adapters >= tenants.adapters).argmax())
                raise InputError(
                    f"{stream.name}: row {block.request_id[i] + 1}",
                    f"adapter must be from 0 to {tenants.adapters - 1} "
                    f"(--adapters {tenants.adapters}), not {block.adapters[i]}",
                )
            yield block

    return replace(stream, blocks=blocks)


def by_names(d: Deployment, stream: RequestStream) -> Deployment:
    """The deployment whose steps use adapters as often as a stream's requests name them."""
    assert d.tenants is not None
    counts = np.zeros(d.tenants.adapters)
    for block in stream:
        if block.adapters is None:
            return d
        counts += np.bincount(block.adapters, minlength=len(counts))
    shares = counts / counts.sum()
    experts = []
    for part in d.experts:
        if part.spec.routed.by_request:
            prob = np.tile(shares, (len(part.router.prob), 1))
            router = replace(
                part.router, prob=prob, inclusion=prob.copy(), cumulative=np.cumsum(prob, axis=1)
            )
            part = replace(part, router=router)
        experts.append(part)
    return replace(d, experts=tuple(experts))
