"""A run's engines, and what its clock knows of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..batching import state as col
from ..batching.lanes import M_SPREAD
from ..batching.level import ASKED, OWN
from ..batching.state import I8
from .adapters import Shelf
from .engine import Engine
from .pages import give_back
from .routers import Load


class Known:
    """A field of `level.OWN`, as an attribute of its node."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, node: Node | None, kind: type) -> Any:
        return self.name if node is None else node.own[self.name].item()

    def __set__(self, node: Node, value: float) -> None:
        node.own[self.name] = value


@dataclass(slots=True)
class Node:
    """One engine with what the clock knows of it."""

    index: int  # its number among the nodes; entry nodes come first
    engine: Engine
    shelf: Shelf | None = None  # slots for adapters, where not all fit
    asked: dict[int, int] = field(default_factory=dict)  # see `Shelf`
    apart: int = 0  # most that the counters of two tenants differed by before its latest failure
    low: int = 0  # rows of the engine's state below which all have been let go, see `draining`
    own: Any = field(default_factory=lambda: np.zeros(1, OWN)[0])
    # nodes whose engine's state may have been replaced, see `clock`
    stale: set[int] = field(default_factory=set)

    up, ready, life, earlier, inbound = map(Known, ("up", "ready", "life", "earlier", "inbound"))
    delivered, gone, held_tokens, forget = map(Known, ("delivered", "gone", "held_tokens", "forget"))
    queued, halted, failing, given = map(Known, ("queued", "halted", "failing", "given"))
    promised, capacity, sent_s, busy_s = map(Known, ("promised", "capacity", "sent_s", "busy_s"))
    clock = Known("clock")

    def join(self, own: Any, stale: set[int]) -> None:
        """Let a clock know of it."""
        self.own, self.stale = own, stale
        self.capacity = self.engine.kv.capacity * self.engine.deployment.ranks

    @property
    def lanes(self) -> int:
        """Devices of a rank, each with a port of its own."""
        layout = self.engine.deployment.layout
        return layout.tp * layout.pp

    def load(self, now: float) -> Load:
        """Requests that wait, as of the step in progress, and others that have not come back."""
        state, counters = self.engine.state, self.engine.state.counters
        ended, gone = self.engine.completed, self.gone
        while gone < ended and state.floats[state.ints[gone, col.I_DONE], col.F_LAST] <= now:
            self.held_tokens -= state.ints[state.ints[gone, col.I_DONE], col.I_INPUT]
            gone += 1
        self.gone = gone
        submitted = int(counters[col.C_SUBMITTED]) + len(self.asked)
        waiting = submitted - int(counters[col.C_RELEASED]) + sum(state.ranks[:, col.R_WAITING].tolist())
        return Load(waiting, submitted - gone - waiting, self.held_tokens)

    def wake(self) -> None:
        """Let it run if it has something to do."""
        self.stale.add(self.index)
        if not self.queued and not self.halted:
            self.queued = ASKED

    @property
    def remembers(self) -> int:
        """Tokens that its cache, and what is below it, can hold; 0 where it finds nothing again."""
        kv = self.engine.kv
        tokens = kv.blocks * kv.block * self.engine.deployment.ranks if kv.cached else 0
        if self.engine.below is not None:
            tokens += self.engine.below.room * kv.block
        return int(tokens)

    def fail(self, now: float) -> None:
        """Lose all that is here."""
        self.earlier += self.engine.completed
        self.apart = self.apart_now()
        if self.engine.submitted:
            self.engine.fail(now)
        self.stale.add(self.index)
        self.life, self.clock, self.forget = self.life + 1, now, 1
        self.promised = self.inbound = self.delivered = self.gone = self.held_tokens = 0
        if self.shelf is not None:
            self.shelf.lose()

    def apart_now(self) -> int:
        """Most that the virtual counters of two tenants in its queue have differed by."""
        lanes = self.engine.state.lanes
        return self.apart if lanes is None else max(self.apart, int(lanes.marks[M_SPREAD]))

    @property
    def live(self) -> int:
        """Requests here whose completion has not been delivered."""
        return self.engine.submitted - int(self.delivered) + len(self.asked)

    def untaken(self) -> tuple[I8, I8]:
        """Rows of the engine's state that have not been taken over, and their requests."""
        rows = self.engine.state.ints[self.low : self.engine.submitted, col.I_ROW].copy()
        places = np.flatnonzero(rows >= 0)
        return places + self.low, rows[places]

    def newly_done(self) -> list[int]:
        """Rows of the engine's state that have completed since the last call, in order."""
        ended, ints = self.engine.completed, self.engine.state.ints
        places: list[int] = ints[self.delivered : ended, col.I_DONE].tolist()
        self.delivered = ended
        return places

    def let_go(self, places: I8) -> None:
        """Let go of rows of the engine's state, as far as none before them is under way."""
        state, count = self.engine.state, self.engine.submitted
        state.ints[places, col.I_ROW] = -1
        going = state.ints[self.low : count, col.I_ROW] >= 0
        low = self.low + int(going.argmax()) if going.any() else count
        most = state.running.shape[1] // 3
        for rank, late in zip(state.running, state.ranks[:, col.R_LATE], strict=True):
            # What they hold is to be dropped.
            low = min(low, int(rank[most : most + late].min(initial=low)))
        for kept in (state.ints, state.floats):
            give_back(kept, self.low, low)
        self.low = state.counters[col.C_LOW] = max(low, self.low)
