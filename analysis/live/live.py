"""Engines that get requests while they run, for clients outside the simulation.

The caller provides the time. Requests arrive at the present; engines run the steps that have begun by then, and a
step's tokens and their times are known when it begins. Times equal `driver.serve` with the same arrivals, plus the time
outside all steps (`Host.request_s`), as clients see them.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...simulator.deploy.deployment import Deployment
from ...simulator.engine.engine import Engine
from ...simulator.engine.kv import CacheSettings
from ...simulator.engine.policies import Policy
from ...simulator.fleet.nodes import Node
from ...simulator.fleet.pools import Pools
from ...simulator.fleet.routers import ROUTERS, Load, asks_prefix
from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock

I8 = npt.NDArray[np.int64]


class Tokens(NamedTuple):
    """Tokens that reach their clients at the same time.

    Attributes
    ----------
    due_s : float
        Time at which the clients receive them [s].
    requests : list of int
        Numbers of the requests, as `Live.submit` returned them.
    counts : list of int
        Number of tokens of each request.
    """

    due_s: float
    requests: list[int]
    counts: list[int]


class Gauges(NamedTuple):
    """Metrics of one engine: present requests, the used share of the KV cache, and counts since the start.

    Prompt tokens are those computed, again after a preemption too, and those found in the cache.
    """

    running: int
    waiting: int
    kv_used: float
    preemptions: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(slots=True)
class _Live:
    """One replica and its unfinished requests: their rows in the engine's state, their numbers, and tokens seen.

    `sent` has the blocks that the router sent there, the oldest first, as many as the cache holds: `fleet.recall`
    for requests without end, of which it would keep every piece.
    """

    node: Node
    sent: dict[Hashable, None] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    seen: I8 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def keep(self, content: tuple[Hashable, ...], tokens: int) -> None:
        """Mark a prompt's blocks as newest; the oldest are evicted."""
        for block in content:
            self.sent.pop(block, None)
            self.sent[block] = None
        while self.sent and len(self.sent) * tokens > self.node.remembers:
            del self.sent[next(iter(self.sent))]

    def step(self, until: float) -> None:
        """Run the next step, which must begin before `until`."""
        engine = self.node.engine
        engine.advance(min(until, float(np.nextafter(engine.ready, np.inf))))

    def new(self) -> list[tuple[float, int, int]]:
        """Return (time, number, count) of new tokens by request since the last call, and remove finished requests."""
        state = self.node.engine.state
        rows = np.array(self.rows, dtype=np.int64)
        have = state.requests.generated[rows]
        came = np.flatnonzero(have > self.seen)
        results = list(
            zip(
                state.requests.last[rows[came]].tolist(),
                [self.numbers[k] for k in came.tolist()],
                (have - self.seen)[came].tolist(),
                strict=True,
            )
        )
        self.seen = have
        going = have < state.requests.output[rows]
        if not going.all():
            left = np.flatnonzero(going).tolist()
            self.rows = [self.rows[k] for k in left]
            self.numbers = [self.numbers[k] for k in left]
            self.seen = have[going]
        return results


