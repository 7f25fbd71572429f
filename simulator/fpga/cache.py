"""An expert cache driven by the sequence of experts that tokens ask for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...workloads.errors import InputError
from ...workloads.registry import Registry

Victim = Callable[[dict[int, list[int]], int], int]
POLICIES: Registry[Victim] = Registry("cache policy")
"""Which entry leaves: from {expert: [loaded at, last used at, uses]} and the clock, an expert."""

LOADED, USED, USES = range(3)


@POLICIES.register("lru")
def _lru(entries: dict[int, list[int]], clock: int) -> int:
    """The one not used for longest."""
    return min(entries, key=lambda e: entries[e][USED])


@POLICIES.register("fifo")
def _fifo(entries: dict[int, list[int]], clock: int) -> int:
    """The one loaded first."""
    return min(entries, key=lambda e: entries[e][LOADED])


@POLICIES.register("lfu")
def _lfu(entries: dict[int, list[int]], clock: int) -> int:
    """The one used least often since it was loaded; of several, the one not used for longest."""
    return min(entries, key=lambda e: (entries[e][USES], entries[e][USED]))


@POLICIES.register("random")
def _random(entries: dict[int, list[int]], clock: int) -> int:
    """Any, drawn by the clock."""
    return sorted(entries)[int(np.random.default_rng(clock).integers(len(entries)))]


class ExpertCache:
    """Holds up to `size` experts; a miss loads one and evicts another.

    Raises
    ------
    InputError
        A negative size or an unknown policy.
    """

    def __init__(self, size: int, policy: str = "lru") -> None:
        if size < 0:
            raise InputError("cache.experts", f"must be 0 or more, not {size}")
        self.size, self._victim = size, POLICIES[policy]
        self._entries: dict[int, list[int]] = {}
        self._clock = 0
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def ask(self, expert: int) -> bool:
        """Ask for an expert; whether it was there. It is afterwards, if the cache holds any."""
        self._clock += 1
        entry = self._entries.get(expert)
        if entry is not None:
            entry[USED] = self._clock
            entry[USES] += 1
            self.hits += 1
            return True
        self.misses += 1
        if self.size:
            if len(self._entries) == self.size:
                del self._entries[self._victim(self._entries, self._clock)]
            self._entries[expert] = [self._clock, self._clock, 1]
        return False

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()
