"""The driver of engines: one replica or a fleet.

Compiled code processes one queue of events (`clock`): arrivals (`assigner`), sessions, closed loops, the library's
routers, KV transfers between two pools. User-defined and rare events run in Python: a router's rule, failures,
autoscalers, stages of requests (`assigner`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from ...workloads.errors import InputError, check_known
from ...workloads.requests import RequestBlock, RequestStream
from ..deploy.deployment import Deployment
from ..engine.engine import Engine
from ..engine.kv import CacheSettings
from ..engine.policies import Policy
from ..engine.state import RESTS, Status
from ..option import NO_OPTIONS, PartOptions
from ..registry import PARTS, all_hooks, hooks_by_name
from ..results.progress import Progress, now_and_then
from ..results.steps import check_steps
from ..results.table import RequestTable
from .assigner import Arrivals, Assigner, check_kept
from .assignment import CHOOSE, GIVE, LOST, ROOM, FleetRules
from .clock import Clock
from .combined import RunPart, check_run, decoding, scaled_by, states_of, swapped_by
from .draining import Drain, Drained
from .events import BLOCK, CALL, LEAVE, NOTE, PASS, run_events
from .groups import OPTION as GROUPS
from .groups import Cut
from .nodes import Node
from .pools import Fleet, Moves, Pools
from .routers import ROUTERS, asks_prefix, compiled_rule, round_robin
from .run_state import RunState

MOST_LOGGED = 1 << 14
"""Log entries of all engines that are processed together."""


class RunSettings(NamedTuple):
    """Settings of a run.

    Attributes
    ----------
    fleet : Fleet
        Replicas and their router, which assigns arrivals to entry nodes and transferred caches to decode nodes. Failures
        count nodes from the entry nodes on.
    warmup : int
        Completions on all engines together, after which rates and gap statistics start.
    stop : int, optional
        Completions after which the run ends, also if requests are in service.
    keep_log : bool
        Whether to keep the log of fast-forwarded steps.
    cache : CacheSettings, optional
        Settings of the engines' KV caches.
    seed : int
        Seed of random failures and of accepted drafts.
    steps : int
        Number of steps whose plans are kept, see `steps.check_steps`.
    cut : Cut, optional
        Entry nodes to simulate in this process; default: all.
    options : PartOptions
        Options of the run's parts.
    """

    pools: Pools
    policy: Policy
    stream: RequestStream
    fleet: Fleet = Fleet()
    warmup: int = 0
    stop: int | None = None
    keep_log: bool = False
    cache: CacheSettings | None = None
    seed: int = 0
    steps: int = 0
    cut: Cut | None = None
    options: PartOptions = NO_OPTIONS


def serve(
    asked: RunSettings, progress: Progress | None = None, grown: Callable[[RunSettings], RunState] | None = None
) -> RunState:
    """Run a stream of requests through one engine or several.

    Parameters
    ----------
    progress : callable, optional
        See `progress.Progress`.
    grown : callable, optional
        Function that continues a shorter run of the same stream instead, see `growing`.

    Raises
    ------
    InputError
        If the router or a failing node is unknown, or failures are too frequent for the run to end.
    CapacityError
        If the KV cache of a request could never fit.
    """
    pools, fleet, cache = asked.pools, asked.fleet, asked.cache
    check_known(f"--router {fleet.router!r}", fleet.router, ROUTERS, "unknown router")
    count = len(pools.entry) + len(pools.decode)
    for node, _ in fleet.faults.at if fleet.faults else ():
        if node >= count:
            raise InputError("--fail", f"must name a replica from 0 to {count - 1}, not {node}")
    if asked.steps:
        tiered = cache is not None and cache.tiers is not None
        check_steps(pools.entry[0], asked.policy, count, asked.steps, tiered)
    return Driver(asked).run(asked.seed, progress) if grown is None else grown(asked)


class Driver:
    """One run: builds its parts and handles the events that compiled code returns to Python."""

    def __init__(self, asked: RunSettings) -> None:
        pools, policy, stream, cache, fleet = asked.pools, asked.policy, asked.stream, asked.cache, asked.fleet
        self.asked, self.pools, self.policy, self.stream = asked, pools, policy, stream
        self.warmup, self.stop, self.warm_s, self.ended = asked.warmup, asked.stop or 0, 0.0, False
        self.shared = {n: x for n, hook in hooks_by_name("shared") if (x := hook(pools, policy, cache)) is not None}
        self.first = first = next(blocks := iter(stream), None)
        blocks = chain(() if first is None else (first,), blocks)  # the first block is generated only once
        self._check_stream()
        self.scaled, self.swapped = scaled_by(pools, fleet.autoscale), swapped_by(pools)
        self.parts = check_run(pools, policy, cache, first, fleet.faults is not None, self.scaled, asked.options)
        self.states = states_of(asked.options, pools.entry[0])
        encoded = pools.parts.get("encoder") is not None
        follow = stream.closed_loop is not None or (first is not None and first.turns is not None)
        changing = self.swapped or encoded or self.scaled or fleet.faults is not None
        self.one = len(pools.entry) == 1 and not pools.decode
        self.always = bool(pools.decode) or follow or self.swapped
        # A single engine rejects requests by the bounds of their class; a fleet does so before its router.
        alone = self.one and not changing and not follow
        bounded = not alone and any(c.bounded for c in stream.classes)
        cut = asked.cut or Cut(spill="" if asked.keep_log else None)
        entry = self._nodes(pools.entry, cut.replicas(len(pools.entry)), policy, cache, alone=alone)
        decode = self._nodes(pools.decode, range(len(pools.decode)), *decoding(pools, policy, cache), len(entry))
        if cut.of > 1:
            self._check_independent()
        independent = not (changing or bounded or self.always)
        router = ROUTERS[fleet.router]
        rules = self._rules(router, max(len(entry), len(decode)), independent, changing or bounded, bounded or encoded)
        self.table = table = RequestTable()
        self.clock = clock = Clock(
            table, entry, decode, rules, pools.link, rules.by_load and asks_prefix(router),
            0 if fleet.faults or asked.steps else MOST_LOGGED,
        )  # fmt: skip
        self.assigner = Assigner(table, clock, router)
        self.drain = Drain.of(clock, table, cut.spill) if independent and not (self.warmup or self.stop) else None
        if self.drain is None:
            check_kept(stream.limit or 0)
        self.arrivals = Arrivals(
            table, self.assigner, clock, blocks, stream.closed_loop, fleet.faults is not None, self._stages(bounded),
            None if self.drain is None else self.drain.step, cut, len(pools.entry),
        )  # fmt: skip
        self.does: list[RunPart] = [part for hook in all_hooks("run") if (part := hook(self)) is not None]
        for node in clock.all if self.swapped or self.assigner.told is not None else ():
            node.given = 1

    def _check_stream(self) -> None:
        """Refuse requests that the run's parts cannot simulate."""
        for check in all_hooks("check_requests"):
            check(self.stream, self.first)
        if self.stream.closed_loop is not None and self.stream.has_arrivals and self.stop:
            raise InputError("--stop", "cannot be combined with --closed-loop and --rate together")

    def _rules(
        self, router: Callable[..., Any], engines: int, independent: bool, changing: bool, staged: bool
    ) -> FleetRules:
        """Return the rules of the run's events.

        Parameters
        ----------
        engines : int
            Number of engines of the larger pool.
        independent : bool
            Whether engines affect each other only through the router's choice.
        changing : bool
            Whether engines come and go, or requests wait, for other reasons than arrivals and steps.
        staged : bool
            Whether requests pass a stage before the router.
        """
        rule, by_load = compiled_rule(router), router is not round_robin and engines > 1
        in_blocks = independent and not by_load
        return FleetRules(
            router_rule=-1 if rule is None else rule, by_load=by_load, stops=False,
            shared_state=bool(self.shared), in_blocks=in_blocks, undisturbed=not (changing or self.pools.decode),
            other_events=True if self.warmup or self.stop or not in_blocks else None,
            staged=staged, reports_leaving=self.swapped,
            clients=0 if in_blocks else self.stream.closed_loop or 0, transfers=None,
        )  # fmt: skip

    def _check_independent(self) -> None:
        """Refuse what makes replicas depend on each other: such replicas cannot be simulated separately."""
        stream, pools, first = self.stream, self.pools, self.first
        found = {
            "--autoscale": self.scaled, "failures": self.asked.fleet.faults, "adapters that wait for slots": self.swapped,
            "two pools": pools.decode, "--encoder": pools.parts.get("encoder"), "sessions": first is not None and first.turns,
            "--closed-loop": stream.closed_loop, "classes": stream.classes, "--warmup": self.warmup,
            "--stop": self.stop, "--steps": self.asked.steps, "caches that they share": self.shared,
        }  # fmt: skip
        for what, there in found.items():
            if there:
                raise InputError(GROUPS, f"cannot be combined with {what}: replicas then wait for each other")

    def _nodes(
        self, deployments: Sequence[Deployment], here: range, policy: Policy, cache: CacheSettings | None,
        before: int = 0, alone: bool = False,
    ) -> list[Node]:  # fmt: skip
        """Return the local nodes of one pool, numbered after `before`; nodes of one deployment are lowered once."""
        out, asked = list[Node](), self.asked
        for number in here:
            d, index = deployments[number], before + number
            rules, given = policy, dict(self.shared)
            for name, hook in hooks_by_name("queues"):
                rules, queues = hook(rules, d, self.first, self.stream, alone)
                given |= {} if queues is None else {name: queues}
            clone = out[0].engine if out and d is deployments[here.start] else None
            engine = Engine(
                d, rules, index, asked.keep_log, cache or CacheSettings(), asked.steps > 0, asked.seed, asked.steps, given,
                clone, len(deployments),
            )  # fmt: skip
            out.append(Node(before + len(out), engine))
        return out

    def _stages(self, bounded: bool) -> list[Callable[[RequestBlock], None]]:
        """Build the stages before the router (admission, images, adapters), and return the readers of request blocks."""
        pools, assigner, clock = self.pools, self.assigner, self.clock
        hooks = ((PARTS[name].hook("read"), state) for name, state in self.states.items())
        readers: list[Callable[[RequestBlock], None]] = [partial(h, state) for h, state in hooks if h is not None]
        if bounded:
            assigner.door = next(all_hooks("door"))(self.stream, clock, self.table)
        for name in self.parts:
            hook = PARTS[name].hook("stage")
            made = hook and hook(clock, assigner, pools, self.asked.seed)
            if made is not None:
                self.states[name], reader = made
                readers.append(reader)
        return readers

    def _tell(self, progress: Progress) -> None:
        """Report the progress of the simulation."""
        now = max(node.engine.now for node in self.clock.all)
        progress(self.clock.completed, self.table.count, now)

    def run(self, seed: int, progress: Progress | None) -> RunState:
        """Simulate until the last completion and return the results."""
        if progress is not None:
            self.clock.report = now_and_then(lambda: self._tell(progress))
        self.begin(seed)
        self.run_events()
        if progress is not None:  # the rate limit of reports may have skipped the last one
            self._tell(progress)
        return self.end()

    def begin(self, seed: int) -> None:
        """Schedule the initial events."""
        self._aim()
        for part in reversed(self.does):  # of simultaneous events, the one scheduled first is first
            part.start(seed)

    def end(self) -> RunState:
        """Collect the results, with the last requests taken over from their engines."""
        nodes, taken = self.clock.all, []
        for node in nodes if self.one or not self.ended else ():  # a fleet ended at `stop` drops later results
            places, rows = node.untaken()
            self.table.take_over_all(node.engine, places, rows)
            taken.append(rows)
        return self._served(None if self.drain is None else self.drain.end(taken))

    def run_events(self) -> None:
        """Process all events and calls of the clock; idle engines wait until there is nothing else."""
        clock, at = self.clock, self.clock.at
        status: int = Status.LOG_FULL
        acts: dict[int, Callable[[], object]] = {
            BLOCK: self.arrivals.next_block, NOTE: lambda: self._note(float(at.noted)), CHOOSE: self.assigner.choose,
            ROOM: lambda: clock.make_room(clock.all[at.into]), GIVE: self.assigner.give,
            LOST: lambda: self.assigner.put_back([int(at.row)], float(at.then)), CALL: clock.call, LEAVE: self._leave,
            PASS: lambda: self.assigner.arrive(int(at.row), float(self.table.arrival_s[at.row])),
            Status.LOG_FULL: lambda: clock.empty_log(Status.LOG_FULL), Status.STUCK: lambda: clock.empty_log(Status.STUCK), RESTS: clock.set_aside,
        }  # fmt: skip
        while status != Status.REACHED and not self.ended:
            clock.refresh()
            status = run_events(clock.play, clock.rules)
            if status == Status.STUCK and clock.rests:
                return
            if status != Status.REACHED:
                acts[status]()
            if clock.report is not None:
                clock.report()

    def _leave(self) -> None:
        """Free the adapter slot of a request that has completed."""
        node = self.clock.all[self.clock.at.node]
        assert node.cache_state is not None
        node.cache_state.done(int(self.clock.at.row), node.clock)

    def _served(self, drained: Drained | None) -> RunState:
        nodes, clock = self.clock.all, self.clock
        clock.take_logs()
        for node in nodes:
            node.engine.take_log(Status.REACHED)
        for node in nodes:
            for part in node.engine.does.values():
                self.table.refused += part.refused(node.engine)
        return RunState(
            [node.engine for node in nodes], self.table, clock.completed, self.warm_s,
            sum(part.failures for part in self.does), self.assigner.restarts.total(), self.pools, nodes, self.policy,
            self._counted(), drained=drained, **{k: v for part in self.does for k, v in part.left().items()},
        )  # fmt: skip

    def _counted(self) -> dict[str, Any]:
        """Return the active parts, each with its state or its counts."""
        moves = self._moves()
        return {**dict.fromkeys(self.parts), **self.states, **({"two-pools": moves} if moves else {})}

    def _moves(self) -> Moves | None:
        """Return the KV transfers between the pools; None without two pools."""
        between, at = self.clock.rules.transfers, self.clock.at
        if between is None:
            return None
        start_s, end_s = between.stamps[: self.table.count].T.copy()
        return Moves(start_s, end_s, float(at.moved), int(at.moves))

    def _note(self, now: float) -> None:
        """End the warm-up or the run if enough requests have completed."""
        completed = self.clock.completed
        if 0 < self.warmup <= completed:
            self.warmup, self.warm_s = 0, now
            for node in self.clock.all:
                node.engine.end_warmup()
        if 0 < self.stop <= completed:
            self.ended = True
        self._aim()

    def _goal(self) -> int:
        """Return the number of completions at which the warm-up or the run ends; 0: none."""
        return min((goal for goal in (self.warmup, self.stop) if goal > 0), default=0)

    def _aim(self) -> None:
        """Make engines stop at completions that are counted or affect others."""
        clock, goal = self.clock, self._goal()
        clock.rules = rules = clock.rules._replace(stops=self.always or goal > 0)
        clock.at.goal = goal
        clock.play.fleet.turn[0].ahead = rules.undisturbed and not (rules.in_blocks or rules.shared_state or goal)
