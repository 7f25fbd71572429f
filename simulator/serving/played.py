"""Requests of sessions, and choices of the library's routers, played in one compiled call: `batching.play`.

It does what the driver's parts do on SimPy, event by event, for replicas of one kind that neither fail nor come
and go, and requests that pass nothing on their way to them. Other runs, and routers of others, play on SimPy.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np

from ..batching.heap import new_heap
from ..batching.loop import REACHED
from ..batching.play import (
    A_AWAKE,
    A_DEALT,
    A_DELIVERED,
    A_FULL,
    A_GOAL,
    A_LAST,
    A_TO_COME,
    BLOCK,
    NOTE,
    NUM_AT,
    NUM_OWN,
    O_DELIVERED,
    ROOM,
    T_NOTED,
    Play,
    Rows,
    play,
)
from ..batching.recall import NUM_SLOT, P_PIECE, Recall, new_recall
from ..batching.route_rules import NUM_LOAD
from ..batching.state import I8, roomier
from ..batching.tier_state import roomier_rows
from .arrivals import Arrivals
from .engine import Engine
from .nodes import Nodes
from .routers import compiled_rule
from .table import Table


def _more(have: I8, size: int, fill: int) -> I8:
    """An array with more rows at its end."""
    new = np.full((size, *have.shape[1:]), fill, dtype=np.int64)
    new[: len(have)] = have
    return new


def _double(engine: Engine) -> None:
    """Make room for twice as many requests in an engine's state."""
    size, have = max(2 * len(engine.state.ints), 1024), engine.submitted
    state = roomier(engine.state, size)
    pool = state.pool
    if pool is not None and pool.tiers is not None:
        tiers = roomier_rows(pool.tiers, have, size)
        state = state._replace(pool=pool._replace(tiers=tiers))
    engine.state = state


