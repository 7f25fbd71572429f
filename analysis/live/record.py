"""Send a trace's requests to a server and record its responses (``opbyte record``)."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ...simulator.option import chosen
from ...simulator.scenario.options import Workload
from ...workloads.errors import InputError, check_known
from ...workloads.requests import RequestBlock
from ..parallel import OnProgress
from ..show.interrupt import heard
from .play import DeployedAs, OnEnded, Player, deployed_as
from .recording import Recording
from .target import PROMPTS, PromptSource, ServerTarget, address, find_out, open_clients

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import WorkloadKeywords


MOST_FILES = 65_536
"""Maximum number of open connections and files that the process requests from the system."""


def needs(package: str, command: str) -> None:
    """Refuse a command whose package is not installed.

    Raises
    ------
    InputError
        Says what to install.
    """
    if find_spec(package) is None:
        raise InputError(f"opbyte {command}", f"needs {package}: pip install 'opbyte[serve]'")


def more_files() -> None:
    """Raise the limit of open files to what the system allows, at most `MOST_FILES`, for more connections."""
    try:
        import resource
    except ImportError:  # not of this system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


MOST_IN_FLIGHT = 1024
LIMIT_S = 600.0


def record(
    url: str, *, served_model_name: str = "", chat: bool = False, prompts: str = "auto",
    in_flight: int = MOST_IN_FLIGHT, timeout: float = LIMIT_S, model: str | None = None,
    system: str | None = None, engine: str | None = None, seed: int = 0,
    progress: OnProgress | None = None, on_ended: OnEnded = lambda row, outcome: None,
    **workload: Unpack[WorkloadKeywords],
) -> Recording:  # fmt: skip
    """Send requests to an OpenAI-compatible server and record the time of every chunk.

    A signal ends the recording early; the result then has all data up to the signal, whose name is in `cut`.

    Parameters
    ----------
    url : str
        The server's address, with or without ``/v1``.
    served_model_name : str
        Name of the model there; by default the first that the server lists.
    chat : bool
        Chat completions instead of completions.
    prompts : str
        "ids", "words", or "auto": token ids where the server takes them.
    in_flight : int
        Maximum requests in flight with open-loop arrivals; ``closed_loop`` sets the number of a closed loop.
    timeout : float
        Timeout of one request [s].
    model, system, engine : str, optional
        Description of the server, which is written to the run's folder.
    seed : int
        Seed of the samples: the content of prompts, and requests without a trace.
    progress : callable, optional
        Called with (requests ended, requests in all).
    on_ended : callable
        Called with the row and the outcome of each request that has ended.
    **workload
        Options of `Workload`: ``trace``, ``rate``, ``closed_loop``, ``requests`` and others.

    Raises
    ------
    InputError
        Options or a trace that cannot be used, or no server at the address.
    """
    needs("httpx", "record")
    more_files()
    check_known(f"--prompts {prompts!r}", prompts, PROMPTS, "is not a form of prompt")
    if chat and prompts == "ids":
        raise InputError("--prompts ids", "cannot be combined with --chat, whose prompts are text")
    if in_flight < 1 or not timeout > 0:
        raise InputError("--in-flight and --timeout", "must be above 0")
    target, server = (ServerTarget(address(url), served_model_name, chat), deployed_as(model, system, engine))
    load = chosen(Workload, workload)
    stream = load.open(seed)
    trace = stream.read()
    if not len(trace):
        raise InputError(stream.name, "has no requests")
    if trace.turns is not None:
        raise InputError(stream.name, "has requests that depend on others; record supports only independent ones")
    play = _Play(target, server, trace, PromptSource(trace, seed, server.vocab), timeout, progress, on_ended)
    open_loop = stream.closed_loop is None and stream.has_arrivals
    due = trace.arrival_s if open_loop else None
    if due is None and stream.closed_loop is None:
        raise InputError(stream.name, "has no arrival times; add --rate or --closed-loop")
    return play.run(stream.name, due, stream.closed_loop or in_flight, prompts)


@dataclass
class _Play:
    """One recording and the event loop that runs it."""

    target: ServerTarget
    server: DeployedAs
    trace: RequestBlock
    prompts: PromptSource
    limit_s: float
    progress: OnProgress | None
    on_ended: OnEnded
    cut: str = ""

    def run(
        self, workload: str, due: np.ndarray[Any, np.dtype[np.float64]] | None, places: int, form: str
    ) -> Recording:
        import pandas as pd  # noqa: F401  # writing needs it: not to be loaded after a signal

        target, player = asyncio.run(self._play(due, places, form))
        host = target.base.partition("//")[2].partition("/")[0]
        return Recording(
            f"{target.model.rpartition('/')[2]}-{host}".replace(":", "-"), workload, target,
            self.server, self.trace, player.outcomes, due, places, self.cut, np.array(player.stalls),
        )  # fmt: skip

    async def _play(self, due: Any, places: int, form: str) -> tuple[ServerTarget, Player]:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def end(number: int) -> None:
            self.cut = signal.Signals(number).name
            loop.call_soon_threadsafe(stop.set)

        async with open_clients(self.target.base, places) as clients:
            target, self.prompts = await find_out(clients[0], self.target, form, self.prompts)
            player = Player(
                clients, target, self.prompts, self.trace.output_tokens, due, places, self.limit_s, self.progress,
                self.on_ended,
            )  # fmt: skip
            with heard(end):
                if not await player.play(stop):
                    self.cut = ""
            return target, player
