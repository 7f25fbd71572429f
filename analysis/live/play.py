"""A trace played against a server: each request at its time, or so many kept in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .client import Clock, Outcome, ask

if TYPE_CHECKING:
    import httpx

    from .prompts import Prompts
    from .target import Target


class Player:
    """Plays a trace; `outcomes` holds what has come of it at any moment, a row a request.

    Parameters
    ----------
    client, target, prompts
        Whom to ask, how, and with what.
    outputs : int64 array, shape (n,)
        Tokens asked for.
    due_s : float64 array, shape (n,), or None
        When each request is due [s]; None: as soon as there is a place.
    places : int
        Most requests in flight.
    limit_s : float
        Longest a request may take [s].
    told : callable, optional
        Told (requests ended, requests in all).
    """

    def __init__(
        self, client: httpx.AsyncClient, target: Target, prompts: Prompts,
        outputs: npt.NDArray[np.int64], due_s: npt.NDArray[np.float64] | None, places: int,
        limit_s: float, told: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        self.client, self.target, self.prompts = client, target, prompts
        self.outputs, self.due_s, self.limit_s, self.told = outputs, due_s, limit_s, told
        self.outcomes = [Outcome() for _ in outputs]
        self.places = asyncio.Semaphore(places)
        self.ended = 0
        self.clock: Clock = time.perf_counter

    async def play(self, stop: asyncio.Event) -> bool:
        """Play until all requests have ended or `stop` is set; whether it was cut."""
        began = time.perf_counter()
        self.clock = lambda: time.perf_counter() - began
        playing, stopped = asyncio.create_task(self._all()), asyncio.create_task(stop.wait())
        await asyncio.wait({playing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        cut = not playing.done()
        for task in (playing, stopped):
            task.cancel()
        await asyncio.gather(stopped, return_exceptions=True)
        with suppress(asyncio.CancelledError):
            await playing
        return cut

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for row, outcome in enumerate(self.outcomes):
                body = self.target.body(self.prompts, row, int(self.outputs[row]))
                if self.due_s is not None:
                    await asyncio.sleep(max(float(self.due_s[row]) - self.clock(), 0.0))
                await self.places.acquire()
                group.create_task(self._one(outcome, body))

    async def _one(self, outcome: Outcome, body: bytes) -> None:
        try:
            await ask(self.client, self.target.url, body, outcome, self.clock, self.limit_s)
        finally:
            self.places.release()
            self.ended += 1
            if self.told:
                self.told(self.ended, len(self.outcomes))