@dataclass(slots=True)
class Played:
    """A run that is played so."""

    nodes: Nodes  # those of the driver
    table: Table
    arrivals: Arrivals
    rule: int  # of its router
    play: Play = field(init=False)
    _numbers: dict[Hashable, int] = field(default_factory=dict)  # of a trace's hashes
    _starts: I8 = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    _hashes: I8 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, nodes: Nodes, table: Table, arrivals: Arrivals) -> Played | None:
        """None where the router, or the nodes, cannot be played so."""
        rule = compiled_rule(arrivals.dealer.route)
        if rule is None or nodes.together is None:
            return None
        return cls(nodes, table, arrivals, rule)

    def __post_init__(self) -> None:
        together = self.nodes.together
        assert together is not None
        none, count = np.zeros(0, dtype=np.int64), len(self.nodes.all)
        recall = new_recall([node.remembers for node in self.nodes.all], 0)
        self.play = Play(
            together.fleet, self._rows(), np.zeros((count, 0), np.int64), np.zeros((count, NUM_OWN), np.int64),
            np.zeros((count, NUM_LOAD), np.int64), new_heap(1), none, none.reshape(0, 2), none,
            np.zeros(NUM_AT, np.int64), np.zeros(2), recall,
        )  # fmt: skip

    def _rows(self) -> Rows:
        """Columns of the table as they are now."""
        t = self.table
        return Rows(
            t.input_tokens, t.output_tokens, t.generated, t.preemptions, t.order, t.arrival_s,
            t.scheduled_s, t.first_s, t.last_s, t.follows, t.session, t.think_s,
            self._starts if t.hash_ids else np.zeros(0, dtype=np.int64),
        )  # fmt: skip

    def run(self, note: Callable[[int, float], bool], goal: Callable[[], int]) -> None:
        """Play until the end.

        Parameters
        ----------
        note : callable
            Told how many completions have had their effects, and when; whether the run goes on.
        goal : callable
            How many it is to be told of next; 0: none.
        """
        at, nodes = self.play.at, self.nodes
        together = nodes.together
        assert together is not None
        at[A_AWAKE], at[A_GOAL], status, going = 1, goal(), BLOCK, True
        while going and status != REACHED:
            if status == BLOCK:
                self._read()
            elif status == ROOM:
                self._make_room(int(at[A_FULL]))
            elif status == NOTE:
                going = note(int(at[A_DELIVERED]), float(self.play.times[T_NOTED]))
                at[A_GOAL] = goal()
            else:
                together.emptied(status)
            if going:
                like = together.refresh()
                status = play(self.play, like, self.rule, nodes.stops, nodes.level)
            if nodes.report is not None:
                nodes.report()
        self._end()

    def _read(self) -> None:
        """Take in the next requests."""
        at, table = self.play.at, self.table
        block = next(self.arrivals.blocks, None)
        if block is None:
            self.arrivals.exhausted, at[A_AWAKE] = True, 0
            return
        rows = self.arrivals.read(block)
        at[A_LAST] = rows.stop
        told, room = bool(table.hash_ids), len(table.id)
        if told:
            self._name(rows)
        p, wide = self.play, len(self.play.gate) < room
        recall = self._remember(p.recall, rows) if self.arrivals.dealer.prefixes else p.recall
        self.play = p = p._replace(rows=self._rows(), recall=recall)
        if wide:
            events = room + len(self.nodes.all) + 1
            self.play = p._replace(
                gate=_more(p.gate, room, 0), after=_more(p.after, room, -1),
                homes=_more(p.homes, room, -1), events=new_heap(events, p.events),
            )  # fmt: skip

    def _name(self, rows: range) -> None:
        """Number a trace's hashes; engines find those of all requests in one array."""
        numbers, table, piece = self._numbers, self.table, self.table.hash_tokens
        told = table.hash_ids[rows.start : rows.stop]
        new = [numbers.setdefault(h, len(numbers)) for own in told for h in own]
        ends = self._starts[-1] + np.cumsum([len(own) for own in told], dtype=np.int64)
        self._starts = np.concatenate([self._starts, ends])
        self._hashes = np.concatenate([self._hashes, np.array(new, dtype=np.int64)])
        for node in self.nodes.all:
            state = node.engine.state
            if state.pool is not None:
                pool = state.pool._replace(hashes=self._hashes, piece=piece)
                node.engine.state = state._replace(pool=pool)
                node.stale.add(node.index)

    def _remember(self, recall: Recall, rows: range) -> Recall:
        """Slots for the pieces of requests that have been read."""
        table = self.table
        if table.hash_ids:
            starts, pieces = self._starts, self._hashes
        elif len(table.session):
            starts, pieces = np.arange(rows.stop + 1), table.session[: rows.stop]
        else:
            starts, pieces = np.zeros(rows.stop + 1, dtype=np.int64), self._hashes
        have, size = len(recall.slots), len(pieces)
        slots = np.full((size, NUM_SLOT), -1, dtype=np.int64)
        slots[:have], slots[have:, P_PIECE] = recall.slots, pieces[have:]
        known = int(slots[:, P_PIECE].max(initial=-1)) + 1
        return recall._replace(
            starts=starts, slots=slots, first=_more(recall.first, known, -1),
            piece=table.hash_tokens if table.hash_ids else 0,
        )  # fmt: skip

    def _make_room(self, n: int) -> None:
        """Let an engine have room for more requests."""
        engine, places = self.nodes.all[n].engine, self.play.places
        if engine.submitted >= len(engine.state.ints):
            _double(engine)
            self.nodes.all[n].stale.add(n)
        if engine.submitted >= places.shape[1]:
            wider = np.zeros((len(places), max(2 * places.shape[1], 1024)), dtype=np.int64)
            wider[:, : places.shape[1]] = places
            self.play = self.play._replace(places=wider)

    def _end(self) -> None:
        """Leave all as the driver's parts would."""
        p = self.play
        for n, node in enumerate(self.nodes.all):
            node.rows.frombytes(p.places[n, : node.engine.submitted].tobytes())
            node.delivered = int(p.own[n, O_DELIVERED])
        self.arrivals.dealer.dealt = int(p.at[A_DEALT])
        self.arrivals.sessions.to_come = int(p.at[A_TO_COME])
