"""Results of the prefill and decode pools, and of the KV transfers between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...deploy.deployment import Deployment
from ...engine.policies import Policy
from ...engine.state import F8
from ...engine.work_log import Total, totals_at
from ...fleet.nodes import Node
from ...fleet.pools import KvLink
from ...fleet.run_state import RunState, devices_of_nodes
from ...quantity import Figures, Quantity
from ...results.metrics import Quantiles, quantiles
from ...results.record import FULL, Requests, Run, steady_stages
from ...results.steady import Window
from ..autoscale.replicas import Scaling
from ..experts_apart.holders import devices_apart

LATE = ("tbt", "tpot")
"""Latencies that the decode pool and the KV transfer link determine."""


@dataclass(frozen=True, slots=True)
class PoolRun:
    """Results of one of the two pools.

    Attributes
    ----------
    name : str
        "prefill" or "decode".
    deployment : Deployment
        Deployment of one replica.
    devices : int
        Devices of all replicas.
    stepping : float
        Share of the measurement window that a replica spends in steps.
    sending : float
        Share of the run that a port of the link is busy.
    kv_peak : float
        See `Run.kv_peak`.
    scaling : Scaling or None
        Replicas over time, if an autoscaler changes them.
    """

    name: str
    deployment: Deployment
    policy: Policy
    replicas: int
    devices: int
    stepping: float
    sending: float
    kv_peak: float
    kv_capacity: float
    iterations: int
    preemptions: int
    output_tokens: int
    prompt_tokens: int
    scaling: Scaling | None = None

    def mean_devices(self, window: Window) -> float:
        """Return the devices of the pool; with an autoscaler, their mean over a window."""
        return self.devices if self.scaling is None else self.scaling.mean_devices(window)


@dataclass(frozen=True, slots=True)
class KvMoves:
    """KV transfers from the prefill pool to the decode pool.

    Attributes
    ----------
    count : int
        Number of transfers; a cache sent again after a failure counts again.
    wait_s : Quantiles
        Time from the first token to the start of the transfer [s]; 0 if layers were sent before.
    transfer_s : Quantiles
        Time from the first token, or from the start of the transfer if that is later, to its end [s].
    share : float or None
        Share of both in the sum of all requests' times from arrival to last token.
    start_s, end_s : float64 array
        Start and end of each request's transfer [s], in the order of `Run.requests`; NaN without one.
    """

    link: KvLink
    count: int
    total_bytes: float
    wait_s: Quantiles
    transfer_s: Quantiles
    share: float | None
    start_s: F8
    end_s: F8


@dataclass(frozen=True, slots=True)
class TwoPools:
    """Results of two pools and their transfers; `limiting` is the pool or link that more load would fill first."""

    pools: tuple[PoolRun, ...]
    moves: KvMoves
    limiting: str

    def mean_devices(self, window: Window) -> float:
        """Return the mean number of devices of both pools over a window."""
        return sum(pool.mean_devices(window) for pool in self.pools)


def pools_left(run: Run, served: RunState, *_: object) -> TwoPools | None:
    """Return the results of both pools; None if there is only one."""
    end = run.makespan_s
    pools, moves = _pool_runs(served, run, end), _kv_moves(served, run.requests)
    if not pools or moves is None:
        return None
    pools_found = TwoPools(pools, moves, "")
    return replace(pools_found, limiting=limiting_pool(run, pools_found))


def pools_of(run: Run) -> tuple[PoolRun, ...]:
    """Return both pools of a run; an empty tuple if there is only one."""
    left = run.parts.get("two-pools")
    return () if left is None else left.pools


def _pool_runs(served: RunState, run: Run, end: float) -> tuple[PoolRun, ...]:
    pools, first = served.pools, len(served.pools.entry)
    if not pools.decode:
        return ()
    scalings: list[Any] = [
        scaling and scaling.until(end, run.requests.first_token_s - run.requests.arrival_s)
        for scaling in served.presence
    ]
    sides = (
        ("prefill", served.policy, served.nodes[:first], scalings[0]),
        ("decode", run.policy, served.nodes[first:], scalings[1]),
    )
    return tuple(_pool(name, policy, nodes, scaling, run.window, end) for name, policy, nodes, scaling in sides)


def _pool(name: str, policy: Policy, nodes: list[Node], scaling: Scaling | None, window: Window, end: float) -> PoolRun:
    """Return the results of one pool: shares of time in steps and in transfers, and sums over its engines."""
    engines = [node.engine for node in nodes]
    curves = [engine.curve() for engine in engines]
    ends = (window.start_s, window.end_s)
    stepping = float(np.diff(totals_at(curves, ends), axis=0)[0][Total.STEPPING])
    busy_s = sum(node.busy_s for node in nodes)
    ports = sum(node.engine.deployment.ranks for node in nodes)
    deployment = engines[0].deployment
    there_s, run_s = len(nodes) * window.length_s, ports * end
    if scaling is not None:  # count only the replicas that existed
        there_s = scaling.held_s(None, window.start_s, window.end_s) * deployment.replicas
        run_s = scaling.held_s() * deployment.replicas * deployment.ranks
    total_s = there_s * deployment.layout.pp

    def count(counter: str) -> int:
        return sum(int(engine.state.counters[0][counter]) for engine in engines)

    return PoolRun(
        name, deployment, policy, len(nodes), devices_of_nodes(nodes) + devices_apart(deployment) * len(nodes),
        stepping=min(stepping / total_s, 1.0) if total_s > 0 else 0.0,
        sending=min(busy_s / run_s, 1.0) if run_s > 0 else 0.0,
        kv_peak=max(float(e.state.clocks[0].kv_peak) / e.kv.capacity for e in engines),
        kv_capacity=engines[0].kv.capacity, iterations=count("steps"),
        preemptions=count("preemptions"), output_tokens=count("emitted"),
        prompt_tokens=count("prompt_tokens"), scaling=scaling,
    )  # fmt: skip


def _kv_moves(served: RunState, requests: Requests) -> KvMoves | None:
    """Return the results of the KV transfers; None without two pools."""
    moves, link = served.parts.get("two-pools"), served.pools.link
    if moves is None or link is None:
        return None
    done = served.table.done()
    start, end, first = moves.start_s[done], moves.end_s[done], requests.first_token_s
    left = np.maximum(start, first)
    total_s = float((requests.last_token_s - requests.arrival_s).sum())
    share = float(np.nansum(end - first)) / total_s if total_s > 0 else None
    return KvMoves(
        link, moves.count, moves.total_bytes, quantiles(left - first), quantiles(end - left), share, start, end
    )


def limiting_pool(run: Run, left: TwoPools, missed: Sequence[str] = ()) -> str:
    """Return the part of a run with two pools that limits it: "prefill", "decode" or "link".

    A nearly saturated port of the link is the limit. Otherwise the exceeded latencies decide. Gaps between tokens belong to
    the decode pool, or to the link if transfers take longer than all later tokens. TTFT belongs to the prefill pool, unless
    transfers wait longer for the decode pool than prompts wait for a step. Without exceeded latencies the resource
    with the least slack is the limit: step time, sequences and memory, or a port.
    """
    m, (prefill, decode) = left.moves, left.pools
    if max(p.sending for p in left.pools) >= FULL:
        return "link"
    late = [name for name in missed if name.startswith(LATE)]
    first = [name for name in missed if name.startswith("ttft")]
    if late and not first:
        decoded = run.requests.last_token_s - np.maximum(m.end_s, run.requests.first_token_s)
        moved = (m.wait_s.mean or 0.0) + (m.transfer_s.mean or 0.0)
        blocked = (m.wait_s.mean or 0.0) > (m.transfer_s.mean or 0.0)
        return "link" if moved > np.nanmean(decoded) and not blocked else "decode"
    queued = float((run.requests.scheduled_s - run.requests.arrival_s).mean())
    if first or run.window.overloaded:
        parked = (m.wait_s.mean or 0.0) > queued or _room(run, left) >= FULL
        return "decode" if parked and prefill.stepping < FULL else "prefill"
    used = {
        "prefill": prefill.stepping, "decode": max(_room(run, left), decode.kv_peak),
        "link": max(p.sending for p in left.pools),
    }  # fmt: skip
    return max(used, key=used.__getitem__)


def _room(run: Run, left: TwoPools) -> float:
    """Return the share of the decode pool's sequences in use, over the time of its steps; 0 without a log."""
    decode, stages = left.pools[1], steady_stages(run) if run.stages else {}
    if not stages:
        return 0.0
    mine = stages["node"] >= left.pools[0].replicas
    length = (stages["end_s"] - stages["start_s"])[mine]
    most = decode.policy.max_sequences * decode.deployment.ranks
    total = float(length.sum())
    return float((length * stages["running"][mine]).sum()) / total / most if total else 0.0


