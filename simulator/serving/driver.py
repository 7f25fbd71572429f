"""The driver of engines: one replica or a fleet.

Compiled code processes one queue of events (`clock`): arrivals (`arrivals`), sessions, closed loops, the library's
routers, KV transfers between two pools. User-defined and rare events run in Python: a router's rule, failures,
autoscalers, stages of requests (`dealing`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from ...workloads.errors import InputError, nearest
from ...workloads.requests import RequestBlock, RequestStream
from ..batching.deals import CHOOSE, GIVE, ROOM, How
from ..batching.kv import CacheSettings
from ..batching.play import BLOCK, CALL, LEAVE, NOTE, PASS, play
from ..batching.policies import Policy
from ..batching.state import I_ROW
from ..batching.status import LOG_FULL, REACHED, RESTS, STUCK
from ..deploy.deployment import Deployment
from ..option import NO_OPTIONS, PartOptions
from ..parts.autoscale.asked import OPTION, Autoscale
from ..parts.autoscale.scaling import Scaler
from ..parts.classes.admission import Door, bounded, check_bounds, laned
from ..parts.classes.lanes import O_REFUSED
from ..parts.failures.failing import Failures
from ..parts.failures.faults import Faults
from ..parts.kv_tiers.run import common_of
from ..parts.two_pools.crossing import LOST
from ..registry import PARTS
from .arrivals import Arrivals, check_kept
from .clock import Clock
from .combined import check_run, decoding, scaled_by, states_of, swapped_by
from .dealing import Dealer
from .draining import Drain, Drained
from .engine import Engine
from .groups import OPTION as GROUPS
from .groups import Cut
from .nodes import Node
from .pools import Moves, Pools
from .progress import Progress, now_and_then
from .routers import ROUTERS, asks_prefix, compiled_rule, round_robin
from .served import Presence, Served
from .start_up import start_up_s
from .steps import check_steps
from .table import RequestTable

MOST_LOGGED = 1 << 14
"""Log entries of all engines that are processed together."""


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
    cut: Cut | None = None,
    grown: Callable[[RunSettings], Served] | None = None,
    options: PartOptions = NO_OPTIONS,
) -> Served:
    """Run a stream of requests through one engine or several.

    Parameters
    ----------
    router : str
        A name in `ROUTERS`; assigns arrivals to the entry nodes and caches to the decode nodes.
    faults : Faults, optional
        Nodes are numbered entry nodes first.
    seed : int
        Of random failures, and of how many drafts are accepted.
    warmup : int
        Completions, on all engines together, after which rates and gap statistics start.
    keep_log : bool
        Keep the log of fast-forwarded steps.
    progress : callable, optional
        See `progress.Progress`.
    cache : CacheSettings, optional
        How engines set up their KV caches.
    stop : int, optional
        Completions after which the run ends, with other requests still running.
    steps : int
        Keep the plans of this number of steps, see `steps.check_steps`.
    autoscale : Autoscale, optional
        How many of the replicas there are when; entry nodes are all that there may be.
    cut : Cut, optional
        Of the entry nodes those that run here; all of them if not given.
    options : PartOptions
        Options of parts of the run.
    grown : callable, optional
        Runs it from where one of fewer requests of the same stream stands, see `growing`.

    Raises
    ------
    InputError
        An unknown router, a failure of an unknown node, or too many failures for the run to end.
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
        reason = "is for a system that is not split; the pools of --prefill and --decode have their own"
        raise InputError(OPTION, reason)
    cut = cut or Cut(spill="" if keep_log else None)
    asked = RunSettings(
        pools, policy, stream, router, faults, warmup, stop, keep_log, cache, seed, steps, autoscale, cut, options
    )
    return Driver(asked).run(seed, progress) if grown is None else grown(asked)


