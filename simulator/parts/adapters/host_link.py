"""A device's link to the host's memory, towards the device, as all that crosses it shares it.

Copies go one after another in the order in which they were asked for (a GPU has one copy engine a direction, on
which streams queue), but for experts, for which a step stands still: they go first, and what is under way then
ends as much later as they take.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...serving.engine import Engine
from ..kv_tiers.state import UP


@dataclass(slots=True)
class HostLink:
    """The link of an engine's devices; its own clock stands still while experts have it."""

    engine: Engine
    free: float = 0.0  # by that clock, when all that was asked for besides experts and blocks is there [s]

    def take(self, now: float, seconds: float) -> float:
        """Queue a transfer of `seconds` behind earlier ones; return its end by the link's clock."""
        tiers, experts_s = self.engine.parts.get("kv-tiers"), self.experts_s()
        self.free = max(self.free, now - experts_s)
        if tiers is None or tiers.host < 0:
            self.free += seconds
            return self.free
        lines = tiers.free_s[:, tiers.host, UP]
        self.free = max(self.free, float(lines.max()) - experts_s) + seconds
        lines[:] = self.free + experts_s
        return self.free

    def experts_s(self) -> float:
        """Seconds that experts have had it so far."""
        shelf = self.engine.books.shelf
        return 0.0 if shelf is None else float(shelf.totals.link_s.sum())
