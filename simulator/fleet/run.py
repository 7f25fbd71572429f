"""One simulation: requests are served by a deployment, and the run is measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import IO, Any

from ...workloads.errors import InputError
from ...workloads.requests import RequestStream
from ..deploy.deployment import Deployment
from ..engine.kv import CacheSettings
from ..engine.policies import Policy
from ..option import NO_OPTIONS, PartOptions
from ..registry import hooks_at
from ..results.progress import Progress
from ..results.record import Run
from ..results.steps import steps_of
from .collect import collect, left_of_parts
from .driver import RunSettings, serve
from .groups import Cut, joined, left_of
from .growing import Growing
from .pools import Fleet, Pools, pools_of
from .run_state import RunState

Groups = tuple[Sequence[RunState], IO[bytes] | None]
"""Results of a fleet's groups, and the file that they wrote their requests to."""


def run(
    deployment: Deployment,
    policy: Policy,
    stream: RequestStream,
    *,
    seed: int = 0,
    warmup: int = 0,
    keep_stages: bool = False,
    progress: Progress | None = None,
    fleet: Fleet | None = None,
    cache: CacheSettings | None = None,
    stop: int | None = None,
    pools: Pools | None = None,
    steps: int = 0,
    groups: Groups | None = None,
    grown: Growing | None = None,
    options: PartOptions = NO_OPTIONS,
) -> Run:
    """Serve a stream of requests.

    Parameters
    ----------
    warmup : int
        Completions, on all replicas together, left out of rates and latencies.
    keep_stages : bool
        Keep the table of groups of steps.
    progress : callable, optional
        See `progress.Progress`.
    fleet : Fleet, optional
        Replicas behind a router, and their failures.
    cache : CacheSettings, optional
        How engines set up their KV caches.
    stop : int, optional
        Completions after which the run ends; rates are then for a system that never drains.
    steps : int
        Keep the first steps (`Run.steps`), of one engine of one rank; all then run one by one.
    pools : Pools, optional
        The nodes of a deployment of two pools, if they are more than its own; `policy` and `cache` then apply to the
        prefill nodes.
    groups : Groups, optional
        What the groups of a fleet have left, where it is simulated in such.
    options : PartOptions
        Options of parts of the run.
    grown : Growing, optional
        What runs of fewer requests of the same stream have left.

    Raises
    ------
    InputError
        No requests, or a warm-up that leaves none.
    CapacityError
        Weights or a single request that do not fit.
    """
    began = time.perf_counter()
    fleet, clients = fleet or Fleet(), None if stream.has_arrivals else stream.closed_loop
    pools, stream = _asked(deployment, stream, fleet, pools)
    deployment = deployment if pools.decode else pools.entry[0]
    if groups is not None:
        served = joined(pools, *groups)
    else:
        asked = RunSettings(
            pools, policy, stream, fleet, warmup, stop, keep_stages or steps > 0, cache, seed, steps, options=options
        )
        served = serve(asked, progress, None if grown is None else grown.served)
    if served.completed == 0:
        if served.table.refused:
            raise InputError("--classes", "rejects every request; increase max_waiting or max_wait")
        raise InputError(stream.name, "has no requests")
    if warmup >= (count := served.completed):
        raise InputError("--warmup", f"must be below the {count} requests, not {warmup}")
    measured = collect(
        served, deployment, policy, stream.name, seed=seed, warmup=warmup,
        copies=fleet.replicas, clients=clients, stop=bool(stop), wall_s=time.perf_counter() - began,
    )  # fmt: skip
    measured = left_of_parts(measured, served, stream, warmup)
    return replace(measured, steps=steps_of(served.engines[0], steps)) if steps else measured


def run_group(
    deployment: Deployment, policy: Policy, stream: RequestStream, cut: Cut, *, fleet: Fleet | None = None,
    pools: Pools | None = None, keep_stages: bool = False, **options: Any,
) -> RunState:  # fmt: skip
    """Serve the requests that a stream sends to one group of a fleet's replicas, for `groups` of `run`; same options."""
    fleet = fleet or Fleet()
    pools, stream = _asked(deployment, stream, fleet, pools)
    return left_of(serve(RunSettings(pools, policy, stream, fleet, keep_log=keep_stages, cut=cut, **options)))


def _asked(
    deployment: Deployment, stream: RequestStream, fleet: Fleet, pools: Pools | None
) -> tuple[Pools, RequestStream]:
    """Return the nodes of the run and the requests as engines see them."""
    if deployment.model.front is not None:
        raise InputError(
            deployment.model.name, "takes images, not tokens; use opbyte compare, or opbyte frames on an FPGA"
        )
    for hook, value in hooks_at("engine_requests", deployment.parts):
        stream = hook(value, stream)
    clients = stream.closed_loop
    if clients is not None and not deployment.pools and clients < deployment.replicas:
        raise InputError("--closed-loop", f"needs at least {deployment.replicas} clients, one for each replica")
    pools = pools or pools_of(deployment, fleet)
    for hook, value in hooks_at("nodes", deployment.parts):
        pools = hook(value, pools, stream)
    return pools, stream
