"""The driver of engines: one replica or a fleet of them, on the clock of SimPy.

Everything that engines share is an event on that clock: arrivals (`arrivals`, `sessions`), the
router's choice (`dealing`), transfers between two pools (`transfers`), failures (`failures`). Before
each event the engines are brought up to it (`nodes`), compiled. They stop at completions only where
those have effects outside of their engine. A single engine plays the clients of a closed loop and
the turns of sessions itself; arrivals and sessions before the library's own routers are played in one
compiled call (`played`), to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

import simpy

from ...workloads.errors import InputError, nearest
from ...workloads.requests import RequestBlock, RequestStream, Turns
from ..batching.kv import CacheSettings
from ..batching.lanes import O_REFUSED
from ..batching.loop import REACHED
from ..batching.orders import LANED
from ..batching.policies import Policy
from ..deploy.deployment import Deployment
from .adapters import AdapterCounts
from .admission import Door, bounded, check_bounds, laned
from .arrivals import Arrivals
from .autoscale import OPTION, Autoscale
from .dealing import Dealer
from .draining import Drain
from .encoders import EncoderQueue
from .engine import Engine
from .failures import Failures
from .faults import Faults
from .nodes import Node, Nodes
from .parts import check_run
from .played import Played
from .pools import Pools
from .progress import Progress, now_and_then
from .replicas import Scaling
from .routers import ROUTERS
from .scaling import Scaler
from .served import Served
from .sessions import Sessions
from .start_up import start_up_s
from .steps import check_steps
from .table import Table
from .tandem import Tandem
from .tiers import Common, common_of
from .transfers import Moves, Transfers


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
    autoscale: Autoscale | None = None,
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
    autoscale : Autoscale, optional
        How many of the replicas there are when; entry nodes are all that there may be.

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
    if autoscale is not None and pools.decode:
        reason = (
            "is for a system that is not split; the pools of --prefill and --decode have their own"
        )
        raise InputError(OPTION, reason)
    how = (
        pools, policy, stream, router, faults, warmup, stop, keep_log, cache, seed, steps, autoscale
    )  # fmt: skip
    driver = Driver(*how)
    if driver.onward:
        found = driver.run_on(progress)
        if found is not None:
            return found
        driver = Driver(*how)
    return driver.run(seed, progress)


ARRIVING = ("", *LANED)
"""Orders whose keys need no arrival, which turns get when they are played."""


def scaled_by(pools: Pools, autoscale: Autoscale | None) -> bool:
    """Whether replicas come and go."""
    scales = pools.scales if pools.decode else (autoscale,)
    return any(scale.decides for scale in scales if scale is not None)


def _swapped(pools: Pools) -> bool:
    """Whether adapters wait for slots."""
    tenants = pools.entry[0].tenants
    return tenants is not None and tenants.swapped


def _nodes(
    deployments: Sequence[Deployment], start: int, policy: Policy, cache: CacheSettings | None,
    first: RequestBlock | None, stream: RequestStream, alone: bool, chained: bool, keep_log: bool,
    steps: int, seed: int, common: Common | None,
) -> list[Node]:  # fmt: skip
    """Nodes of one pool, numbered from `start`; those of one deployment are lowered once."""
    clients, out = stream.closed_loop if alone else None, list[Node]()
    for index, d in enumerate(deployments, start):
        rules, lanes = laned(policy, d, first, stream, alone)
        twin = out[0].engine if out and d is deployments[0] else None
        engine = Engine(
            d, rules, index, clients, chained and alone, keep_log, cache or CacheSettings(),
            steps > 0, seed, steps, lanes, common, twin, len(deployments),
        )  # fmt: skip
        out.append(Node(index, engine))
    return out


class Driver:
    """One run: puts its parts together and steps through the events.

    Parameters
    ----------
    pools, policy, stream, router, faults, warmup, stop, keep_log, cache, seed, steps, autoscale
        See `serve`.
    """

    def __init__(
        self, pools: Pools, policy: Policy, stream: RequestStream, router: str,
        faults: Faults | None, warmup: int, stop: int | None, keep_log: bool,
        cache: CacheSettings | None, seed: int, steps: int, autoscale: Autoscale | None,
    ) -> None:  # fmt: skip
        env = self.env = simpy.Environment()
        self.pools, common = pools, common_of(pools, policy, cache)
        self.warmup, self.stop, self.warm_s = warmup, stop or 0, 0.0
        self.delivered = 0  # completions that have had their effects
        first = next(blocks := iter(stream), None)
        blocks = chain(() if first is None else (first,), blocks)  # drawn once
        turns = None if first is None else first.turns
        chained = turns is not None
        played = turns is None or (turns.after is None and policy.order in ARRIVING)
        check_bounds(stream, first)
        check_run(
            pools, policy, cache, stream, first, faults is not None, scaled_by(pools, autoscale)
        )
        swapped = _swapped(pools)
        staged = swapped or pools.encoder is not None
        scales = pools.scales if pools.decode else (autoscale, None)
        scaled = scaled_by(pools, autoscale)
        one = len(pools.entry) == 1 and not pools.decode
        self.alone = one and faults is None and played and not staged and not scaled
        shared = not self.alone and (chained or stream.closed_loop is not None)
        self.always = bool(pools.decode) or shared or swapped
        self.table = table = Table()

        how = first, stream, self.alone, chained, keep_log, steps, seed, common
        decoding = pools.policy or policy
        entry = _nodes(pools.entry, 0, policy, cache, *how)
        # Where caches come in whole from elsewhere, there are no prompts to find in one.
        rules = decoding.rules and decoding.rules.decoding()
        decoding, there = replace(decoding, rules=rules, caching=False), pools.cache or cache
        there = None if there is None else replace(there, tiers=None)
        decode = _nodes(pools.decode, len(entry), decoding, there, *how)
        nodes = self.nodes = Nodes(env, table, entry, decode, self._deliver, self._note)
        self.dealer = Dealer(table, self.nodes, ROUTERS[router])
        self.adapters: AdapterCounts | None = None
        readers = self._stages(stream, seed)
        self.sessions = Sessions(env, table, self.dealer)
        judged = self.dealer.looks or self.dealer.door is not None
        whole = self.alone or not (staged or scaled or self.always or faults or judged)
        self.arrivals = Arrivals(
            table, self.dealer, self.sessions, blocks, stream.closed_loop, whole, faults is not None,
            readers,
        )  # fmt: skip
        self.transfers = Transfers(self.nodes, table, self.dealer, decoding, pools.link)
        comes_back = any((shared, faults, staged, scaled, self.warmup, self.stop))
        self.onward = bool(pools.decode) and not (comes_back or judged)
        self.failures = Failures(nodes, table, self.dealer, self.transfers, faults or Faults())
        self.scalers = [self._scaler(scale, i > 0) for i, scale in enumerate(scales)]
        scaling = any(scaler is not None for scaler in self.scalers)
        lets_go = whole and not (self.warmup or self.stop or stream.closed_loop)
        self.drain = Drain.of(nodes, table, keep_log) if lets_go else None
        self.arrivals.drain = None if self.drain is None else self.drain.step
        own = self.alone or pools.decode or staged or faults or scaling or whole or policy.order
        self.played = None if own else self._played(stream, turns)

    def _played(self, stream: RequestStream, turns: Turns | None) -> Played | None:
        """The same events in one compiled call, where nothing but arrivals and sessions is played."""
        several = turns is not None and turns.after is not None
        if several or stream.closed_loop is not None or self.dealer.door is not None:
            return None
        return Played.of(self.nodes, self.table, self.arrivals)

    def _stages(self, stream: RequestStream, seed: int) -> list[Callable[[RequestBlock], None]]:
        """What requests pass on their way: a door and their images, on a node their adapter; what reads of them."""
        pools, dealer = self.pools, self.dealer
        readers: list[Callable[[RequestBlock], None]] = []
        self.encoding: EncoderQueue | None = None
        if bounded(stream) and not self.alone:
            dealer.door = Door(stream.classes, self.nodes, self.table, dealer.gate).admits
        if _swapped(pools):
            choices, self.adapters = dealer.shelve(seed)
            readers.append(choices.read)
        if pools.encoder is not None:
            self.encoding = EncoderQueue(self.env, pools.encoder, dealer.admit)
            dealer.entrance = self.encoding.ask
            readers.append(self.encoding.read)
        return readers

    def _scaler(self, autoscale: Autoscale | None, decodes: bool) -> Scaler | None:
        """What decides how many replicas there are, of the nodes that requests arrive at or the others."""
        if autoscale is None:
            return None
        deployment = (self.pools.decode if decodes else self.pools.entry)[0]
        start_s = autoscale.start
        if start_s is None:
            start_s = start_up_s(deployment) if autoscale.decides else 0.0
        own = autoscale, start_s, self.nodes, self.table, self.dealer, deployment.replicas
        if decodes:
            return Scaler(*own, self.nodes.decode, self.transfers.ready, self.transfers.send)
        return Scaler(*own, self.nodes.entry, self.dealer.gate, self.dealer.deal)

    def _tell(self, progress: Progress) -> None:
        """Say how far the simulation is."""
        now = max(node.engine.now for node in self.nodes.all)
        progress(self._completed(), self.table.count, now)

    def run(self, seed: int, progress: Progress | None) -> Served:
        """Run everything until the last completion."""
        nodes = self.nodes
        if progress is not None:
            nodes.report = now_and_then(lambda: self._tell(progress))
        self._aim()
        if self.played is not None:
            self.played.run(self._noted, self._goal)
            self.delivered = sum(node.delivered for node in nodes.all)
        else:
            self._step(seed)
        if progress is not None:  # the last report may have been left out as too soon
            self._tell(progress)
        for node in nodes.all if self.alone or not nodes.ended else ():  # else: what is cut off
            places, rows = node.untaken()
            self.table.take_over_all(node.engine, places, rows, arrivals=self.alone)
        return self._served(self.transfers.moves() if nodes.decode else None)

    def _step(self, seed: int) -> None:
        """Step through the events, to the last one."""
        env, nodes = self.env, self.nodes
        self.failures.start(env, seed)
        self.arrivals.start(env)
        for scaler in self.scalers:
            if scaler is not None:
                scaler.start(env)
        while True:
            nodes.bring(env.peek())
            if nodes.ended or self._all_done():
                break
            env.step()

    def _noted(self, delivered: int, now: float) -> bool:
        """Note that so many completions have had their effects; whether the run goes on."""
        self.delivered = delivered
        self._note(now)
        return not self.nodes.ended

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
        for node in nodes if self.nodes.together is not None else ():
            node.engine.take_log(REACHED)
        for node in nodes if self.alone else ():
            if node.engine.state.lanes is not None:
                places = node.engine.state.lanes.of[: node.engine.submitted, O_REFUSED].nonzero()[0]
                self.table.refused += [node.rows[place] for place in places.tolist()]
        return Served(
            [node.engine for node in nodes], self.table, self._completed(), self.warm_s,
            self.failures.failures, self.dealer.restarts.total(), self.pools, nodes, moves,
            self.adapters, None if self.encoding is None else self.encoding.counts,
            *self._scalings(), None if self.drain is None else self.drain.end(),
        )  # fmt: skip

    def _scalings(self) -> tuple[Scaling | None, tuple[Scaling | None, ...]]:
        """What autoscalers did: of all replicas, or of each of two pools."""
        found = tuple(None if s is None else s.scaling() for s in self.scalers)
        return (None, found) if self.pools.decode else (found[0], (None, None))

    def _completed(self) -> int:
        """Requests that have completed, on all engines together."""
        return self.delivered if self.nodes.stops or self.onward else self.nodes.completed

    def _all_done(self) -> bool:
        if not self.arrivals.exhausted or self.sessions.to_come:
            return False
        refused = len(self.table.refused) + sum(node.engine.refused for node in self.nodes.all)
        return self._completed() + refused == self.table.count

    def _deliver(self, node: Node) -> None:
        """Let completions on a node have their effects, at the time of its clock."""
        table = self.table
        for place in node.newly_done():
            row = node.rows[place]
            node.rows[place] = -1
            if node.shelf is not None:
                node.shelf.done(row, node.clock)
            table.take_over(node.engine, place, row)
            if table.generated[row] < table.output_tokens[row]:
                self.transfers.ready.append((row, node, node.life))
            else:
                node.forget(self.dealer.kept.get(row, 0.0))
                self.delivered += 1
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

    def _goal(self) -> int:
        """Completions that are to be noted next; 0: none."""
        return min((goal for goal in (self.warmup, self.stop) if goal > 0), default=0)

    def _aim(self) -> None:
        """Let engines stop where completions are counted or have effects."""
        ahead = self._goal()
        if self.alone:
            self.nodes.goal = ahead
        else:
            self.nodes.stops = self.always or ahead > 0
