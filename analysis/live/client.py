"""One streamed request, with the time of every received chunk."""

from __future__ import annotations

import asyncio
import json
import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

NOT_SENT, UNDER_WAY, OK, CUT = "not sent", "under way", "ok", "cut"
TIMEOUT, REFUSED, DIED, NO_STREAM = "timeout", "refused", "died mid-stream", "no stream"
MOST_LINE = 1 << 24
"""Bytes of the longest line of a stream."""

Clock = Callable[[], float]
"""Seconds since the start of a run."""


@dataclass(slots=True)
class RequestOutcome:
    """What came of one request; times from the start of the run [s], NaN until they happen.

    Attributes
    ----------
    status : str
        `OK`, or why it failed: ``HTTP 500``, `REFUSED`, `TIMEOUT`, `DIED`, `CUT`, ...
    sent_s, ended_s : float
        When it was sent, and when the stream ended or failed.
    chunks : array of float
        Time of each chunk with a part of the response.
    prompt_tokens, output_tokens : int or None
        As the server counted them.
    """

    status: str = NOT_SENT
    sent_s: float = float("nan")
    ended_s: float = float("nan")
    chunks: array[float] = field(default_factory=lambda: array("d"))
    prompt_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(slots=True)
class _Stream:
    """Events of one response as they are read."""

    outcome: RequestOutcome
    rest: bytes = b""
    finished: bool = False  # the last part of the answer is there
    done: bool = False
    failed: str = ""

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes that have just come."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), now)
        if len(self.rest) > MOST_LINE:
            raise ValueError("no line ends")

    def _event(self, text: bytes, now: float) -> None:
        if text == b"[DONE]":
            self.done = True
            return
        event = json.loads(text)
        if not isinstance(event, dict):
            raise TypeError("no object")
        if event.get("error"):
            self.failed = f"error: {_message(event['error'])}"
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.outcome.prompt_tokens = usage.get("prompt_tokens")
            self.outcome.output_tokens = usage.get("completion_tokens")
        for choice in event.get("choices") or ():
            ends = choice.get("finish_reason") is not None
            self.finished |= ends
            if _has_part(choice, ends):
                self.outcome.chunks.append(now)

    @property
    def status(self) -> str:
        """What to call it once the server has closed it."""
        if self.failed:
            return self.failed
        if self.finished or (self.done and self.outcome.chunks):
            return OK
        return DIED if self.outcome.chunks else NO_STREAM


def _has_part(choice: dict[str, Any], ends: bool) -> bool:
    """Return whether an event contains a part of the response, not only its role or its end."""
    if "text" in choice:
        return bool(choice["text"]) or not ends  # a token may be half a character: no text yet
    delta = choice.get("delta") or {}
    part = any(value for key, value in delta.items() if key != "role")
    return part or not (ends or "role" in delta)


def _message(error: object) -> str:
    text = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(text).split())[:80]


async def ask(
    client: httpx.AsyncClient, url: str, body: bytes, outcome: RequestOutcome, clock: Clock, limit_s: float
) -> None:
    """Send a request and record the times of its chunks; every failure is recorded in its outcome.

    A cancelled one is noted as `CUT`: what has come of it stays.
    """
    import httpx

    stream = _Stream(outcome)
    outcome.status, outcome.sent_s = UNDER_WAY, clock()
    status = CUT
    try:
        async with asyncio.timeout(limit_s):
            async with client.stream("POST", url, content=body) as answer:
                if answer.status_code != 200:
                    status = f"HTTP {answer.status_code}"
                    return
                async for data in answer.aiter_raw():
                    stream.feed(data, clock())
                    if stream.done:
                        outcome.ended_s = clock()
        status = stream.status
    except (TimeoutError, httpx.TimeoutException):
        status = TIMEOUT
    except httpx.ConnectError:
        status = REFUSED
    except httpx.HTTPError:
        status = stream.status if stream.finished else DIED
    except (ValueError, TypeError, AttributeError):
        status = "no SSE"
    finally:
        outcome.status = status
        if math.isnan(outcome.ended_s):
            outcome.ended_s = clock()