def _layout(name: str) -> Quantity:
    return Quantity(name, f"Its {name}.", lambda p: getattr(p.deployment.layout, name))


def _busy(pool: int) -> Callable[[Any], Any]:
    return lambda t: t.pools[pool].stepping


POOL = (
    Quantity("name", "Name of the pool: prefill or decode.", label="pool"),
    Quantity("system", "System of one replica.", "deployment.system.name", label="system"),
    Quantity("replicas", "Engines of the pool.", label="engines"),
    Quantity("devices", "Devices of the pool.", label="devices"),
    Quantity("policy", "Batching policy of the pool.", "policy.name"),
    *map(_layout, ("tp", "dp", "ep", "pp")),
    Quantity("utilisation", "Share of the run in which the pool's engines run steps.", "stepping", "%", "in steps"),
    Quantity("port_utilisation", "Share of the run in which a port of the KV transfer link is busy.", "sending", "%", "port busy"),
    Quantity("kv_peak_fraction", "Largest share of the pool's KV cache in use, 0 to 1.", "kv_peak", "%", "KV at most"),
    Quantity("iterations", "Steps of the pool's engines.", label="steps"),
    Quantity("preemptions", "Preemptions in the pool."),
    Quantity("prompt_tokens", "Prompt tokens computed in the pool."),
    Quantity("output_tokens", "Output tokens of the pool."),
)  # fmt: skip
LINK = (
    Quantity("name", "Name of the link.", "link.name", label="KV link"),
    Quantity("bytes_per_s", "Bandwidth of the link per device, one way [B/s].",
             lambda m: m.link.bandwidth_bytes_per_s if m.link.paced else None, "B/s", "rate"),
    Quantity("latency_s", "Latency of one KV transfer [s].", "link.latency_s"),
    Quantity("overlap", "Whether the KV cache is transferred layer by layer during prefill.", lambda m: "layers" if m.link.by_layer else "none", label="overlap"),
    Quantity("caches", "KV caches transferred.", "count", label="caches"),
    Quantity("bytes", "Bytes of all KV transfers [B].", "total_bytes", "B", "transferred"),
    Quantity("wait_s", "Time that a KV cache waits for the link [s].", "wait_s", "s", "wait"),
    Quantity("transfer_s", "Time of a KV transfer [s].", "transfer_s", "s", "transfer"),
    Quantity("share_of_latency", "Share of the end-to-end latency in waits for the link and KV transfers.", "share", "%", "of the requests' time"),
)  # fmt: skip
FIGURES = Figures("", "Prefill and decode pools", (
    Quantity("pools", "Values of each pool.", lambda t: list(t.pools), inside=POOL),
    Quantity("kv_link", "KV transfer link between the pools.", "moves", inside=LINK),
    Quantity("limiting_pool", "Pool that saturates first if the load grows.", "limiting", label="more load fills first"),
), (
    Quantity("prefill_utilisation", "Share of the run in which the prefill pool's engines run steps.", _busy(0), column=True),
    Quantity("decode_utilisation", "Share of the run in which the decode pool's engines run steps.", _busy(1), column=True),
    Quantity("kv_wait_s_mean", "Mean time that a KV cache waits for the link between the pools [s].", "moves.wait_s.mean", column=True),
    Quantity("kv_transfer_s_mean", "Mean time of a KV transfer between the pools [s].", "moves.transfer_s.mean", column=True),
    Quantity("kv_share_of_latency", "Share of the end-to-end latency in waits for the link and KV transfers.", "moves.share", column=True),
    Quantity("limiting_pool", "Pool that saturates first if the load grows.", "limiting", column=True),
), "prefill", "it is of two pools (prefill and decode)", "intervals", late=True)  # fmt: skip