class Live:
    """Simulated replicas behind a router, which accept requests while they run.

    Parameters
    ----------
    pools : Pools
        Nodes that do everything; two pools are not supported.
    policy, cache
        See `driver.serve`.
    router : str
        A name in `ROUTERS`.

    Raises
    ------
    InputError
        Two pools.
    """

    def __init__(self, pools: Pools, policy: Policy, cache: CacheSettings, router: str = "round-robin") -> None:
        if pools.decode:
            raise InputError(pools.entry[0].system.name, "prefills and decodes in two pools; serve supports one")
        self.route, self.dealt, self.ended = ROUTERS[router], 0, False
        self._recalls = len(pools.entry) > 1 and asks_prefix(self.route)
        self.outside_s, self.block_tokens = policy.host.request_s, cache.block_tokens
        made = [_engine(d, i, policy, cache) for i, d in enumerate(pools.entry)]
        self.nodes = [_Live(Node(i, engine)) for i, engine in enumerate(made)]
        self._where: dict[int, tuple[_Live, int]] = {}
        self._due: list[tuple[float, int, Tokens]] = []
        self._order = count()

    @property
    def next_s(self) -> float:
        """Return the time of the next step or of the next delivery of tokens [s]; infinity if there is neither."""
        times = [n.node.engine.ready for n in self.nodes if not n.node.engine.done]
        return min([*times, *(entry[0] for entry in self._due[:1])], default=np.inf)

    def submit(self, now: float, input_tokens: int, output_tokens: int, content: tuple[Hashable, ...] = ()) -> int:
        """Submit a request to the replica that the router chooses; return the request's number.

        Parameters
        ----------
        now : float
            The current simulated time [s]; it must not decrease between calls.
        content : tuple
            Names of the prompt's leading blocks of `block_tokens` tokens; prompts with a common prefix have equal names.

        Raises
        ------
        CapacityError
            A request that could never fit.
        """
        self.advance(now)
        loads = [self._load(n, now, input_tokens, content) for n in self.nodes]
        live = self.nodes[self.route(self.dealt, loads, None)]
        if self._recalls:
            live.keep(content, self.block_tokens)
        number, engine = self.dealt, live.node.engine
        one = np.ones(1, dtype=np.int64)
        block = RequestBlock(
            number * one, np.array([now]), input_tokens * one, output_tokens * one,
            (content,) if content else None,  # type: ignore[arg-type]  # an engine only compares them
            hash_tokens=self.block_tokens,
        )  # fmt: skip
        engine.submit(block)
        live.node.held_tokens += input_tokens
        self.dealt += 1
        row = engine.submitted - 1
        live.rows.append(row)
        live.numbers.append(number)
        live.seen = np.append(live.seen, 0)
        self._where[number] = live, row
        return number

    def _load(self, live: _Live, now: float, tokens: int, content: tuple[Hashable, ...]) -> Load:
        """Return the router's view of a replica, with the prompt's tokens that it has received before."""
        if len(self.nodes) == 1:
            return Load(0, 0)
        load = live.node.load(now)
        if not self._recalls:
            return load
        blocks = sum(1 for _ in takewhile(live.sent.__contains__, content))
        prefix = min(blocks * self.block_tokens, tokens - 1)  # the last token is always computed
        capacity = len(live.sent) * self.block_tokens
        return replace(load, found=prefix, missing=tokens - prefix, kept=capacity)

    def cut(self, number: int) -> None:
        """End a request with its next token, because its client has left."""
        stream = self._where.get(number)
        if stream is None:
            return
        live, row = stream
        request = live.node.engine.state.requests[row]
        request.output = min(request.output, request.generated + 1)

    def advance(self, until: float) -> None:
        """Run every step that begins before `until`; none from when a signal handler has set `ended`."""
        for live in self.nodes:
            engine = live.node.engine
            while not engine.done and engine.ready < until and not self.ended:
                live.step(until)
                self._note(live.new())

    def _note(self, found: list[tuple[float, int, int]]) -> None:
        """Store new tokens, grouped by time, until they are due."""
        by_time: dict[float, Tokens] = {}
        for due, number, tokens in found:
            tokens_own = by_time.setdefault(due, Tokens(due + self.outside_s, [], []))
            tokens_own.requests.append(number)
            tokens_own.counts.append(tokens)
        for tokens_own in by_time.values():
            heapq.heappush(self._due, (tokens_own.due_s, next(self._order), tokens_own))

    def due(self, now: float) -> list[Tokens]:
        """Return the tokens that are due by now, in order; each is returned once."""
        out = []
        while self._due and self._due[0][0] <= now:
            out.append(heapq.heappop(self._due)[2])
        return out

    def cached_tokens(self, number: int) -> int:
        """Return the number of prompt tokens that a present request found in the prefix cache."""
        live, row = self._where[number]
        contents = live.node.engine.state.contents
        return int(contents[row].hits) if contents.size else 0

    def forget(self, number: int) -> None:
        """Remove the entry of a request that has ended or whose client has left."""
        self._where.pop(number, None)

    def gauges(self) -> list[Gauges]:
        """Return the metrics of every engine."""
        return [_gauges(live.node.engine) for live in self.nodes]


def _engine(deployment: Deployment, index: int, policy: Policy, cache: CacheSettings) -> Engine:
    """Return an engine with compiled code, because compilation must not delay the first request.

    Its plans are recorded, and forgotten, because its steps are then run one by one: of steps at once the engine knows
    only the end of the last one, and their tokens would reach a client together.
    """
    one = np.ones(1, dtype=np.int64)
    first = Engine(deployment, policy, index, cache=cache, keep_plans=True, most_plans=0)
    first.submit(RequestBlock(0 * one, np.zeros(1), one, 2 * one))
    first.advance(np.inf)
    return Engine(deployment, policy, index, cache=cache, keep_plans=True, most_plans=0)


def _gauges(engine: Engine) -> Gauges:
    state, counters = engine.state, engine.state.counters[0]
    running = int(state.ranks.running.sum())
    queued = int(counters.submitted - counters.released)
    return Gauges(
        running, queued + int(state.ranks.waiting.sum()),
        float(1.0 - state.free.min() / engine.kv.capacity), int(counters.preemptions),
        int(counters.prompt_tokens + counters.hits), int(counters.hits), int(counters.emitted),
    )  # fmt: skip
