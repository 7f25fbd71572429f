"""The clock of a run: its nodes and its events, which one compiled call processes (`fleet.events`).

Engines run up to the next time at which another could affect them: the next event, and, if completions have effects
elsewhere, the next completion on any engine. Timed calls of Python are made from here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...workloads.jit import plainly
from ...workloads.jit_address import address_of, code_of
from ...workloads.records import records
from ...workloads.requests import RequestBlock
from ..engine.engine import Engine
from ..engine.loop import EngineArrays, run
from ..engine.prefix import ALL_TOKENS
from ..engine.state import FEWEST_ROWS, I8, Face, roomier
from ..registry import all_hooks
from ..results.table import RequestTable
from .advance import new_fleet
from .assignment import AT, CALLED, KINDS, TRIP, Columns, FleetRules, RunEvents, Waits, take_in
from .heap import new_heap, new_line, push
from .nodes import Node
from .pools import KvLink
from .recall import Recall, new_recall, with_pieces
from .rings import Ring, new_ring, put_first, put_last, told
from .route_rules import LOAD, first_least


def roomy(have: Any, size: int, fill: float = 0) -> Any:
    """Return an array with room for `size` rows; it doubles if it is too small."""
    if len(have) >= size:
        return have
    new = np.full((max(size, 2 * len(have), 1024), *have.shape[1:]), fill, dtype=have.dtype)
    new[: len(have)] = have
    return new


def given_by_hand(engine: Engine) -> bool:
    """Return whether Python must submit an engine's requests, because they need more than rows of its arrays."""
    return bool(engine.policy.order) or any(part.by_hand(engine) for part in engine.does.values())


