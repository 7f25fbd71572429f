"""A trace sent to a server: each request at its time, or a fixed number in flight."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .client import Clock, RequestOutcome, ask

if TYPE_CHECKING:
    import httpx

    from .prompts import PromptSource
    from .target import ServerTarget

NAP_S = 0.02
"""How often the player looks how late it is itself [s]."""


class Player:
    """Sends a trace; `outcomes` has the state of each request at any time, one row per request.

    `stalls` has samples of the client's own delay [s]: the possible error of timestamps.

    Parameters
    ----------
    clients, target, prompts
        Whom to ask, in turn, how, and with what.
    outputs : int64 array, shape (n,)
        Tokens asked for.
    due_s : float64 array, shape (n,), or None
        When each request is due [s]; None: as soon as there is a place.
    places : int
        Most requests in flight.
    limit_s : float
        Longest a request may take [s].
    progress : callable, optional
        Called with (requests ended, requests in all).
    """

    def __init__(
        self, clients: Sequence[httpx.AsyncClient], target: ServerTarget, prompts: PromptSource,
        outputs: npt.NDArray[np.int64], due_s: npt.NDArray[np.float64] | None, places: int,
        limit_s: float, progress: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        self.clients, self.target, self.prompts = clients, target, prompts
        self.outputs, self.due_s, self.limit_s, self.progress = outputs, due_s, limit_s, progress
        self.outcomes = [RequestOutcome() for _ in outputs]
        self.places = asyncio.Semaphore(places)
        self.ended = 0
        self.stalls = array("d")
        self.clock: Clock = time.perf_counter

    async def play(self, stop: asyncio.Event) -> bool:
        """Play until all requests have ended or `stop` is set; whether it was cut."""
        began = time.perf_counter()
        self.clock = lambda: time.perf_counter() - began
        playing, stopped = asyncio.create_task(self._all()), asyncio.create_task(stop.wait())
        watching = asyncio.create_task(self._watch())
        await asyncio.wait({playing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        cut = not playing.done()
        for task in (playing, stopped, watching):
            task.cancel()
        await asyncio.gather(stopped, watching, return_exceptions=True)
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
                client = self.clients[row % len(self.clients)]
                group.create_task(self._one(client, outcome, body))

    async def _watch(self) -> None:
        """Note how late this process is, by naps that are all of one length."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(NAP_S)
            self.stalls.append(max(time.perf_counter() - began - NAP_S, 0.0))

    async def _one(self, client: httpx.AsyncClient, outcome: RequestOutcome, body: bytes) -> None:
        try:
            await ask(client, self.target.url, body, outcome, self.clock, self.limit_s)
        finally:
            self.places.release()
            self.ended += 1
            if self.progress:
                self.progress(self.ended, len(self.outcomes))
