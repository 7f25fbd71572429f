"""Adapters that do not all fit: slots in a device's memory, and a link that loads the others.

A request waits until its adapter is in a slot and keeps the slot until its last token. The least recently used idle
adapter is evicted. The link loads one adapter after another; requests with a loaded adapter pass waiting ones, as in
vLLM's scheduler. Each engine of a fleet has separate slots, which a failure empties.

Copies go one after another in the order in which they were asked for (a GPU has one copy engine a direction, on
which streams queue), but for experts, for which a step stands still: they go first, and what is under way then
ends as much later as they take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from ....workloads.adapters import Tenants, adapter_bytes
from ....workloads.errors import CapacityError, InputError
from ....workloads.requests import RequestBlock, RequestStream
from ....workloads.routing import make_router
from ...deploy.deployment import Deployment
from ...deploy.expert_parts import ExpertPart
from ...engine.engine import Engine
from ...fleet.assigner import Assigner
from ...fleet.clock import Clock
from ...fleet.pools import Pools
from ..expert_cache.store import tiers_of
from ..kv_tiers.state import UP


@dataclass(slots=True)
class HostLink:
    """The host link of an engine's devices; its own clock stops while experts use the link."""

    engine: Engine
    free: float = 0.0  # by that clock, when all that was asked for besides experts and blocks is there [s]

    def take(self, now: float, seconds: float) -> float:
        """Queue a transfer of `seconds` behind earlier ones; return its end by the link's clock."""
        tiers, experts_s = self.engine.parts.get("kv-tiers"), self.experts_s()
        self.free = max(self.free, now - experts_s)
        if tiers is None or tiers.host < 0:
            self.free += seconds
            return self.free
        lines = tiers.free_s[:, tiers.host, UP]
        self.free = max(self.free, float(lines.max()) - experts_s) + seconds
        lines[:] = self.free + experts_s
        return self.free

    def experts_s(self) -> float:
        """Seconds for which experts have used the link so far."""
        cache_state = self.engine.step_totals.cache_state
        return 0.0 if cache_state is None else float(cache_state.totals.link_s.sum())


Reader = Callable[[RequestBlock], None]
CHOICES = 0xADA
"""Seed of the adapter choice of requests without one, separate from all others."""


@dataclass(slots=True)
class AdapterCounts:
    """Counters of adapter requests: hits, loads and waits."""

    # requests, those whose adapter was in a slot or on its way, and adapters brought
    asked: int = 0
    hits: int = 0
    loads: int = 0
    # seconds that the link was busy, and that requests waited for adapters, all together
    link_s: float = 0.0
    waited_s: float = 0.0


@dataclass(slots=True)
class Choices:
    """The adapter that each request of a run uses, row by row."""

    tenants: Tenants
    seed: int  # of the choices of requests that name none
    names: list[int] = field(default_factory=list)
    _cumulative: npt.NDArray[np.float64] = field(init=False)
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._cumulative = np.cumsum(popularity(self.tenants))
        self._rng = np.random.default_rng([self.seed, CHOICES])

    def read(self, block: RequestBlock) -> None:
        """Read the adapter that each request names, or sample one for it."""
        if block.adapters is not None:
            self.names += block.adapters.tolist()
            return
        drawn = np.searchsorted(self._cumulative, self._rng.random(len(block)), side="right")
        self.names += np.minimum(drawn, self.tenants.adapters - 1).tolist()