@dataclass(slots=True)
class Clock:
    """The nodes of a run on one clock, with the queue of events.

    Attributes
    ----------
    entry, decode : list of Node
        Nodes that requests arrive at, and those that go on after the first token.
    report : callable or None
        Called after compiled code has returned; prints progress.
    """

    table: RequestTable
    entry: list[Node]
    decode: list[Node]
    rules: FleetRules
    link: KvLink | None
    prefixes: bool = False  # whether the router uses how much of a prompt each node was sent before
    log_rows: int = 0  # rows of the log that all engines share
    report: Callable[[], None] | None = None
    all: list[Node] = field(init=False)  # entry nodes and decode nodes, in order of their index
    play: RunEvents = field(init=False)
    stale: set[int] = field(default_factory=set)  # nodes whose engine's state may have been replaced, see `refresh`
    calls: dict[int, Callable[[], None]] = field(default_factory=dict)
    _number: int = 0  # of calls so far
    _kept: dict[int, tuple[EngineArrays, Face]] = field(default_factory=dict)
    _codes: dict[Hashable, tuple[int, int]] = field(default_factory=dict)  # of `run` and `take_in`, by kind of engine
    _names: dict[Hashable, int] = field(default_factory=dict)  # numbers of a trace's hashes
    _starts: I8 = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    _hashes: I8 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        self.all = nodes = [*self.entry, *self.decode]
        first, face = len(self.entry), nodes[0].face
        count, none = len(nodes), np.zeros(0, dtype=np.int64)
        columns = 1 + max(node.engine.state.log.shape[1] for node in nodes)
        fleet = new_fleet(count, first, face, np.zeros((self.log_rows, columns)))
        recall = new_recall([node.remembers for node in nodes], 0)
        waits = Waits(none, none, none, none, none, none)
        self.play = RunEvents(
            fleet, self._rows(), fleet.own, np.arange(count),
            records(count, LOAD), first_least(count), new_line(count), new_heap(2 * count + 64), new_ring(1), new_ring(1), waits,
            none, records(1, AT), recall,
        )  # fmt: skip
        self.at.into = self.at.chosen = self.at.node = -1
        self.at.awake = 1
        for n, node in enumerate(nodes):
            node.join(fleet.own[n], self.stale)
            node.given = given_by_hand(node.engine)
        self.stale.update(range(count))
        if self.decode:
            self.rules = self.rules._replace(transfers=next(all_hooks("between"))(self))

    @property
    def at(self) -> Any:
        """Return the current state of progress; see `assignment.AT`."""
        return self.play.at[0]

    @property
    def now(self) -> float:
        """Return the time of the latest event [s]."""
        return float(self.at.now)

    @property
    def completed(self) -> int:
        """Return the number of completed requests; if completions have effects, only those that were processed."""
        if self.rules.stops:
            return int(self.at.delivered)
        return sum(node.earlier + node.engine.completed for node in self.all)

    @property
    def waiting(self) -> list[int]:
        """Return the requests that wait for assignment."""
        return told(self.play.gate)

    @property
    def parked(self) -> list[int]:
        """Return the requests whose KV caches wait for transfer to the decode pool."""
        return [] if self.rules.transfers is None else told(self.rules.transfers.ready)

    def call_at(self, at: float, call: Callable[[], None]) -> None:
        """Schedule a call at time `at` [s], which is not before now except for rounding."""
        self.call_after(max(at - self.now, 0.0), call)

    def call_after(self, delay: float, call: Callable[[], None]) -> None:
        """Schedule a call after `delay` seconds."""
        self._number += 1
        self.calls[self._number] = call
        self.push(delay, CALLED + KINDS * self._number)

    def push(self, delay: float, what: int) -> None:
        """Schedule an event after `delay` seconds."""
        self._make_room()
        plainly(push)(self.play.events, self.now + delay, int(self.at.events), what)
        self.at.events += 1

    def admit(self, row: int, now: float) -> None:
        """Queue a request for assignment, behind all others."""
        self.at.then = now
        plainly(put_last)(self.play.gate, row)

    def put_back(self, row: int) -> None:
        """Requeue a request that was lost to a failure in front of all others."""
        plainly(put_first)(self.play.gate, row)
        if self.rules.transfers is not None:
            self.rules.transfers.trips[row].again += 1

    def lose_parked(self, node: Node) -> list[int]:
        """Remove and return the requests whose caches wait for transfer on a node that fails."""
        if self.rules.transfers is None:
            return []
        b = self.rules.transfers
        rows = self.parked
        lost = [row for row in rows if b.trips[row].source == node.index]
        left = new_ring(len(b.ready.kept), [row for row in rows if row not in lost])
        self.rules = self.rules._replace(transfers=b._replace(ready=left))
        return lost

    def read(self, rows: range, block: RequestBlock) -> None:
        """Make requests of the table known to the compiled events."""
        self.at.last, p = rows.stop, self.play
        if self.rules.clients and not len(self.table.session):
            came = self.table.arrival_s[rows.start : rows.stop]
            came[came == 0.0] = np.inf  # unknown until a client sends the request
        if self.rules.in_blocks:
            self.at.next = rows.stop
            self.play = p._replace(rows=self._rows())
            return
        if self.table.hash_ids:
            self._name(rows)
        room, recall = len(self.table.id), p.recall
        if self.prefixes:
            recall = self._remember(recall, rows)
        chained = len(self.table.session) > 0
        self.play = p = p._replace(
            rows=self._rows(), recall=recall, gate=_wider(p.gate, room),
            door=_wider(p.door, room if self.rules.staged else 1),
            waits=self._waits(rows, block) if chained else p.waits,
            homes=roomy(p.homes, room, -1) if chained else p.homes,
        )  # fmt: skip
        if (b := self.rules.transfers) is not None:
            more, flows = b.trips, b.flows
            if len(more) < room:
                more, flows = records(room, TRIP, more), records(b.writers + room + 1, flows.dtype, flows)
            ready, stamps = _wider(b.ready, room), roomy(b.stamps, room, np.nan)
            self.rules = self.rules._replace(transfers=b._replace(ready=ready, trips=more, flows=flows, stamps=stamps))
        self._make_room()

    def refresh(self) -> None:
        """Update the addresses of engine states that have been replaced, for compiled code."""
        fleet, nodes = self.play.fleet, self.all
        for node in nodes if self.rules.reports_leaving else ():
            node.own["asked"] = len(node.asked)
        for n in self.stale:
            engine, (loop, face) = nodes[n].engine, self._kept.get(n, (None, None))
            if not nodes[n].given:
                self._tell_hashes(engine)
            if engine.loop is loop:
                continue
            loop = engine.loop
            fleet.loops[n] = address_of(loop)
            fleet.runs[n], fleet.takes[n] = self._codes_of(loop)
            if face is None or engine.state.requests is not face.requests:
                face = nodes[n].face
                fleet.faces[n] = address_of(face)
            self._kept[n] = loop, face
        self.stale.clear()

    def _codes_of(self, loop: EngineArrays) -> tuple[int, int]:
        """Return the addresses of the compiled functions that run an engine and that submit requests to it."""
        rows = self.play.rows, 0, 0.0, 0, 0
        return code_of(run, loop, 0.0, 0), code_of(take_in, loop, *rows) if self.rules.other_events else 0

    def _tell_hashes(self, engine: Engine) -> None:
        """Give an engine's block pool access to the prefix hashes of all requests."""
        pool = engine.state.pool
        if engine.named and len(self._hashes) and pool.hashes is not self._hashes:
            shared = ALL_TOKENS if self.table.shared_tokens is None else self.table.shared_tokens
            pool = pool._replace(hashes=self._hashes, piece=self.table.hash_tokens, shared=shared)
            engine.state = engine.state._replace(pool=pool)

    def call(self) -> None:
        """Make the Python call that is scheduled for now."""
        self.calls.pop(int(self.at.call))()

    def empty_log(self, status: int) -> None:
        """Process the full log of an engine; raise an error if no sequence can make progress."""
        self.take_logs()
        self.all[max(int(self.play.fleet.turn["node"][0]), 0)].engine.take_log(status)

    def take_logs(self) -> None:
        """Pass the rows of the common log to their engines."""
        turn = self.play.fleet.turn[0]
        log = self.play.fleet.log[: turn.logged]
        log = log[np.argsort(log[:, 0], kind="stable")]
        first = np.searchsorted(log[:, 0], np.arange(len(self.all) + 1)).tolist()
        for node, begin, end in zip(self.all, first, first[1:], strict=False):
            state = node.engine.state
            node.engine.take_rows(log[begin:end, 1 : 1 + state.log.shape[1]])
        turn.logged = 0

    @property
    def rests(self) -> bool:
        """Return whether engines stop before the first step that an unknown request might change, see `growing`."""
        return bool(self.play.fleet.turn[0].rests)

    def let_rest(self, rests: bool) -> None:
        """Set whether engines stop before the first step that an unknown request might change; schedule all engines."""
        self.play.fleet.turn[0].rests = int(rests)
        for node in self.all:
            node.wake()

    def set_aside(self) -> None:
        """Clear the engine that is chosen to run."""
        self.play.fleet.turn[0].node = -1

    def make_room(self, node: Node) -> None:
        """Enlarge an engine's request arrays to four times their size; unused rows cost addresses, not memory."""
        engine = node.engine
        engine.stock()
        size, have = 4 * max(len(engine.state.requests), FEWEST_ROWS), engine.submitted
        engine.state = roomier(engine.state, size)
        for part in engine.does.values():
            part.grow(engine, have, size)
        self.stale.add(node.index)

    def _make_room(self) -> None:
        """Enlarge the event queue for the events of all requests, and two for every node."""
        p = self.play
        request_events = len(self.table.id) if len(p.homes) or self.decode else 0
        needed = int(p.events.size[0]) + request_events + 2 * len(p.own) + 64
        if len(p.events.time) < needed:
            self.play = p._replace(events=new_heap(2 * needed, p.events))

    def _rows(self) -> Columns:
        """Return the current columns of the request table, as arrays for compiled code."""
        t = self.table
        return Columns(
            t.id, t.input_tokens, t.output_tokens, t.generated, t.preemptions, t.order, t.arrival_s,
            t.scheduled_s, t.first_s, t.last_s, t.session, t.think_s,
            self._starts if t.hash_ids else np.zeros(0, dtype=np.int64),
        )  # fmt: skip

    def _waits(self, rows: range, block: RequestBlock) -> Waits:
        """Add pairs of requests and the requests that they must follow."""
        turns, w = block.turns, self.play.waits
        assert turns is not None
        if turns.after is None:
            counts = (turns.follows >= 0).astype(np.int64)
            before = turns.follows[turns.follows >= 0]
        else:
            counts = np.array([len(own) for own in turns.after], dtype=np.int64)
            before = np.array([one for own in turns.after for one in own], dtype=np.int64)
        have = int(w.starts[rows.start]) if len(w.starts) else 0
        last, room = have + len(before), len(self.table.id)
        w = Waits(
            roomy(w.starts, room + 1), roomy(w.before, last), roomy(w.row, last), roomy(w.more, last, -1),
            roomy(w.first, room, -1), roomy(w.left, room),
        )  # fmt: skip
        w.row[have:last], w.before[have:last] = np.repeat(np.arange(rows.start, rows.stop), counts), before
        w.starts[rows.start + 1 : rows.stop + 1] = have + np.cumsum(counts)
        return w

    def _name(self, rows: range) -> None:
        """Number a trace's prefix hashes; engines find the hashes of all requests in one array."""
        names, table = self._names, self.table
        hashes = table.hash_ids[rows.start : rows.stop]
        new = [names.setdefault(h, len(names)) for own in hashes for h in own]
        have, self._starts = int(self._starts[rows.start]), roomy(self._starts, rows.stop + 1)
        self._starts[rows.start + 1 : rows.stop + 1] = have + np.cumsum([len(own) for own in hashes])
        self._hashes = roomy(self._hashes, have + len(new))
        self._hashes[have : have + len(new)] = new
        self.stale.update(range(len(self.all)))

    def _remember(self, recall: Recall, rows: range) -> Recall:
        """Add slots for the pieces of new prompts to the router's record of sent prompts."""
        table, starts = self.table, roomy(recall.starts, rows.stop + 1)
        if table.hash_ids:
            starts = self._starts
            pieces = self._hashes[starts[rows.start] : starts[rows.stop]]
        elif len(table.session):
            starts[rows.start : rows.stop + 1] = np.arange(rows.start, rows.stop + 1)
            pieces = table.session[rows.start : rows.stop]
        else:
            pieces = self._hashes
        return recall._replace(
            starts=starts, slots=with_pieces(recall.slots, int(starts[rows.start]), pieces),
            first=roomy(recall.first, int(pieces.max(initial=-1)) + 1, -1),
            piece=table.hash_tokens if table.hash_ids else 0,
            session_last=table.shared_tokens is not None and len(table.session) > 0,
        )  # fmt: skip


def _wider(ring: Ring, room: int) -> Ring:
    return ring if len(ring.kept) >= room else new_ring(room, told(ring))
