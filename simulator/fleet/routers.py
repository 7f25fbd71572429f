"""Which replica takes a request: rules over the replicas' queues, by name.

Loads are those a router can know when a request arrives: requests that wait, and requests whose last token has not come
back yet. A rule also gets where the request's session has run so far, which is where its prompt's start may still be in
the prefix cache; rules decorated with `by_prefix` get how much of the prompt each replica was sent before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...workloads.errors import InputError
from ...workloads.jit import plainly
from ...workloads.registry import Registry
from .route_rules import WAITING_COUNTS, fewest, fewest_tokens, most_found


@dataclass(frozen=True, slots=True)
class Load:
    """Load of one replica as the router sees it.

    Attributes
    ----------
    waiting, running : int
        Requests.
    held : int
        Prompt tokens of both.
    found, missing : int
        Tokens of the arriving request's prompt that the replica was sent before, and the others;
        0 but for rules `by_prefix`.
    kept : int
        Tokens that it was sent and should still have, for rules `by_prefix`.
    """

    waiting: int
    running: int
    held: int = 0
    found: int = 0
    missing: int = 0
    kept: int = 0


Route = Callable[[int, Sequence[Load], int | None], int]
"""Function from (number of assigned requests, loads, replica of the session's last request) to a replica; the third is None
if there is no such replica or it is down."""


def _deals(route: Route) -> None:
    """Refuse a rule that does not return the number of one of two replicas."""
    chosen = route(0, (Load(0, 0), Load(0, 0)), None)
    if chosen not in (0, 1):
        raise InputError("its choice", f"must be the number of a replica, not {chosen!r}")


ROUTERS: Registry[Route] = Registry("router", described=True, check=_deals)
_BY_PREFIX: set[Route] = set()


def by_prefix(route: Route) -> Route:
    """Decorate a rule that uses the tokens of a prompt that each replica was sent before."""
    _BY_PREFIX.add(route)
    return route


def asks_prefix(route: Route) -> bool:
    """Return whether a rule is decorated with `by_prefix`."""
    return route in _BY_PREFIX


@ROUTERS.register("round-robin")
def round_robin(count: int, loads: Sequence[Load], home: int | None = None) -> int:
    """Round-robin; `count` is the number of requests assigned before."""
    return count % len(loads)


@ROUTERS.register("least-loaded")
def least_loaded(count: int, loads: Sequence[Load], home: int | None = None) -> int:
    """Fewest requests, waiting or running; the first of equals."""
    return int(plainly(fewest)(loads, 1))


@ROUTERS.register("vllm")
def vllm(count: int, loads: Sequence[Load], home: int | None = None) -> int:
    """Smallest 4 x waiting + running: vLLM's balancer of data-parallel engines.

    Its ``DPLBAsyncMPClient`` scores engines so (vllm/v1/engine/core_client.py).
    """
    return int(plainly(fewest)(loads, WAITING_COUNTS))


@ROUTERS.register("sticky")
def sticky(count: int, loads: Sequence[Load], home: int | None = None) -> int:
    """Where the session's last request ran, whose blocks may still be there; else least loaded."""
    return least_loaded(count, loads, home) if home is None else home


@ROUTERS.register("kv-aware")
@by_prefix
def kv_aware(count: int, loads: Sequence[Load], home: int | None = None) -> int:
    """Fewest tokens to compute and to hold: the prompt's that are missing, and prompts in flight.

    The cost of NVIDIA Dynamo's KV router with its weights of 1 (``overlap_score_weight`` x blocks to
    prefill + active blocks; lib/llm/src/kv_router/scheduler.rs), in tokens.
    """
    return int(plainly(fewest_tokens)(loads))


@ROUTERS.register("cache-aware")
@by_prefix
def cache_aware(count: int, loads: Sequence[Load], home: int | None = None) -> int:
    """Where 30 % of the prompt or more may be cached, else where least is cached; uneven: least loaded.

    SGLang's router (``cache_aware``, sgl-model-gateway, its defaults: uneven is more than 64 requests
    and half as many again between the most and the least loaded).
    """
    replica = int(plainly(most_found)(loads))
    return least_loaded(count, loads, None) if replica < 0 else replica


_COMPILED = (round_robin, least_loaded, vllm, sticky, kv_aware, cache_aware)
"""Built-in rules, in order of `RouteRule`."""


def compiled_rule(route: Route) -> int | None:
    """Return the number of a built-in rule in compiled code (`fleet.route_rules`); None for user-defined rules."""
    return _COMPILED.index(route) if route in _COMPILED else None
