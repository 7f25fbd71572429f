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
    """Requests of sessions that wait for the end of the one before."""

    env: simpy.Environment
    table: Table
    dealer: Dealer
    to_come: int = 0  # requests that follow others and have not arrived
    _following: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _left: dict[int, int] = field(default_factory=dict)  # of those that wait for several

    def follow(self, row: int, waits: tuple[int, ...]) -> bool:
        """Let a request come after others; whether they have all completed already."""
        self.to_come += 1
        table = self.table
        left = [i for i in waits if table.generated[i] != table.output_tokens[i]]
        for before in left:
            self._following[before] = (*self._following.get(before, ()), row)
        if len(left) > 1:
            self._left[row] = len(left)
        elif not left:
            self._come_after(row, waits)
        return not left

    def completed(self, row: int) -> bool:
        """Let what follows a completed request come; whether there is anything known to."""
        following = self._following.pop(row, None)
        if following is None:
            return False
        for after in following:
            left = self._left.pop(after, 1) - 1
            if left:
                self._left[after] = left
            else:
                self._come_after(after, self.table.waits(after))
        return True

    def _come_after(self, row: int, waits: tuple[int, ...]) -> None:
        """A request arrives when its client has read what was before and thought about it.

        What an agent calls next is sent when the last of what it waits for has ended, and its tool.
        """
        table = self.table
        last = table.last_s[waits[0]] if len(waits) == 1 else max(table.last_s[i] for i in waits)
        ready = float(last + table.think_s[row])
        at = max(float(table.arrival_s[row]), ready)
        table.arrival_s[row] = at
        if at <= self.env.now:
            self._arrive(row, at)
            return
        call_at(self.env, at, lambda: self._arrive(row, at))

    def _arrive(self, row: int, at: float) -> None:
        self.to_come -= 1
        self.dealer.arrive(row, at)
