"""The task that runs a simulation in real time and delivers its tokens.

Simulated time is the clock's, times a scale. The task sleeps until the next step or token; tokens keep their simulated
times, so delays do not add up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Hashable

from ...simulator.serving.live import Live
from .meters import Meters


class Answer:
    """Tokens of one request, for the one who waits for them.

    Attributes
    ----------
    number : int
        In the simulation.
    left : int
        Tokens yet to be taken.
    """

    __slots__ = ("asked_s", "came", "ended", "last_s", "left", "number", "waiter")

    def __init__(self, number: int, output_tokens: int, asked_s: float) -> None:
        self.number, self.left, self.asked_s = number, output_tokens, asked_s
        self.came, self.last_s, self.ended = 0, -math.inf, False
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let the one who waits look."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        self.wake()

    async def more(self) -> int:
        """Wait for tokens; how many have come since the last call, 0 if none will come any more."""
        while not self.came and not self.ended:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        came, self.came = self.came, 0
        self.left -= came
        return came


class Pacer:
    """Runs engines by the clock.

    Parameters
    ----------
    scale : float
        Simulated seconds a second of the clock.
    meters : Meters
        Called with every token, in seconds of the clock.
    """

    def __init__(self, live: Live, scale: float, meters: Meters) -> None:
        self.live, self.scale, self.meters = live, scale, meters
        self.answers: dict[int, Answer] = {}
        self._began = time.perf_counter()
        self._wake = asyncio.Event()
        self.closed = False

    def now(self) -> float:
        """The present of the simulation [s]."""
        return (time.perf_counter() - self._began) * self.scale

    def submit(self, input_tokens: int, output_tokens: int, content: tuple[Hashable, ...]) -> Answer:
        """Send a request to the simulation.

        Raises
        ------
        CapacityError, InputError
            It could never be served.
        """
        now = self.now()
        number = self.live.submit(now, input_tokens, output_tokens, content)
        answer = self.answers[number] = Answer(number, output_tokens, now)
        self._wake.set()
        return answer

    def abandon(self, answer: Answer) -> None:
        """Let go of a request whose client has left."""
        if self.answers.pop(answer.number, None) is not None:
            self.live.cut(answer.number)
            self.live.forget(answer.number)
            self.meters.abandoned += 1
        answer.end()

    def close(self) -> None:
        """End every response where it is."""
        self.closed = True
        for answer in self.answers.values():
            answer.end()
        self._wake.set()

    async def run(self) -> None:
        """Run until `close`."""
        loop = asyncio.get_running_loop()
        while not self.closed:
            now = self.now()
            self.live.advance(now)
            for tokens in self.live.due(now):
                self._hand_out(tokens.due_s, tokens.requests, tokens.counts)
            self._wake.clear()
            left = (self.live.next_s - self.now()) / self.scale
            if left <= 0.0:
                await asyncio.sleep(0)  # behind: others have their turn all the same
                continue
            timer = None if math.isinf(left) else loop.call_later(left, self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    def _hand_out(self, due_s: float, numbers: list[int], counts: list[int]) -> None:
        """Give tokens of one time to their requests."""
        scale, meters, answers = self.scale, self.meters, self.answers
        for number, count in zip(numbers, counts, strict=True):
            answer = answers.get(number)
            if answer is None:
                continue
            answer.came += count
            if answer.last_s < 0.0:
                meters.ttft.note((due_s - answer.asked_s) / scale)
            else:
                meters.gap.note((due_s - answer.last_s) / scale, count)
            answer.last_s = due_s
            if answer.came == answer.left:
                meters.e2e.note((due_s - answer.asked_s) / scale)
                meters.finished += 1
                del answers[number]
                self.live.forget(number)
                answer.ended = True
            answer.wake()
        meters.late.note((self.now() - due_s) / scale)
