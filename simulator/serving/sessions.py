"""Requests that come after others, on whatever node the router then chooses.

A single engine does the same by itself, see `batching.chains`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import simpy

from .calls import call_at
from .dealing import Dealer
from .table import Table


@dataclass(slots=True)
class Sessions:
    """Requests of sessions that wait for the end of the one before.

    Attributes
    ----------
    env : simpy.Environment
    table : Table
    dealer : Dealer
    to_come : int
        Requests that follow others and have not arrived.
    """

    env: simpy.Environment
    table: Table
    dealer: Dealer
    to_come: int = 0
    _following: dict[int, int] = field(default_factory=dict)

    def follow(self, row: int, before: int) -> bool:
        """Let a request come after another; whether that one has completed already."""
        self.to_come += 1
        table = self.table
        ended = bool(table.generated[before] == table.output_tokens[before])
        if ended:
            self._come_after(row, before)
        else:
            self._following[before] = row
        return ended

    def completed(self, row: int) -> bool:
        """Let what follows a completed request come; whether there is anything known to."""
        following = self._following.pop(row, None)
        if following is not None:
            self._come_after(following, row)
        return following is not None

    def _come_after(self, row: int, before: int) -> None:
        """A request arrives when its client has read the answer before and thought about it."""
        table = self.table
        ready = float(table.last_s[before] + table.think_s[row])
        at = max(float(table.arrival_s[row]), ready)
        table.arrival_s[row] = at
        if at <= self.env.now:
            self._arrive(row, at)
            return
        call_at(self.env, at, lambda: self._arrive(row, at))

    def _arrive(self, row: int, at: float) -> None:
        self.to_come -= 1
        self.dealer.arrive(row, at)
