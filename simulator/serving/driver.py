"""The driver of engines: one replica or a fleet of them, on the clock of SimPy.

Everything that engines share is an event on that clock: arrivals (`arrivals`, `sessions`), the
router's choice (`dealing`), transfers between two pools (`transfers`), failures (`failures`). Before
each event the engines are brought up to it (`nodes`), compiled. They stop at completions only where
those have effects outside of their engine. A single engine plays the clients of a closed loop and
the turns of sessions itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain

import simpy

from ...workloads.errors import InputError, nearest
from ...workloads.requests import RequestStream
from ..batching.kv import CacheSettings
from ..batching.policies import Policy
from ..deploy.deployment import Deployment
from .adapters import AdapterCounts, Shelf, shelf_of
from .arrivals import Arrivals
from .dealing import Dealer
from .encoders import EncoderCounts, EncoderQueue
from .engine import Engine
from .failures import Failures
from .faults import Faults
from .nodes import Node, Nodes
from .pools import Pools
from .progress import Progress, now_and_then
from .routers import ROUTERS
from .sessions import Sessions
from .steps import check_steps
from .table import Table
from .tandem import Tandem
from .tiers import common_of
from .transfers import Moves, Transfers


@dataclass(frozen=True, slots=True)
class Served:
    """What a run leaves behind.

    Attributes
    ----------
    engines : list of Engine
        Those of all nodes.
    table : Table
        Every request that was read, and what has come of it.
    completed : int
        Requests that have.
    warm_s : float
        End of the warm-up [s].
    failures, restarts : int
        Nodes that failed, and requests that were put back because of it.
    pools : Pools
        What ran it.
    nodes : list of Node
    moves : Moves or None
        KV caches that crossed the link, of two pools.
    adapters : AdapterCounts, optional
        What requests asked of the slots for adapters, where not all fit.
    encoder : EncoderCounts, optional
        What requests with images asked of their encoder.
    """

    engines: list[Engine]
    table: Table
    completed: int
    warm_s: float
    failures: int
    restarts: int
    pools: Pools
    nodes: list[Node]
    moves: Moves | None = None
    adapters: AdapterCounts | None = None
    encoder: EncoderCounts | None = None


def serve(
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
    steps: int = 0,
) -> Served:
    """Run a stream of requests through one engine or several.

    Parameters
    ----------
    router : str
        A name in `ROUTERS`; deals arrivals to the entry nodes and caches to the decode nodes.
    faults : Faults, optional
        Nodes are numbered entry nodes first.
    seed : int
        Of random failures, and of how many drafts are accepted.
    warmup : int
        Completions, on all engines together, after which rates and gap statistics start.
    keep_log : bool
        Keep the log of stretches.
    progress : callable, optional
        See `progress.Progress`.
    cache : CacheSettings, optional
        How engines set up their KV caches.
    stop : int, optional
        Completions after which the run ends, whatever is still under way.
    steps : int
        Keep the plans of so many steps, see `steps.check_steps`.

    Raises
    ------
    InputError
        Unknown router, a failure of a node that there is none of, or so many failures that the
        run would hardly end.
    CapacityError
        A request that could never fit.
    """
    if router not in ROUTERS:
        raise InputError(f"--router {router!r}", f"unknown router{nearest(router, ROUTERS)}")
    count = len(pools.entry) + len(pools.decode)
    for node, _ in faults.at if faults else ():
        if node >= count:
            raise InputError("--fail", f"there are replicas 0 to {count - 1}, not {node}")
    if steps:
        tiered = cache is not None and cache.tiers is not None
        check_steps(pools.entry[0], policy, count, steps, tiered)
    how = pools, policy, stream, router, faults, warmup, stop, keep_log, cache, seed, steps
    driver = Driver(*how)
    if driver.onward:
        found = driver.run_on(progress)
        if found is not None:
            return found
        driver = Driver(*how)
    return driver.run(seed, progress)


class Driver:
    """One run: puts its parts together and steps through the events.

    Parameters
    ----------
    pools, policy, stream, router, faults, warmup, stop, keep_log, cache, seed, steps
        See `serve`.
    """

    def __init__(
        self, pools: Pools, policy: Policy, stream: RequestStream, router: str,
        faults: Faults | None, warmup: int, stop: int | None, keep_log: bool,
        cache: CacheSettings | None, seed: int, steps: int,
    ) -> None:  # fmt: skip
        self.env, self.pools, common = simpy.Environment(), pools, common_of(pools, policy, cache)
        env = self.env
        self.warmup, self.stop, self.warm_s = warmup, stop or 0, 0.0
        self.delivered = 0  # completions that have had their effects
        blocks = iter(stream)
        first = next(blocks, None)
        blocks = chain(() if first is None else (first,), blocks)  # drawn once
        chained = first is not None and first.turns is not None
        # A key of the policy's order may need the arrival, which turns get when they are played.
        played = not (chained and policy.order)
        tenants = pools.entry[0].tenants
        swapped = tenants is not None and tenants.swapped
        staged = swapped or pools.encoder is not None
        self.alone = (
            len(pools.entry) == 1 and not pools.decode and faults is None and played
            and not staged
        )  # fmt: skip
        shared = not self.alone and (chained or stream.closed_loop is not None)
        self.always = bool(pools.decode) or shared or swapped
        self.table = table = Table()

        def made(
            deployment: Deployment, index: int, policy: Policy, cache: CacheSettings | None
        ) -> Node:
            clients = stream.closed_loop if self.alone else None
            engine = Engine(
                deployment, policy, index, clients, chained and self.alone, keep_log,
                cache or CacheSettings(), steps > 0, seed, steps, common,
            )  # fmt: skip
            return Node(index, engine)

        decoding = pools.policy or policy
        if pools.decode:  # an engine's own scheduler is that of one that does both
            policy = replace(policy, rules=None)
        entry = [made(d, i, policy, cache) for i, d in enumerate(pools.entry)]
        # Where caches come in whole from elsewhere, there are no prompts to find in one.
        decoding, there = replace(decoding, rules=None, caching=False), pools.cache or cache
        decode = [made(d, i, decoding, there) for i, d in enumerate(pools.decode, len(entry))]
        self.nodes = Nodes(env, table, entry, decode, self._deliver, self._note)
        self.dealer = Dealer(table, self.nodes, ROUTERS[router])
        self.shelf, self.queue = self._stages(pools, faults, seed)
        self.sessions = Sessions(env, table, self.dealer)
        whole = self.alone or not (staged or self.always or faults or self.dealer.looks)
        readers = [stage.read for stage in (self.shelf, self.queue) if stage is not None]
        self.arrivals = Arrivals(
            table, self.dealer, self.sessions, blocks, stream.closed_loop, whole, faults is not None,
            readers,
        )  # fmt: skip
        self.transfers = Transfers(self.nodes, table, self.dealer, decoding, pools.link)
        comes_back = chained or stream.closed_loop is not None or faults is not None or staged
        counted = self.warmup > 0 or self.stop > 0
        self.onward = bool(pools.decode) and not (comes_back or counted or self.dealer.looks)
        faults = faults or Faults()
        self.failures = Failures(self.nodes, table, self.dealer, self.transfers, faults)

    def _stages(
        self, pools: Pools, faults: Faults | None, seed: int
    ) -> tuple[Shelf | None, EncoderQueue | None]:
        """What requests pass before they reach an engine: their images, then their adapter."""
        tenants, dealer = pools.entry[0].tenants, self.dealer
        shelf = queue = None
        if tenants is not None and tenants.swapped:
            nodes = (*pools.entry, *pools.decode)
            shelf = shelf_of(self.env, nodes, faults, seed, dealer.admit)
            dealer.entrance = shelf.ask
        if pools.encoder is not None:
            queue = EncoderQueue(self.env, pools.encoder, dealer.entrance or dealer.admit)
            dealer.entrance = queue.ask
        return shelf, queue

    def _tell(self, progress: Progress) -> None:
        """Say how far the simulation is."""
        now = max(node.engine.now for node in self.nodes.all)
        progress(self._completed(), self.table.count, now)

    def run(self, seed: int, progress: Progress | None) -> Served:
        """Run everything until the last completion."""
        env, nodes = self.env, self.nodes
        if progress is not None:
            nodes.report = now_and_then(lambda: self._tell(progress))
        self._aim()
        self.failures.start(env, seed)
        self.arrivals.start(env)
        while True:
            nodes.bring(env.peek())
            if nodes.ended or self._all_done():
                break
            env.step()
        if progress is not None:  # the last report may have been left out as too soon
            self._tell(progress)
        for node in nodes.all if self.alone or not nodes.ended else ():  # else: what is cut off
            places, rows = node.untaken()
            self.table.take_over_all(node.engine, places, rows, arrivals=self.alone)
        return self._served(self.transfers.moves() if nodes.decode else None)

    def run_on(self, progress: Progress | None) -> Served | None:
        """Run two pools one after the other, see `tandem`; None if the events must be played."""
        link, nodes = self.pools.link, self.nodes
        assert link is not None
        if progress is not None:
            nodes.report = now_and_then(lambda: self._tell(progress))
        tandem = Tandem(
            nodes, self.table, self.dealer, self.arrivals, self.transfers.policy, link
        )  # fmt: skip
        moves = tandem.run(self.arrivals.blocks)
        if moves is None:
            return None
        self.delivered = self.table.count
        if progress is not None:
            self._tell(progress)
        return self._served(moves)

    def _served(self, moves: Moves | None) -> Served:
        nodes = self.nodes.all
        return Served(
            [node.engine for node in nodes], self.table, self._completed(), self.warm_s,
            self.failures.failures, self.dealer.restarts.total(), self.pools, nodes, moves,
            None if self.shelf is None else self.shelf.counts,
            None if self.queue is None else self.queue.counts,
        )  # fmt: skip

    def _completed(self) -> int:
        """Requests that have completed, on all engines together."""
        return self.delivered if self.nodes.stops or self.onward else self.nodes.completed

    def _all_done(self) -> bool:
        arrived = self.arrivals.exhausted and not self.sessions.to_come
        return arrived and self._completed() == self.table.count

    def _deliver(self, node: Node) -> None:
        """Let completions on a node have their effects, at the time of its clock."""
        table = self.table
        for place in node.newly_done():
            row = node.rows[place]
            node.rows[place] = -1
            table.take_over(node.engine, place, row)
            if table.generated[row] < table.output_tokens[row]:
                self.transfers.ready.append((row, node, node.life))
            else:
                node.forget(self.dealer.kept.get(row, 0.0))
                self.delivered += 1
                if self.shelf is not None:
                    self.shelf.done(row, node.clock)
                followed = self.sessions.completed(row)
                self.arrivals.completed(followed, node.clock)
        self._note(node.clock)
        self.transfers.send(node.clock)
        self.dealer.deal(node.clock)

    def _note(self, now: float) -> None:
        """See whether the warm-up or the run ends with the completions so far."""
        completed = self._completed()
        if 0 < self.warmup <= completed:
            self.warmup, self.warm_s = 0, now
            for node in self.nodes.all:
                node.engine.end_warmup()
        if 0 < self.stop <= completed:
            self.nodes.ended = True
        self._aim()

    def _aim(self) -> None:
        """Let engines stop where completions are counted or have effects."""
        ahead = min((goal for goal in (self.warmup, self.stop) if goal > 0), default=0)
        if self.alone:
            self.nodes.goal = ahead
        else:
            self.nodes.stops = self.always or ahead > 0
