"""Arrival and assignment in Python: the stream of requests, stages before the router, user-defined routers, and engines that compiled code cannot fill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock
from ..results.table import RequestTable
from .assignment import ARRIVALS
from .clock import Clock
from .events import SENDING
from .groups import Cut
from .nodes import Node
from .routers import Load, Route

MAX_RESTARTS = 100
"""Largest number of failures that one request may meet. If replicas fail more often than they complete a
request, no request ever ends. If the mean time between failures equals the service time, a request completes before
a failure with probability 1/e, and meets 100 failures in a row with probability 1e-20."""


def check_restarts(request: int, failures: int) -> None:
    """Refuse a run in which a request is lost to failures again and again."""
    if failures > MAX_RESTARTS:
        raise InputError(
            "--mtbf",
            f"request {request} was requeued by {MAX_RESTARTS} failures; replicas fail faster than "
            "they serve, so give a longer time between failures",
        )


@dataclass(slots=True)
class Assigner:
    """Assigns requests to nodes if compiled code needs Python for it."""

    table: RequestTable
    clock: Clock
    route: Route  # chooses a node
    # stage before the router: takes a row and the time [s]
    entrance: Callable[[int, float], None] | None = None
    # called with each request that has been submitted to a node
    told: Callable[[Node, int], None] | None = None
    # admission control, whether an arriving request is accepted: takes a row and the time [s]
    door: Callable[[int, float], bool] | None = None
    # number of failures that have requeued each request
    restarts: Counter[int] = field(default_factory=Counter)

    def arrive(self, row: int, now: float) -> None:
        """Accept or reject a request that arrives now, and pass it to the stage before the router if there is one."""
        if self.door is not None and not self.door(row, now):
            self.table.refused.append(row)
            self.clock.at.refused += 1
            return
        (self.entrance or self.clock.admit)(row, now)

    def put_back(self, rows: Sequence[int], now: float) -> None:
        """Requeue requests lost to a failure in front of all others, in order of arrival.

        Raises
        ------
        InputError
            More than `MAX_RESTARTS` failures have requeued a request.
        """
        arrival, ids = self.table.arrival_s, self.table.id
        for row in rows:
            self.restarts[row] += 1
            check_restarts(int(ids[row]), self.restarts[row])
        for row in sorted(rows, key=lambda i: (arrival[i], i), reverse=True):
            self.clock.put_back(row)
        self.clock.at.then = now

    def choose(self) -> None:
        """Call a user-defined router to choose among the nodes that accept requests."""
        at, loads = self.clock.at, self.clock.play.loads
        seen = tuple(Load(*row) for row in loads[: at.found].tolist())
        caches = at.phase == SENDING
        home = None if at.home < 0 else int(at.home)
        at.chosen = self.route(int(at.sent if caches else at.dealt), seen, home)

    def give(self) -> None:
        """Submit the request to the node that the router has chosen."""
        at = self.clock.at
        row, node = int(at.row), self.clock.all[at.into]
        now = max(float(self.table.arrival_s[row]), float(at.then))
        self.submit(node, row, now, int(at.cached))
        at.into = -1

    def submit(self, node: Node, row: int, now: float, cached: int) -> None:
        """Submit a request to a node, which queues it once its adapter is loaded."""
        node.held_tokens += int(self.table.input_tokens[row])
        if node.cache_state is None:
            self.queue(node, row, now, cached)
        else:
            node.cache_state.ask(row, now, cached)

    def queue(self, node: Node, row: int, now: float, cached: int) -> None:
        """Queue a request on a node; a prefill node of two pools generates only the next token."""
        table = self.table
        generated = int(table.generated[row])
        last = generated + 1
        if not self.clock.decode or cached:
            last = int(table.output_tokens[row])
        stamps = float(table.first_s[row]), float(table.last_s[row])
        place = node.engine.resume(table.single(row, now, last), generated, cached, *stamps)
        node.engine.state.requests.row[place] = row
        if self.told is not None:
            self.told(node, row)
        node.wake()

    def deal_block(self, block: RequestBlock, rows: range) -> None:
        """Assign future requests round-robin to all entry nodes."""
        entry, at = self.clock.entry, self.clock.at
        number = np.arange(rows.start, rows.stop)
        for i, node in enumerate(entry):
            mine = slice((i - int(at.dealt)) % len(entry), None, len(entry))
            have = node.engine.submitted
            node.engine.add(block.take(mine) if len(entry) > 1 else block)
            node.engine.state.requests.row[have : node.engine.submitted] = number[mine]
            if not node.engine.done:
                node.wake()
        at.dealt += len(rows)


MOST_KEPT = 20_000_000
"""Most requests that a run may keep: at about 0.47 GB per million, the memory of a large machine."""


def check_kept(count: int) -> None:
    """Refuse more requests than memory can hold if all are kept."""
    if count > MOST_KEPT:
        text = f"must be at most {MOST_KEPT:,} because all are kept in memory (docs/clusters.md names options that keep fewer)"
        raise InputError("--requests", text)


@dataclass(slots=True)
class Arrivals:
    """Reader of a request stream, which lets its requests arrive at their times."""

    table: RequestTable
    assigner: Assigner
    clock: Clock
    blocks: Iterator[RequestBlock]  # the stream
    clients: int | None  # of a closed loop
    # whether a failure may requeue a request, whose prompt and generated tokens are then computed again
    again: bool = False
    # functions that read further data of a block's requests
    readers: Sequence[Callable[[RequestBlock], None]] = ()
    # releases completed requests before each block: takes the number of known requests, returns whether it releases any
    drain: Callable[[int], bool] | None = None
    cut: Cut = field(default_factory=Cut)  # the simulated group of replicas
    replicas: int = 1  # in all groups
    known: int = 0  # requests of the stream so far, including those of other groups
    _ahead: RequestBlock | None = field(init=False)  # the next block

    def __post_init__(self) -> None:
        self._ahead = next(self.blocks, None)

    def _own(self, block: RequestBlock) -> RequestBlock:
        """Return the requests of the stream's next block that belong to this group of replicas."""
        if self.drain is None or not self.drain(self.known):
            check_kept(self.known + len(block))
        rows = self.cut.part(block, self.known, self.replicas)
        self.known += len(block)
        return rows

    def next_block(self) -> None:
        """Read the next block of requests.

        Blocks that are assigned as a whole are assigned before their requests arrive; engines queue each request at its
        arrival, and no router reads the nodes before the next block.
        """
        at, block = self.clock.at, self._ahead
        if block is None:
            at.over, at.awake = 1, 0
            return
        self._ahead = next(self.blocks, None)
        self.take(block)
        if self.clock.rules.in_blocks:
            at.awake = self._ahead is None
            if self._ahead is not None:
                self.clock.push(max(float(self._ahead.arrival_s[0]) - self.clock.now, 0.0), ARRIVALS)

    def take(self, block: RequestBlock) -> None:
        """Read the stream's next block, and assign it if blocks are assigned as a whole."""
        rows_own = self._own(block)
        rows = self.read(rows_own)
        self.clock.read(rows, rows_own)
        if self.clock.rules.in_blocks:
            self.assigner.deal_block(rows_own, rows)

    def read(self, block: RequestBlock) -> range:
        """Add a block to the request table; refuse requests that exceed a node's capacity."""
        nodes = self.clock
        first = nodes.entry[0].engine
        if nodes.decode and not self.again:  # a prefill node stores a request's prompt and one token
            first.check(replace(block, output_tokens=np.ones_like(block.output_tokens)))
        else:
            first.check(block)
        for node in nodes.decode[:1]:
            node.engine.check(block)
        longest = int((block.input_tokens + block.output_tokens).max(initial=0))
        for node in nodes.all:
            node.engine.widen(longest)
            node.stale.add(node.index)
        if self.clients is not None and block.turns is not None and block.turns.after is not None:
            reason = "cannot be combined with calls that wait for several others (after)"
            raise InputError("--closed-loop", reason)
        for read in self.readers:
            read(block)
        return self.table.append(block)
