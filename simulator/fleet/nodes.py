"""The nodes of a run: each has an engine and the state that the clock keeps of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...workloads.jit import plainly
from ...workloads.pages import give_back, runs
from ...workloads.records import records
from ..engine.engine import Engine
from ..engine.state import I8, Face
from .advance import ASKED, OWN
from .assignment import load_of
from .routers import Load

FEWEST = 64
"""Minimum number of adjacent rows whose memory is released; they span at least two memory pages."""


class Known:
    """Descriptor: a field of the record `advance.OWN` as an attribute of its node."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, node: Node | None, kind: type) -> Any:
        return self.name if node is None else node.own[self.name].item()

    def __set__(self, node: Node, value: float) -> None:
        node.own[self.name] = value


@dataclass(slots=True)
class Node:
    """One engine with the state that the clock keeps of it."""

    index: int  # its number among the nodes; entry nodes come first
    engine: Engine
    cache_state: Any = None  # lets requests wait before they are queued: `ask`, `done`, `lose`
    asked: dict[int, int] = field(default_factory=dict)  # requests that wait there
    low: int = 0  # all rows of the engine's state below this one have been released, see `draining`
    own: Any = field(default_factory=lambda: records(1, OWN)[0])
    # nodes whose engine's state may have been replaced, see `clock`
    stale: set[int] = field(default_factory=set)

    up, ready, life, earlier, inbound = map(Known, ("up", "ready", "life", "earlier", "inbound"))
    delivered, gone, held_tokens, forget = map(Known, ("delivered", "gone", "held_tokens", "forget"))
    queued, halted, failing, given = map(Known, ("queued", "halted", "failing", "given"))
    changed, promised, capacity, sent_s, busy_s = map(Known, ("changed", "promised", "capacity", "sent_s", "busy_s"))
    clock = Known("clock")

    def join(self, record: Any, stale: set[int]) -> None:
        """Connect the node to its record in the clock's arrays."""
        self.own, self.stale = record, stale
        self.capacity = self.engine.kv.capacity * self.engine.deployment.ranks

    @property
    def lanes(self) -> int:
        """Return the number of devices of a rank, each of which has a port for KV transfers."""
        layout = self.engine.deployment.layout
        return layout.tp * layout.pp

    def load(self, now: float) -> Load:
        """Return the waiting requests, as of the step in progress, and other unfinished ones."""
        self.own["asked"] = len(self.asked)
        waiting, running = plainly(load_of)(self.face, self.own, now)
        return Load(int(waiting), int(running), self.held_tokens)

    @property
    def face(self) -> Face:
        """Return the part of the engine's state that compiled code outside the engine can read."""
        st = self.engine.state
        face = Face(st.requests, st.ranks, st.counters, st.clocks, st.log, np.zeros((1, 1, 2)), np.zeros(1))
        for part in self.engine.does.values():
            face = part.face(self.engine, face)
        return face

    def wake(self) -> None:
        """Mark the node to be scheduled if it has work."""
        self.stale.add(self.index)
        self.changed = self.changed or ASKED
        if not self.queued and not self.halted:
            self.queued = ASKED

    @property
    def remembers(self) -> int:
        """Return the tokens that the prefix cache and its lower tiers can hold; 0 without prefix caching."""
        kv = self.engine.kv
        tokens = kv.blocks * kv.block * self.engine.deployment.ranks if kv.cached else 0
        return int(tokens + sum(part.room for part in self.engine.does.values()) * kv.block)

    def fail(self, now: float) -> None:
        """Lose all requests and caches of the node at time `now`."""
        self.earlier += self.engine.completed
        if self.engine.submitted:
            self.engine.fail(now)
        self.stale.add(self.index)
        self.life, self.clock, self.forget = self.life + 1, now, 1
        self.promised = self.inbound = self.delivered = self.gone = self.held_tokens = 0
        if self.cache_state is not None:
            self.cache_state.lose()

    @property
    def live(self) -> int:
        """Return the number of requests whose completion has not been processed."""
        return self.engine.submitted - int(self.delivered) + len(self.asked)

    def untaken(self) -> tuple[I8, I8]:
        """Return rows of the engine's state whose results are not in the table yet, and their request numbers."""
        rows = self.engine.state.requests[self.low : self.engine.submitted]
        places = np.flatnonzero((rows.row >= 0) & (rows.output > 0))
        return places + self.low, rows.row[places]

    def newly_done(self) -> list[int]:
        """Return the rows of requests that have completed since the last call, in order."""
        ended, requests = self.engine.completed, self.engine.state.requests
        places: list[int] = requests.done[self.delivered : ended].tolist()
        self.delivered = ended
        return places

    def let_go(self, places: I8, looked_at: bool) -> None:
        """Release completed rows of the engine's state, but only rows that no router will read.

        An unfinished request keeps only the memory page of its row, not all later rows.
        """
        state, low = self.engine.state, self.low
        seen = self.gone if looked_at else self.delivered
        state.requests.row[places] = -1
        rows = state.requests[low:seen]  # completions of later rows are not recorded yet
        live = (rows.row >= 0) & (rows.output > 0)
        most = state.running.shape[1] // 3
        for rank, late in zip(state.running, state.ranks.late, strict=True):
            # These sequences have ended, but their KV memory is not free yet.
            live[[i - low for i in rank[most : most + late] if low <= i < seen]] = True
        live[[i - low for i in state.requests.done[seen : self.delivered] if low <= i < seen]] = True
        # Released memory reads as 0, also for a row on two pages of which only one is released.
        rows.output[~live & (rows.output > 0)] = -1
        gone = [(low + first, low + last) for first, last in runs(rows.output < 0) if last - first >= FEWEST]
        self.low = state.counters[0].low = low + int(live.argmax()) if live.any() else max(seen, low)
        for first, last in (*gone, (max(low - FEWEST, 0), self.low)):  # and all rows below `low`
            give_back(state.requests, first, last)