@dataclass(slots=True)
class AdapterShelf:
    """Adapter slots in the memory of one engine's devices."""

    call_at: Callable[[float, Callable[[], None]], None]  # calls at a time
    choices: Choices
    link: HostLink
    load_s: float  # seconds that the link takes for one adapter
    counts: AdapterCounts  # of all engines together
    # takes the row of a request whose adapter is there, the time and the tokens that come cached
    release: Callable[[int, float, int], None]
    # requests that wait for their adapter, and the tokens of each that come cached
    asked: dict[int, int] = field(default_factory=dict)
    _ready: dict[int, float] = field(default_factory=dict)  # when it is there by the link; last used last
    _users: Counter[int] = field(default_factory=Counter)
    _waiting: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    _life: int = 0

    def ask(self, row: int, now: float, cached: int = 0) -> None:
        """Admit a request if its adapter is loaded or a free slot can load it; otherwise queue it."""
        name = self.choices.names[row]
        self.counts.asked += 1
        self.asked[row] = cached
        if name in self._ready:
            self.counts.hits += 1
            self._enter(row, name, now, now)
        elif self._room():
            self._load(name, now)
            self._enter(row, name, now, now)
        else:
            self._waiting.setdefault(name, []).append((row, now))

    def done(self, row: int, now: float) -> None:
        """Process a completed request: if its slot is unused now, the first waiting request takes it."""
        name = self.choices.names[row]
        self._users[name] -= 1
        self._ready[name] = self._ready.pop(name)  # used last
        if self._users[name] or not self._waiting:
            return
        following = next(iter(self._waiting))
        self._room()
        self._load(following, now)
        for waiting, since in self._waiting.pop(following):
            self._enter(waiting, following, since, now)

    def lose(self) -> None:
        """Empty all slots and queues after the devices have failed or were released."""
        for kept in (self.asked, self._ready, self._users, self._waiting):
            kept.clear()
        self.link.free, self._life = 0.0, self._life + 1

    def _room(self) -> bool:
        """Return whether a slot is free, after evicting an unused adapter if necessary."""
        if len(self._ready) < self.choices.tenants.resident:
            return True
        idle = next((name for name in self._ready if not self._users[name]), None)
        if idle is None:
            return False
        del self._ready[idle]
        return True

    def _load(self, name: int, now: float) -> None:
        """Load an adapter over the host link, after the loads that are queued there."""
        self._ready[name] = self.link.take(now, self.load_s)
        self.counts.loads += 1
        self.counts.link_s += self.load_s

    def _enter(self, row: int, name: int, since: float, now: float) -> None:
        """Reserve the adapter for a request, which continues as soon as the adapter is loaded."""
        self._users[name] += 1
        there = self._ready[name] = self._ready.pop(name)
        self._await(row, there, since, now)

    def _await(self, row: int, there: float, since: float, now: float) -> None:
        """Release a request when its adapter is loaded by the link's clock, which experts may delay."""
        life, at = self._life, max(there + self.link.experts_s(), now)

        def come() -> None:
            if self._life != life:
                return
            if there + self.link.experts_s() > at:
                self._await(row, there, since, at)
                return
            self.counts.waited_s += at - since
            self.release(row, at, self.asked.pop(row))

        if at <= now:
            come()
        else:
            self.call_at(at, come)


def popularity(tenants: Tenants) -> npt.NDArray[np.float64]:
    """Return the probability of each adapter for a request that names none, shape (adapters,)."""
    router = make_router(tenants.popularity, layers=1, experts=tenants.adapters, top_k=1, seed=0, by_request=True)
    shares: npt.NDArray[np.float64] = router.prob[0]
    return shares


def load_seconds(deployment: Deployment) -> float:
    """Return the time to load one adapter over a device's host link [s].

    Raises
    ------
    InputError
        A device whose description gives no host memory.
    CapacityError
        A host's memory that does not hold all adapters.
    """
    tenants: Tenants = deployment.parts["adapters"]
    try:
        host = tiers_of(deployment.system.device).host
    except InputError as error:
        raise InputError("--adapters-resident", error.reason) from None
    size = adapter_bytes(deployment.shard)
    needed = tenants.adapters * size
    if needed > host.capacity_bytes:
        raise CapacityError(
            deployment.system.name,
            f"{tenants.adapters} adapters need {needed / 2**30:.1f} GiB of host memory per device, "
            f"{host.capacity_bytes / 2**30:.1f} GiB available",
        )
    return host.latency_s + size / host.bandwidth_bytes_per_s


def known(tenants: Tenants, stream: RequestStream) -> RequestStream:
    """Return the stream; a request that names an unknown adapter is refused."""

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


def by_names(tenants: Tenants, pools: Pools, stream: RequestStream) -> Pools:
    """Return the nodes, whose steps use each adapter as often as the stream's requests name it."""
    counts = np.zeros(tenants.adapters)
    for block in stream:
        if block.adapters is None:
            return pools
        counts += np.bincount(block.adapters, minlength=len(counts))
    shares, changed = counts / counts.sum(), dict[int, Deployment]()

    def named(part: ExpertPart) -> ExpertPart:
        if not part.kept:
            return part
        prob = np.tile(shares, (len(part.router.prob), 1))
        run: npt.NDArray[np.float64] = np.cumsum(prob, axis=1)
        router = replace(part.router, prob=prob, inclusion=prob.copy(), cumulative=run)
        return replace(part, router=router)

    for d in (*pools.entry, *pools.decode):
        if id(d) not in changed:
            changed[id(d)] = replace(d, experts=tuple(map(named, d.experts)))
    entry, decode = (tuple(changed[id(d)] for d in side) for side in (pools.entry, pools.decode))
    return replace(pools, entry=entry, decode=decode)


def shelve(clock: Clock, assigner: Assigner, pools: Pools, seed: int) -> tuple[AdapterCounts, Reader] | None:
    """Give every node adapter slots if not all adapters fit; return the counters and the reader of requests."""
    tenants: Tenants = pools.entry[0].parts["adapters"]
    if not tenants.swapped:
        return None
    counts, choices = AdapterCounts(), Choices(tenants, seed)
    for node in clock.all:
        engine, queue = node.engine, partial(assigner.queue, node)
        how = HostLink(engine), load_seconds(engine.deployment), counts, queue, node.asked
        node.cache_state = AdapterShelf(clock.call_at, choices, *how)
    return counts, choices.read
