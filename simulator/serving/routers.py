"""Which replica takes a request: rules over the replicas' queues, by name.

Loads are those a router can know when a request arrives: requests that wait, and requests whose
last token has not come back yet. A rule also gets where the request's session has run so far, which
is where its prompt's start may still be in the prefix cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...workloads.errors import InputError
from ...workloads.registry import Registry


@dataclass(frozen=True, slots=True)
class Load:
    """One replica as its router sees it: requests waiting and running."""

    waiting: int
    running: int


Route = Callable[[int, Sequence[Load], int | None], int]
"""Requests dealt before, loads, and the replica of the session's last request (None: none, or it is
down) -> a replica."""


def _deals(route: Route) -> None:
    """Refuse a rule that names no replica, of two that wait for work."""
    chosen = route(0, (Load(0, 0), Load(0, 0)), None)
    if chosen not in (0, 1):
        raise InputError("its choice", f"must be the number of a replica, not {chosen!r}")


ROUTERS: Registry[Route] = Registry("router", described=True, check=_deals)


def _first_smallest(scores: Sequence[int]) -> int:
    return min(range(len(scores)), key=lambda i: scores[i])


@ROUTERS.register("round-robin")
def round_robin(count: int, loads: Sequence[Load], home: int | None = None) -> int:
    """In turn; `count` requests have been dealt before."""
    return count % len(loads)


@ROUTERS.register("least-loaded")
def least_loaded(count: int, loads: Sequence[Load], home: int | None = None) -> int:
    """Fewest requests, waiting or running; the first of equals."""
    return _first_smallest([load.waiting + load.running for load in loads])


@ROUTERS.register("vllm")
def vllm(count: int, loads: Sequence[Load], home: int | None = None) -> int:
    """Smallest 4 x waiting + running: vLLM's balancer of data-parallel engines.

    Its ``DPLBAsyncMPClient`` scores engines so (vllm/v1/engine/core_client.py).
    """
    return _first_smallest([4 * load.waiting + load.running for load in loads])


@ROUTERS.register("sticky")
def sticky(count: int, loads: Sequence[Load], home: int | None = None) -> int:
    """Where the session's last request ran, whose blocks may still be there; else least loaded."""
    return least_loaded(count, loads, home) if home is None else home