class RunSettings(NamedTuple):
    """What a run is asked for, see `serve`."""

    pools: Pools
    policy: Policy
    stream: RequestStream
    router: str
    faults: Faults | None
    warmup: int
    stop: int | None
    keep_log: bool
    cache: CacheSettings | None
    seed: int
    steps: int
    autoscale: Autoscale | None
    cut: Cut
    options: PartOptions = NO_OPTIONS


class Driver:
    """One run: puts its parts together and does what the clock asks for."""

    def __init__(self, asked: RunSettings) -> None:
        pools, policy, stream, router, faults, warmup, stop, keep_log, cache, seed, steps, autoscale, cut, options = (
            asked
        )
        self.pools, self.policy, self.stream, self.seed, self.keep_log = pools, policy, stream, seed, keep_log
        self.steps, self.common = steps, common_of(pools, policy, cache)
        self.warmup, self.stop, self.warm_s, self.ended = warmup, stop or 0, 0.0, False
        self.first = first = next(blocks := iter(stream), None)
        blocks = chain(() if first is None else (first,), blocks)  # drawn once
        turns = None if first is None else first.turns
        check_bounds(stream, first)
        scaled, swapped = scaled_by(pools, autoscale), swapped_by(pools)
        self.parts = check_run(pools, policy, cache, first, faults is not None, scaled, options)
        self.states = states_of(options, pools.entry[0])
        staged = swapped or pools.parts.get("encoder") is not None
        scales = pools.scales if pools.decode else (autoscale, None)
        self.one = len(pools.entry) == 1 and not pools.decode
        follow = turns is not None or stream.closed_loop is not None
        # An engine by itself turns requests away by the bounds of their class.
        alone = self.one and faults is None and not staged and not scaled and not follow
        self.always = bool(pools.decode) or follow or swapped
        self.table = table = RequestTable()
        here = cut.replicas(len(pools.entry))
        entry = self._nodes(pools.entry, here, policy, cache, alone=alone)
        decode = self._nodes(pools.decode, range(len(pools.decode)), *decoding(pools, policy, cache), len(entry))
        route, rule = ROUTERS[router], compiled_rule(ROUTERS[router])
        looks = route is not round_robin and max(len(entry), len(decode)) > 1
        doors = bounded(stream) and not alone
        apart = not (staged or scaled or self.always or faults or doors)
        whole = apart and not looks
        steady = not (staged or scaled or faults or doors or pools.decode)
        if cut.of > 1:
            self._check_apart({"--autoscale": scaled, "failures": faults, "adapters that wait for slots": swapped})
        how = How(
            rule=-1 if rule is None else rule, looks=looks, stops=False,
            level=any(node.engine.common is not None for node in (*entry, *decode)),
            whole=whole, steady=steady,
            more=True if warmup or stop or not whole else None,
            passes=doors or pools.parts.get("encoder") is not None, shelved=swapped,
            clients=0 if whole else stream.closed_loop or 0, between=None,
        )  # fmt: skip
        prefixes = looks and asks_prefix(route)
        self.clock = clock = Clock(
            table, entry, decode, how, pools.link, prefixes, 0 if faults or steps else MOST_LOGGED
        )
        self.dealer = Dealer(table, clock, route)
        lets_go = apart and not (self.warmup or self.stop)
        self.drain = Drain.of(clock, table, cut.spill) if lets_go else None
        if self.drain is None:
            check_kept(stream.limit or 0)
        self.arrivals = Arrivals(
            table, self.dealer, clock, blocks, stream.closed_loop, faults is not None, self._stages(stream, seed, doors),
            None if self.drain is None else self.drain.step, cut, len(pools.entry),
        )  # fmt: skip
        self.failures = Failures(clock, table, self.dealer, faults or Faults())
        self.scalers = [self._scaler(scale, i > 0) for i, scale in enumerate(scales)]
        for node in clock.all if swapped or self.dealer.told is not None else ():
            node.given = 1

    def _check_apart(self, found: dict[str, object]) -> None:
        """Refuse parts that couple replicas, including `found`: such replicas cannot be simulated separately."""
        stream, pools, first = self.stream, self.pools, self.first
        found |= {
            "two pools": pools.decode, "--encoder": pools.parts.get("encoder"), "sessions": first is not None and first.turns,
            "--closed-loop": stream.closed_loop, "classes": stream.classes, "--warmup": self.warmup,
            "--stop": self.stop, "--steps": self.steps, "caches that they share": self.common,
        }  # fmt: skip
        for what, there in found.items():
            if there:
                raise InputError(GROUPS, f"cannot be combined with {what}: replicas then wait for each other")

    def _nodes(
        self, deployments: Sequence[Deployment], here: range, policy: Policy, cache: CacheSettings | None,
        before: int = 0, alone: bool = False,
    ) -> list[Node]:  # fmt: skip
        """Return the local nodes of one pool, numbered after `before`; nodes of one deployment are lowered once."""
        out = list[Node]()
        for number in here:
            d, index = deployments[number], before + number
            rules, lanes = laned(policy, d, self.first, self.stream, alone)
            twin = out[0].engine if out and d is deployments[here.start] else None
            engine = Engine(
                d, rules, index, self.keep_log, cache or CacheSettings(), self.steps > 0, self.seed, self.steps, lanes,
                self.common, twin, len(deployments),
            )  # fmt: skip
            out.append(Node(before + len(out), engine))
        return out

    def _stages(self, stream: RequestStream, seed: int, doors: bool) -> list[Callable[[RequestBlock], None]]:
        """What requests pass on their way: a door and their images, on a node their adapter; what reads of them."""
        pools, dealer, clock = self.pools, self.dealer, self.clock
        hooks = ((PARTS[name].hook("read"), state) for name, state in self.states.items())
        readers: list[Callable[[RequestBlock], None]] = [partial(h, state) for h, state in hooks if h is not None]
        if doors:
            dealer.door = Door(stream.classes, clock, self.table).admits
        for name in self.parts:
            hook = PARTS[name].hook("stage")
            made = hook and hook(clock, dealer, pools, seed)
            if made is not None:
                self.states[name], reader = made
                readers.append(reader)
        return readers

    def _scaler(self, autoscale: Autoscale | None, decodes: bool) -> Scaler | None:
        """What decides how many replicas there are, of the nodes that requests arrive at or the others."""
        if autoscale is None:
            return None
        deployment, clock = (self.pools.decode if decodes else self.pools.entry)[0], self.clock
        start_s = autoscale.start
        if start_s is None:
            start_s = start_up_s(deployment) if autoscale.decides else 0.0
        pool = clock.decode if decodes else clock.entry
        return Scaler(
            autoscale, start_s, clock, self.table, self.dealer, deployment.replicas, pool,
            lambda: clock.parked if decodes else clock.waiting,
        )  # fmt: skip

    def _tell(self, progress: Progress) -> None:
        """Say how far the simulation is."""
        now = max(node.engine.now for node in self.clock.all)
        progress(self.clock.completed, self.table.count, now)

    def run(self, seed: int, progress: Progress | None) -> Served:
        """Run everything until the last completion."""
        if progress is not None:
            self.clock.report = now_and_then(lambda: self._tell(progress))
        self.begin(seed)
        self.play()
        if progress is not None:  # the last report may have been left out as too soon
            self._tell(progress)
        return self.end()

    def begin(self, seed: int) -> None:
        """Schedule the initial events."""
        self._aim()
        self.failures.start(seed)
        for scaler in self.scalers:
            if scaler is not None:
                scaler.start()

    def end(self) -> Served:
        """What is left behind, the last requests taken over from their engines."""
        nodes, taken = self.clock.all, []
        for node in nodes if self.one or not self.ended else ():  # else: what is cut off
            places, rows = node.untaken()
            self.table.take_over_all(node.engine, places, rows)
            taken.append(rows)
        return self._served(None if self.drain is None else self.drain.end(taken))

    def play(self) -> None:
        """Process all events and calls of the clock; idle engines wait until there is nothing else."""
        clock, at, status = self.clock, self.clock.at, LOG_FULL
        acts: dict[int, Callable[[], object]] = {
            BLOCK: self.arrivals.next_block, NOTE: lambda: self._note(float(at.noted)), CHOOSE: self.dealer.choose,
            ROOM: lambda: clock.make_room(clock.all[at.into]), GIVE: self.dealer.give,
            LOST: lambda: self.dealer.put_back([int(at.row)], float(at.then)), CALL: clock.call, LEAVE: self._leave,
            PASS: lambda: self.dealer.arrive(int(at.row), float(self.table.arrival_s[at.row])),
            LOG_FULL: lambda: clock.empty_log(LOG_FULL), STUCK: lambda: clock.empty_log(STUCK), RESTS: clock.set_aside,
        }  # fmt: skip
        while status != REACHED and not self.ended:
            clock.refresh()
            status = play(clock.play, clock.how)
            if status == STUCK and clock.rests:
                return
            if status != REACHED:
                acts[status]()
            if clock.report is not None:
                clock.report()

    def _leave(self) -> None:
        """A request has completed: its adapter's slot may go to another one."""
        node = self.clock.all[self.clock.at.node]
        assert node.shelf is not None
        node.shelf.done(int(self.clock.at.row), node.clock)

    def _served(self, drained: Drained | None) -> Served:
        nodes, clock = self.clock.all, self.clock
        clock.take_logs()
        for node in nodes:
            node.engine.take_log(REACHED)
        for node in nodes:
            state, lanes = node.engine.state, node.engine.parts.get("classes")
            if lanes is not None:
                places = lanes.of[: node.engine.submitted, O_REFUSED].nonzero()[0]
                self.table.refused += state.ints[places, I_ROW].tolist()
        return Served(
            [node.engine for node in nodes], self.table, clock.completed, self.warm_s,
            self.failures.failures, self.dealer.restarts.total(), self.pools, nodes, self.policy,
            self._counted(), self._presence(), drained=drained,
        )  # fmt: skip

    def _counted(self) -> dict[str, Any]:
        """Parts that took part, each with its state or what it counted."""
        moves = self._moves()
        return {**dict.fromkeys(self.parts), **self.states, **({"two-pools": moves} if moves else {})}

    def _moves(self) -> Moves | None:
        """Caches that have crossed the link."""
        between, at = self.clock.how.between, self.clock.at
        if between is None:
            return None
        start_s, end_s = between.stamps[: self.table.count].T.copy()
        return Moves(start_s, end_s, float(at.moved), int(at.moves))

    def _presence(self) -> tuple[Presence | None, ...]:
        """When the replicas of each pool were there, where an autoscaler decides."""
        return tuple(None if s is None else s.scaling() for s in self.scalers)

    def _note(self, now: float) -> None:
        """See whether the warm-up or the run ends with the completions so far."""
        completed = self.clock.completed
        if 0 < self.warmup <= completed:
            self.warmup, self.warm_s = 0, now
            for node in self.clock.all:
                node.engine.end_warmup()
        if 0 < self.stop <= completed:
            self.ended = True
        self._aim()

    def _goal(self) -> int:
        """Completions that are to be noted next; 0: none."""
        return min((goal for goal in (self.warmup, self.stop) if goal > 0), default=0)

    def _aim(self) -> None:
        """Let engines stop where completions are counted or have effects."""
        stops = self.always or self._goal() > 0
        self.clock.how = self.clock.how._replace(stops=stops)
        self.clock.at.goal = self._goal()
        how = self.clock.how
        self.clock.play.fleet.turn[0].ahead = how.steady and not (how.whole or how.level or self._goal())
