"""Several engines behind a router: replicas, prefill and decode pools, links, failures.

Every engine is a SimPy process of its own. It runs, compiled, up to the next event of anything
else on the shared clock or to its own next completion, whichever comes first; so no engine ever
runs past a moment at which another could have changed what it does.

Split systems: a prompt runs in the prefill pool, which emits the first token; its KV cache waits
there until the decode pool has room for the whole request, crosses the link, and the request
goes on decoding. Nothing is lost in a failure: requests of a failed replica go back to the
router with the tokens that they have, and their caches are computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import simpy

from ...devices.spec import LinkSpec
from ...workloads.errors import InputError, nearest
from ...workloads.requests import RequestBlock, RequestStream
from ..batching.kv import CacheSettings, check_fits
from ..batching.policies import Policy
from ..batching.state import (
    F_FIRST,
    F_LAST,
    F_SCHEDULED,
    I_GENERATED,
    I_ORDER,
    I_PREEMPTED,
    T_NOW,
)
from ..deploy.deployment import Deployment
from .engine import Engine, Progress
from .faults import Faults, check_restarts
from .nodes import Job, Node
from .routers import ROUTERS, Route

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True)
class Pools:
    """A cluster's nodes.

    Attributes
    ----------
    entry : tuple of Deployment
        Nodes that requests arrive at; they do everything unless there are `decode` nodes.
    decode : tuple of Deployment
        Nodes that go on after the first token.
    link : LinkSpec or None
        What KV caches cross from one to the other, device by device.
    """

    entry: tuple[Deployment, ...]
    decode: tuple[Deployment, ...] = ()
    link: LinkSpec | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What a cluster leaves behind.

    Attributes
    ----------
    engines : list of Engine
        Those of failed nodes too: their work was done and paid for.
    jobs : list of Job
        Every request that arrived, in order of its id; the order of one that did not complete
        is -1.
    warm_s, end_s : float
        End of the warm-up, last completion [s].
    failures, restarts : int
        Nodes that failed, and requests that were put back because of it.
    moved_bytes : float
        KV caches that crossed the link.
    """

    engines: list[Engine]
    jobs: list[Job]
    warm_s: float
    end_s: float
    failures: int
    restarts: int
    moved_bytes: float


def serve_cluster(
    pools: Pools,
    policy: Policy,
    stream: RequestStream,
    *,
    router: str = "round-robin",
    faults: Faults | None = None,
    seed: int = 0,
    warmup: int = 0,
    keep_log: bool = False,
    progress: Progress | None = None,
    cache: CacheSettings | None = None,
    stop: int | None = None,
) -> Served:
    """Run a stream of requests through a cluster.

    Parameters
    ----------
    router : str
        A name in `ROUTERS`; deals arrivals to the entry nodes and caches to the decode nodes.
    faults : Faults, optional
        Nodes are numbered entry nodes first.
    seed : int
        Of random failures.
    warmup : int
        Completions after which totals are marked.
    cache : CacheSettings, optional
        How engines set up their KV caches.
    stop : int, optional
        Completions after which the run ends, whatever is still under way.

    Raises
    ------
    InputError
        Unknown router, or a failure of a node that there is none of.
    CapacityError
        A request that could never fit.
    """
    if router not in ROUTERS:
        raise InputError(f"--router {router!r}", f"unknown router{nearest(router, ROUTERS)}")
    faults = faults or Faults()
    count = len(pools.entry) + len(pools.decode)
    for node, _ in faults.at:
        if node >= count:
            raise InputError("--fail", f"there are replicas 0 to {count - 1}, not {node}")
    make = partial(Engine, keep_log=keep_log, cache=cache or CacheSettings())
    cluster = _Cluster(pools, policy, ROUTERS[router], make, warmup, progress)
    cluster.stop = stop
    return cluster.run(stream, faults, seed)


