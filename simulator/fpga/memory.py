"""External memory: transfers through ports, at the port's width until the memory is full."""

from __future__ import annotations

from dataclasses import dataclass

import simpy

DONE = 1e-6
"""Cycles from its end at which a transfer is over: the rounding of long clocks."""


@dataclass(slots=True)
class _Transfer:
    """A transfer under way: bytes left, the port's rate, and the rate it gets [B/cycle]."""

    done: simpy.Event
    left: float
    limit: float
    rate: float = 0.0


class ExternalMemory:
    """Transfers share one memory fairly; none is faster than its port.

    Parameters
    ----------
    env : simpy.Environment
        Clock, in cycles.
    rate : float
        What the memory delivers to all ports together [B/cycle].
    """

    def __init__(self, env: simpy.Environment, rate: float) -> None:
        self.env, self.rate = env, rate
        self.moved = 0.0
        self._under_way: list[_Transfer] = []
        self._since = 0.0
        self._version = 0

    def move(self, size: float, limit: float) -> simpy.Event:
        """Start moving `size` bytes at no more than `limit` [B/cycle]; fires when moved."""
        done = self.env.event()
        self.moved += size
        if size <= 0:
            return done.succeed()
        self._settle()
        self._under_way.append(_Transfer(done, size, limit))
        self._share()
        return done

    def _settle(self) -> None:
        """Bring every transfer up to now."""
        elapsed, self._since = self.env.now - self._since, self.env.now
        for transfer in self._under_way:
            transfer.left -= transfer.rate * elapsed

    def _share(self) -> None:
        """Give each transfer its fair share (max-min), and wake up when the first one ends."""
        room, waiting = self.rate, sorted(self._under_way, key=lambda t: t.limit)
        for i, transfer in enumerate(waiting):
            transfer.rate = min(transfer.limit, room / (len(waiting) - i))
            room -= transfer.rate
        self._version += 1
        if waiting:
            delay = max(0.0, min(t.left / t.rate for t in waiting))
            wake = self.env.timeout(delay, self._version)
            wake.callbacks.append(self._wake)

    def _wake(self, event: simpy.Event) -> None:
        if event.value != self._version:
            return  # another transfer began or ended since
        self._settle()
        over = [t for t in self._under_way if t.left <= DONE * t.rate]
        self._under_way = [t for t in self._under_way if t.left > DONE * t.rate]
        self._share()
        for transfer in over:
            transfer.done.succeed()
