"""Replay of a trace against a server: requests are sent at their times, or with a fixed number in flight.

What a recorded server is, as its owner says: model, system, settings of its engine.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...devices.catalog import describe_system, list_devices, load_system
from ...simulator.frameworks.engine_file import read_engine
from ...simulator.frameworks.settings import EngineSettings
from ...workloads.catalog import catalog_entry, load_model
from ...workloads.errors import InputError
from ...workloads.hf.json_file import config_file, read_json_object
from ..answers.description import Shown
from ..parallel import OnProgress

if TYPE_CHECKING:
    import httpx

    from .target import PromptSource, ServerTarget


@dataclass(frozen=True, slots=True)
class DeployedAs:
    """Description of the recorded server for the run's folder; fields are empty if the user did not give them.

    Attributes
    ----------
    config : mapping or None
        The model's ``config.json``.
    device : str or None
        Name in the catalog, or in `description`.
    description : str or None
        File that describes the system, if its device is user-defined.
    engine : mapping
        Keys of an ``engine.json``; without one, all devices are one tensor-parallel group.
    vocab : int or None
        Entries of the model's vocabulary.
    """

    config: Mapping[str, Any] | None = None
    device: str | None = None
    devices: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    description: str | None = None
    vocab: int | None = None

    @property
    def missing(self) -> list[str]:
        """Missing options that a replay of the run needs."""
        return [option for option, value in (("--model", self.config), ("--system", self.device)) if value is None]


def deployed_as(model: str | None, system: str | None, engine: str | None) -> DeployedAs:
    """Read the description of a server from its model, system and engine options.

    Raises
    ------
    InputError
        An unknown name, or a file that cannot be read.
    """
    config: Mapping[str, Any] | None = None
    vocab = None
    if model is not None:
        vocab = load_model(model).vocab or None  # so that what cannot be replayed is not recorded as if it could
        entry = catalog_entry(model)
        config = entry.config if entry else read_json_object(config_file(Path(model)))
    device, devices, description = None, None, None
    if system is not None:
        spec = load_system(system)
        device, devices = spec.device.name, spec.devices_per_node * spec.nodes
        if device not in list_devices():
            # Whole, as other files of its own lie elsewhere.
            description = Shown(*describe_system(system)).text()
    settings: dict[str, Any] = {"engine": "vllm", "tensor_parallel_size": devices or 1}
    if engine is not None:
        _check_degrees(engine, read_engine(engine), system, devices)
        path = Path(engine)
        settings = read_json_object(path / "engine.json" if path.is_dir() else path)
    return DeployedAs(config, device, devices, settings, description, vocab)


def _check_degrees(engine: str, settings: EngineSettings, system: str | None, devices: int | None) -> None:
    """Refuse an engine whose number of devices differs from the system's."""
    spread = (settings.tp or 1) * (settings.dp or 1) * (settings.pp or 1)
    if devices is not None and spread != devices:
        raise InputError(
            engine, f"tensor_parallel_size, data_parallel_size and pipeline_parallel_size make "
            f"{spread}, not the {devices} devices of --system {system}",
        )  # fmt: skip


NOT_SENT, UNDER_WAY, OK, CUT = "not sent", "under way", "ok", "cut"
TIMEOUT, REFUSED, DIED, NO_STREAM = "timeout", "refused", "died mid-stream", "no stream"
MOST_LINE = 1 << 24
"""Bytes of the longest line of a stream."""

Clock = Callable[[], float]
"""Seconds since the start of a run."""


@dataclass(slots=True)
class RequestOutcome:
    """Outcome of one request; times count from the start of the run [s] and are NaN until they happen.

    Attributes
    ----------
    status : str
        `OK`, or why it failed: ``HTTP 500``, `REFUSED`, `TIMEOUT`, `DIED`, `CUT`, ...
    sent_s, ended_s : float
        Time of sending, and time at which the stream ended or failed.
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


OnEnded = Callable[[int, RequestOutcome], None]


@dataclass(slots=True)
class _Stream:
    """Events of one response as they are read."""

    outcome: RequestOutcome
    rest: bytes = b""
    finished: bool = False  # the last part of the answer is there
    done: bool = False
    failed: str = ""

    def feed(self, data: bytes, now: float) -> None:
        """Process bytes of the stream that have just arrived."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), now)
        if len(self.rest) > MOST_LINE:
            raise ValueError("no line ends")

    def _event(self, text: bytes, now: float) -> None:
        """Process one event of a server's stream: text, usage, an error or the end."""
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
        """Final state of the response after the server has closed it."""
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

    A cancelled request has the status `CUT` and keeps the chunks that it has received.
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
    except (ValueError, TypeError, AttributeError, RecursionError):
        status = "no SSE"
    finally:
        outcome.status = status
        if math.isnan(outcome.ended_s):
            outcome.ended_s = clock()


NAP_S = 0.02
"""Interval at which the player measures its own delay [s]."""


@dataclass
class Player:
    """Sends a trace; `outcomes` has the state of each request at any time, one row per request.

    `stalls` has samples of the client's own delay [s]: the possible error of timestamps.

    Parameters
    ----------
    clients, target, prompts
        HTTP clients, used in turn; the server; and the generator of prompts.
    outputs : int64 array, shape (n,)
        Requested output tokens.
    due_s : float64 array, shape (n,), or None
        Send time of each request [s]; None for a closed loop of `places` clients.
    places : int
        Maximum requests in flight.
    limit_s : float
        Timeout of a request [s].
    progress : callable, optional
        Called with (requests ended, requests in all).
    on_ended : callable
        Called with the row and the outcome of each request that has ended.
    """

    clients: Sequence[httpx.AsyncClient]
    target: ServerTarget
    prompts: PromptSource
    outputs: npt.NDArray[np.int64]
    due_s: npt.NDArray[np.float64] | None
    places: int
    limit_s: float
    progress: OnProgress | None
    on_ended: OnEnded

    def __post_init__(self) -> None:
        self.outcomes = [RequestOutcome() for _ in self.outputs]
        self.free = asyncio.Semaphore(self.places)
        self.ended = 0
        self.stalls = array("d")
        self.clock: Clock = time.perf_counter

    async def play(self, stop: asyncio.Event) -> bool:
        """Replay until all requests have ended or `stop` is set; return whether it was cut."""
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
            for row in range(len(self.outcomes)):
                body = self.target.body(self.prompts, row, int(self.outputs[row]))
                if self.due_s is not None:
                    await asyncio.sleep(max(float(self.due_s[row]) - self.clock(), 0.0))
                await self.free.acquire()
                client = self.clients[row % len(self.clients)]
                group.create_task(self._one(client, row, body))

    async def _watch(self) -> None:
        """Record this process's own delays: the excess of naps over their set length."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(NAP_S)
            self.stalls.append(max(time.perf_counter() - began - NAP_S, 0.0))

    async def _one(self, client: httpx.AsyncClient, row: int, body: bytes) -> None:
        outcome = self.outcomes[row]
        try:
            await ask(client, self.target.url, body, outcome, self.clock, self.limit_s)
        finally:
            self.free.release()
            self.ended += 1
            self.on_ended(row, outcome)
            if self.progress:
                self.progress(self.ended, len(self.outcomes))
