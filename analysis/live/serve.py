"""A simulated deployment as an OpenAI-compatible server (``opbyte serve``)."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...devices.spec import SystemSpec
from ...simulator.fleet.pools import Fleet, pools_of
from ...simulator.scenario import Scenario
from ...simulator.scenario.build import deployment_of, fleet_of
from ...simulator.scenario.place import refuse_unused
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ..answers.usual import as_usual
from ..show.interrupt import heard
from ..show.result import Result
from ..show.text import Blocks, Rows, seconds
from .live import Live
from .pacer import Meters, Pacer
from .record import more_files, needs

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import ServedKeywords

MIN_SCALE, MAX_SCALE = 1e-3, 1e3
"""Range of the time scale: below it, a token takes minutes; above it, the simulation is too slow."""

ENDING_S = 0.5
"""Time for clients to read the end of their responses after a signal."""


@dataclass(frozen=True, slots=True)
class Service(Result):
    """Summary of what a server did until it ended.

    Attributes
    ----------
    lasted_s : float
        Real time from start to end [s].
    """

    model: str
    system: str
    meters: Meters
    lasted_s: float

    def to_dict(self) -> dict[str, Any]:
        m = self.meters
        return {
            "model": self.model, "system": self.system, "requests": m.asked,
            "finished": m.finished, "abandoned": m.abandoned, "refused": m.refused,
            "lasted_s": self.lasted_s,
            "late_mean_s": m.late.total / m.late.count if m.late.count else None,
            "late_most_s": m.late.most if m.late.count else None,
        }  # fmt: skip

    def rows(self) -> Rows:
        return [{"what": key, "value": value} for key, value in self.to_dict().items()]

    def blocks(self) -> Blocks:
        m, late = self.meters, ""
        if m.late.count:
            late = f"; tokens were {seconds(m.late.total / m.late.count)} late on average"
        text = (
            f"{self.model} on {self.system}: {m.asked:,} requests in {seconds(self.lasted_s)}, "
            f"{m.finished:,} answered whole, {m.abandoned:,} left, {m.refused:,} refused{late}"
        )
        return [text]


def serve(
    model: Scenario | str | Path | ModelSpec, system: str | Path | SystemSpec | None = None, *,
    host: str = "127.0.0.1", port: int = 8000, time_scale: float = 1.0,
    served_model_name: str = "", gpu_host: str | None = None,
    ready: Callable[[str], object] | None = None, **options: Unpack[ServedKeywords],
) -> Service:  # fmt: skip
    """Serve a simulated deployment until a signal ends it.

    Parameters
    ----------
    model, system
        See `simulate`; clients send the requests.
    host : str
        Address to listen at; loopback by default.
    port : int
        Port number; 0 for any free port.
    time_scale : float
        Simulated seconds per second of real time.
    served_model_name : str
        Name of the model for clients; default: its catalog name.
    gpu_host : str, optional
        Host of the GPUs: the option ``host`` of `Scenario`, a name that is taken here by the address.
    ready : callable, optional
        Called with the server's address when it accepts connections; default: print it to stderr.
    **options
        Options of `Scenario` by their names, such as ``engine``, ``tp`` or ``replicas``.

    Raises
    ------
    InputError
        If the scenario cannot be simulated, or the address cannot be opened.
    """
    for package in ("starlette", "uvicorn"):
        needs(package, "serve")
    if not MIN_SCALE <= time_scale <= MAX_SCALE:
        raise InputError("--time-scale", f"must be in [{MIN_SCALE:g}, {MAX_SCALE:g}], not {time_scale}")
    scenario = as_usual(Scenario.of(model, system, **options).changed(host=gpu_host))
    deployment, settings = deployment_of(scenario)
    refuse_unused(scenario.deployment, deployment)
    if deployment.model.front is not None:
        raise InputError(deployment.model.name, "takes images, not tokens; serve supports only text")
    fleet = fleet_of(scenario, deployment.system) or Fleet()
    if fleet.autoscale is not None:
        raise InputError("serve", "has no --autoscale; see simulate")
    adapters = deployment.parts.get("adapters")
    if "encoder" in fleet.parts or (adapters is not None and adapters.swapped):
        raise InputError("serve", "has no --encoder and no --adapters-resident; see simulate")
    cache = settings.cache_for(deployment)
    if cache.tiers is not None:
        raise InputError("serve", "has no KV cache tiers (--kv-tiers, kv_offloading_size); see simulate")
    listening = _listen(host, port)
    with listening:
        live = Live(pools_of(deployment, fleet), settings.policy, cache, fleet.router)
        longest = settings.max_model_len or deployment.model.max_position
        name = served_model_name or deployment.model.name
        more_files()
        meters, began = Meters(), time.perf_counter()
        asyncio.run(_serve(live, time_scale, meters, name, longest, listening, ready))
    return Service(name, deployment.system.name, meters, time.perf_counter() - began)


def _listen(host: str, port: int) -> socket.socket:
    """Open a listening socket before the simulation is set up, which refuses a bad address early."""
    if not 0 <= port <= 65535:
        raise InputError("--port", f"must be in [0, 65535], not {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, proto=socket.IPPROTO_TCP)  # so that asyncio sets TCP_NODELAY
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--host {host} --port {port}", f"cannot be opened ({reason}); 0 takes a free port") from None
    return made


async def _serve(
    live: Live, scale: float, meters: Meters, name: str, longest: int | None,
    listening: socket.socket, ready: Callable[[str], object] | None,
) -> None:  # fmt: skip
    import uvicorn

    from .app import make_app

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # `heard` has them

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            asyncio.get_running_loop().call_later(ENDING_S, self.drop)
            await super().shutdown(sockets)

        def drop(self) -> None:
            """Drop connections that are still open: accepted late, unread, or amid a body."""
            for connection in list(self.server_state.connections):
                connection.transport.abort()

    pacer = Pacer(live, scale, meters)
    config = uvicorn.Config(
        make_app(pacer, name, longest), log_config=None, access_log=False, lifespan="off",
        timeout_graceful_shutdown=1, backlog=4096, loop="asyncio", ws="none",
    )  # fmt: skip
    server, loop = Server(config), asyncio.get_running_loop()

    def end() -> None:
        server.should_exit = True
        pacer.close()

    def signalled(number: int) -> None:
        live.ended = True  # at once: a simulation that lags behind the clock may take seconds to catch up
        loop.call_soon_threadsafe(end)

    simulation = asyncio.create_task(pacer.run())
    simulation.add_done_callback(lambda _: end())
    with heard(signalled):
        listening.listen(4096)
        host, port = listening.getsockname()[:2]
        (ready or _say)(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")
        await server.serve(sockets=[listening])
    await simulation


def _say(address: str) -> None:
    print(f"opbyte: serving at {address}; Ctrl-C ends it", file=sys.stderr, flush=True)