class _Cluster:
    """Processes and queues of one run."""

    def __init__(
        self,
        pools: Pools,
        policy: Policy,
        route: Route,
        make: Callable[..., Engine],
        warmup: int,
        progress: Progress | None,
    ) -> None:
        self.env = simpy.Environment()
        self.link, self.policy, self.route = pools.link, policy, route
        self.make, self.warmup, self.progress = make, warmup, progress
        # Where caches come in whole from elsewhere, there are no prompts to find in one.
        decoding = replace(policy, caching=False)
        self.entry = [self._node(d, policy, i) for i, d in enumerate(pools.entry)]
        first = len(pools.entry)
        self.decode = [self._node(d, decoding, i) for i, d in enumerate(pools.decode, first)]
        self.nodes = [*self.entry, *self.decode]
        self.retired: list[Engine] = []
        self.jobs: list[Job] = []
        self.known: dict[int, Job] = {}  # requests of sessions that have arrived, by id
        self.following: dict[int, Job] = {}  # what comes after a request that is not done
        self.to_come = 0  # requests that follow others and have not arrived
        self.in_flight = self.clients = 0  # of a closed loop, thinking ones too
        self.backlog: Iterator[Job] = iter(())  # of a closed loop
        self.gate: deque[Job] = deque()  # no entry node is up, or has room
        self.ready: deque[tuple[Job, Node, int]] = deque()  # prefilled on a node in that life
        self.done = self.env.event()
        self.dealt = self.sent = self.completed = self.failures = self.restarts = 0
        self.moved_bytes, self.warm_s = 0.0, 0.0
        self.closed = self.exhausted = False
        self.stop: int | None = None

    def _node(self, deployment: Deployment, policy: Policy, index: int) -> Node:
        engine = self.make(deployment, policy, index)
        return Node(engine, simpy.Resource(self.env), self.env.event())

    def run(self, stream: RequestStream, faults: Faults, seed: int) -> Served:
        """Run everything until the last completion."""
        for index, node in enumerate(self.nodes):
            self.env.process(self._engine(node, faults.repair_s))
            self.env.process(self._fail(node, faults.times(index, seed)))
        self.env.process(self._source(stream))
        self.env.run(until=self.done)
        return Served(
            [*self.retired, *(node.engine for node in self.nodes)],
            sorted(self.jobs, key=lambda job: job.id), self.warm_s, self.env.now, self.failures,
            self.restarts, self.moved_bytes,
        )  # fmt: skip

    # Arrivals

    def _source(self, stream: RequestStream) -> Process:
        """Let requests arrive in time, or one for every client of a closed loop."""
        jobs = self._read(stream)
        if stream.closed_loop is not None:
            self.backlog, self.closed, self.clients = jobs, True, stream.closed_loop
            self._next_clients()
            return
        for job in jobs:
            if job.arrival_s > self.env.now:
                yield self.env.timeout(job.arrival_s - self.env.now)
            if job.follows < 0:
                self._arrive(job)
            else:
                self._follow(job)
        self.exhausted = True
        self._check_done()

    def _read(self, stream: RequestStream) -> Iterator[Job]:
        """Requests of a stream; refuses those that a pool could never hold."""
        for block in stream:
            for node in (self.entry[0], *self.decode[:1]):
                check_fits(
                    node.engine.kv, block.input_tokens, block.output_tokens, block.request_id,
                    node.engine.deployment.system.name,
                )  # fmt: skip
            columns = (block.request_id, block.arrival_s, block.input_tokens, block.output_tokens)
            rows = zip(*(c.tolist() for c in columns), strict=True)
            turns = block.turns
            for i, (number, arrival, prompt, output) in enumerate(rows):
                content = None if block.hash_ids is None else block.hash_ids[i]
                job = Job(number, arrival, prompt, output, hash_ids=content)
                if turns is not None:
                    job.session, job.follows = int(turns.session[i]), int(turns.follows[i])
                    job.think_s = float(turns.think_s[i])
                yield job

    def _next_clients(self) -> None:
        """Clients of a closed loop that have nothing to do send their next requests.

        A client stays with its session: what follows a request that is not done waits for that.
        """
        while self.in_flight < self.clients and not self.exhausted:
            job = next(self.backlog, None)
            if job is None:
                self.exhausted = True
            elif job.follows < 0:
                self.in_flight += 1
                job.arrival_s = self.env.now
                self._arrive(job)
            else:
                self._follow(job)

    def _follow(self, job: Job) -> None:
        """Let a request come after the one that it follows."""
        self.to_come += 1
        before = self.known.get(job.follows)
        if before is None or before.order < 0:
            self.following[job.follows] = job
        else:
            self._come_after(job, before)

    def _come_after(self, job: Job, before: Job) -> None:
        """A request arrives when its client has read the answer before and thought about it."""
        self.in_flight += 1
        job.home = before.home
        job.arrival_s = max(job.arrival_s, before.last_s + job.think_s)
        if job.arrival_s > self.env.now:
            self.env.process(self._think(job))
        else:
            self._arrive(job)

    def _think(self, job: Job) -> Process:
        yield self.env.timeout(job.arrival_s - self.env.now)
        self._arrive(job)

    def _arrive(self, job: Job) -> None:
        if job.session is not None:
            self.known[job.id] = job
            self.to_come -= job.follows >= 0
        self.jobs.append(job)
        self.gate.append(job)
        self._deal()

    def _deal(self) -> None:
        """Give waiting requests to entry nodes, in order, while one is up and has room.

        Only prompts whose caches must wait here for the decode pool need room kept: other
        queues are the engine's own.
        """
        while self.gate:
            up = [node for node in self.entry if node.up]
            if not up:
                return
            job = self.gate[0]
            home = next((i for i, n in enumerate(up) if n is job.home), None)
            node = up[self.route(self.dealt, [n.load for n in up], home)]
            size = node.need(job.input_tokens + job.generated) if self.decode else 0.0
            if not node.fits(size):
                return
            self.gate.popleft()
            self.dealt += 1
            node.promise(job, size)
            job.home = node
            self._submit(node, job, cached=0)

    def _submit(self, node: Node, job: Job, cached: int) -> None:
        """Queue a request on a node; of two pools the first brings forth the next token only."""
        last = job.generated + 1 if self.decode and not cached else job.output_tokens
        block = RequestBlock(
            np.array([job.id]), np.array([self.env.now]), np.array([job.input_tokens]),
            np.array([last]), None if job.hash_ids is None else (job.hash_ids,), job.turns,
        )  # fmt: skip
        row = node.engine.resume(block, job.generated, cached, job.first_s, job.last_s)
        node.live[row] = job
        self._wake(node)

    @staticmethod
    def _wake(node: Node) -> None:
        if not node.wake.triggered:
            node.wake.succeed()

    # Engines

    def _engine(self, node: Node, repair_s: float) -> Process:
        """Run a node's engine: one compiled call between two events of the clock."""
        env = self.env
        while True:
            if node.failing:
                yield from self._lose(node, repair_s)
            if node.engine.done:
                node.wake = env.event()
                yield node.wake
                continue
            yield env.timeout(0)  # all that happens at this moment comes before the next step
            soonest = np.nextafter(max(env.now, node.engine.now), np.inf)
            reached = node.engine.advance_to_completion(max(env.peek(), float(soonest)))
            if reached > env.now:
                yield env.timeout(reached - env.now)
            self._deliver(node)

    def _deliver(self, node: Node) -> None:
        """Take over what has completed on a node by now."""
        order = node.engine.state.ints[:, I_ORDER]
        rows = sorted((r for r in node.live if order[r] >= 0), key=lambda r: int(order[r]))
        for row in rows:
            job = node.live.pop(row)
            _take_over(node.engine, row, job)
            if job.generated < job.output_tokens:
                self.ready.append((job, node, node.life))
            else:
                node.forget(job.promised)
                self._complete(job)
        if rows:
            self._send()
            self._deal()

    def _complete(self, job: Job) -> None:
        job.order = self.completed
        self.completed += 1
        if self.completed == self.warmup:
            self.warm_s = self.env.now
            for engine in (*self.retired, *(node.engine for node in self.nodes)):
                engine.end_warmup()
        if self.progress is not None and self.completed % 64 == 0:
            self.progress(self.completed, len(self.jobs), self.env.now)
        self.in_flight -= 1
        following = self.following.pop(job.id, None)
        if following is not None:
            self._come_after(following, job)
        if self.closed:
            self._next_clients()
        self._check_done()

    def _check_done(self) -> None:
        all_done = self.exhausted and self.completed == len(self.jobs) and not self.to_come
        if (all_done or self.completed == self.stop) and not self.done.triggered:
            self.done.succeed()

    # From prefill to decode

    def _send(self) -> None:
        """Start transfers, in order, while a decode node has room for the whole request."""
        while self.ready:
            job, source, _ = self.ready[0]
            tokens = job.input_tokens + job.output_tokens - 1
            size = source.need(tokens if self.policy.reserve else job.cached + 1)
            open_ = [n for n in self.decode if n.up and n.fits(size) and self._has_slot(n)]
            if not open_:
                return
            target = open_[self.route(self.sent, [n.load for n in open_], None)]
            _, _, life = self.ready.popleft()
            self.sent += 1
            held = job.promised
            target.inbound += 1
            target.promise(job, size)  # now, not when the process starts: others choose next
            self.env.process(self._transfer(job, source, life, held, target))

    def _has_slot(self, node: Node) -> bool:
        """Whether a node has a sequence to spare."""
        most = self.policy.max_sequences * node.engine.deployment.ranks
        return len(node.live) + node.inbound < most

    def _transfer(self, job: Job, source: Node, life: int, held: float, target: Node) -> Process:
        """Move a KV cache: every device of one side sends to one of the other, at once."""
        size, target_life = job.promised, target.life
        with source.port.request() as out, target.port.request() as into:
            yield out & into
            sides = [n.engine.deployment.layout.tp for n in (source, target)]
            total = source.need(job.cached) * sides[0]
            assert self.link is not None
            rate = self.link.bandwidth_bytes_per_s * min(sides)
            yield self.env.timeout(self.link.latency_s + total / rate)
        self.moved_bytes += total
        alive = target.life == target_life
        if alive:
            target.inbound -= 1
        if source.life != life:  # the cache went down with its node
            if alive:
                target.forget(size)
            self._put_back([job])
        elif not alive:
            job.promised = held
            self.ready.appendleft((job, source, life))
        else:
            source.forget(held)
            self._submit(target, job, cached=job.cached)
        self._send()
        self._deal()

    # Failures

    def _fail(self, node: Node, times: Iterator[float]) -> Process:
        """Let a node fail at given times, unless it is down."""
        for time in times:
            if time > self.env.now:
                yield self.env.timeout(time - self.env.now)
            if node.up:
                node.failing = True
                self._wake(node)

    def _lose(self, node: Node, repair_s: float) -> Process:
        """A node fails: its caches are gone, its requests go back, an empty one takes its place."""
        node.failing, node.up = False, False
        node.life += 1
        self.failures += 1
        lost = list(node.live.values())
        for row, job in node.live.items():
            _take_over(node.engine, row, job)
        lost += [job for job, source, _ in self.ready if source is node]
        self.ready = deque(entry for entry in self.ready if entry[1] is not node)
        node.live, node.promised, node.inbound = {}, 0.0, 0
        self.retired.append(node.engine)
        old = node.engine
        node.engine = self.make(old.deployment, old.policy, old.replica)
        node.engine.state.clocks[T_NOW] = self.env.now
        node.engine.end_warmup()
        self._put_back(lost)
        yield self.env.timeout(repair_s)
        node.up = True
        self._send()
        self._deal()

    def _put_back(self, lost: list[Job]) -> None:
        """Put requests at the front of the queue, in order of arrival."""
        for job in lost:
            job.failures += 1
            check_restarts(job.id, job.failures)
        self.restarts += len(lost)
        self.gate.extendleft(sorted(lost, key=lambda j: (j.arrival_s, j.id), reverse=True))
        self._deal()


def _take_over(engine: Engine, row: int, job: Job) -> None:
    """Copy a request's progress and stamps from the engine that ran it."""
    request, stamps = engine.state.ints[row], engine.state.floats[row]
    job.generated = int(request[I_GENERATED])
    job.preemptions += int(request[I_PREEMPTED])
    if np.isnan(job.scheduled_s):
        job.scheduled_s = float(stamps[F_SCHEDULED])
    if job.generated:
        job.first_s, job.last_s = float(stamps[F_FIRST]), float(stamps[F_LAST])
