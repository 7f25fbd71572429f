"""Two pools in an answer: what each did, what crossed between them, and which one limits the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...simulator.serving.record import KvMoves, PoolRun, Run
from ..show.text import seconds, show
from .facet import Facet
from .limits import FULL, Limit, limit_of, steady_stages
from .quantities import Figure, Quantity

LINK = "KV link"
LATE = ("tbt", "tpot")
"""Latencies that the decode pool and the link make."""


def pool_dict(r: Run) -> dict[str, Any]:
    """Both pools and the link between them for JSON; nothing where there is one pool."""
    m = r.moves
    if not r.pools or m is None:
        return {}
    return {
        "pools": [_pool(p) for p in r.pools],
        "kv_link": {
            "name": m.link.name,
            "bytes_per_s": m.link.bandwidth_bytes_per_s if m.link.paced else None,
            "latency_s": m.link.latency_s,
            "overlap": "layers" if m.link.by_layer else "none",
            "caches": m.count,
            "bytes": m.total_bytes,
            "wait_s": m.wait_s.as_dict(),
            "transfer_s": m.transfer_s.as_dict(),
            "share_of_latency": m.share,
        },
        "limiting_pool": limiting_pool(r),
    }


def _pool(p: PoolRun) -> dict[str, Any]:
    layout = p.deployment.layout
    return {
        "name": p.name,
        "system": p.deployment.system.name,
        "replicas": p.replicas,
        "devices": p.devices,
        "policy": p.policy.name,
        **{name: getattr(layout, name) for name in ("tp", "dp", "ep", "pp")},
        "utilisation": p.stepping,
        "port_utilisation": p.sending,
        "kv_peak_fraction": p.kv_peak,
        "iterations": p.iterations,
        "preemptions": p.preemptions,
        "prompt_tokens": p.prompt_tokens,
        "output_tokens": p.output_tokens,
    }


def pool_blocks(r: Run) -> list[str | Sequence[Mapping[str, Any]]]:
    """The same for people: a row a pool, and a sentence on the link; nothing where there is one."""
    m = r.moves
    if not r.pools or m is None:
        return []
    rows = [
        {
            "pool": p.name, "on": p.deployment.system.name, "engines": p.replicas,
            "devices": p.devices, "layout": p.deployment.layout.degrees,
            "in steps": f"{p.stepping:.1%}", "KV at most": f"{p.kv_peak:.1%}",
            "steps": p.iterations,
        }
        for p in r.pools
    ]  # fmt: skip
    rate = "at any rate" if not m.link.paced else f"{m.link.bandwidth_bytes_per_s / 1e9:g} GB/s"
    share = "" if m.share is None else f", {m.share:.1%} of the requests' time"
    text = (
        f"{m.count:,} KV caches ({show(m.total_bytes / 1e9)} GB) crossed {m.link.name} ({rate} a "
        f"device{', layer by layer' if m.link.by_layer else ''}): they wait {_mean(m.wait_s.mean)} "
        f"and take {_mean(m.transfer_s.mean)} on average{share}; ports are busy for up to "
        f"{max(p.sending for p in r.pools):.1%} of the run. More load meets its limit first in the "
        f"{_spoken(limiting_pool(r))}."
    )
    return [rows, text]


def _mean(value: float | None) -> str:
    return "-" if value is None else seconds(value)


def _spoken(name: str) -> str:
    return LINK if name == "link" else f"{name} pool"


def limiting_pool(r: Run, missed: Sequence[str] = ()) -> str:
    """Which part of a run of two pools limits it: "prefill", "decode" or "link".

    A port of the link that is nearly always busy does. Otherwise latencies that are missed tell: those between tokens
    are the decode pool's, or the link's where caches are longer on it than between all later tokens. First tokens are
    late because of prompts, unless caches wait longer for room in the decode pool than prompts do for a step, while
    prompts have steps to spare. Without a latency it is what has the least to spare: of its steps' time, of places and
    memory, or of the time of a port.
    """
    m, (prefill, decode) = r.moves, r.pools
    assert m is not None
    if max(p.sending for p in r.pools) >= FULL:
        return "link"
    late = [name for name in missed if name.startswith(LATE)]
    first = [name for name in missed if name.startswith("ttft")]
    if late and not first:
        decoded = r.requests.last_token_s - np.maximum(m.end_s, r.requests.first_token_s)
        moved = (m.wait_s.mean or 0.0) + (m.transfer_s.mean or 0.0)
        blocked = (m.wait_s.mean or 0.0) > (m.transfer_s.mean or 0.0)
        return "link" if moved > np.nanmean(decoded) and not blocked else "decode"
    queued = float((r.requests.scheduled_s - r.requests.arrival_s).mean())
    if first or r.window.overloaded:
        parked = (m.wait_s.mean or 0.0) > queued or _room(r) >= FULL
        return "decode" if parked and prefill.stepping < FULL else "prefill"
    used = {
        "prefill": prefill.stepping, "decode": max(_room(r), decode.kv_peak),
        "link": max(p.sending for p in r.pools),
    }  # fmt: skip
    return max(used, key=used.__getitem__)


def _room(r: Run) -> float:
    """Share of the decode pool's places in use, over the time of its steps; 0 without its stretches."""
    decode, stages = r.pools[1], steady_stages(r) if r.stages else {}
    if not stages:
        return 0.0
    mine = stages["node"] >= r.pools[0].replicas
    length = (stages["end_s"] - stages["start_s"])[mine]
    most = decode.policy.max_sequences * decode.deployment.ranks
    total = float(length.sum())
    return float((length * stages["running"][mine]).sum()) / total / most if total else 0.0


def pool_limit(r: Run, missed: Mapping[str, float]) -> Limit:
    """What of the limiting pool keeps a run from serving more; see `limits.limit_of`."""
    name, m = limiting_pool(r, tuple(missed)), r.moves
    assert m is not None
    if name == "link":
        busy = max(p.sending for p in r.pools)
        why = f"the KV link limits: a port is busy for {busy:.0%} of the run"
        return Limit(LINK, busy, why)
    pool = r.pools[name == "decode"]
    nodes = r.stages["node"] >= r.pools[0].replicas
    mine = nodes if name == "decode" else ~nodes
    alone = replace(
        r, deployment=pool.deployment, policy=pool.policy, kv_capacity=pool.kv_capacity, pools=(),
        stages={key: column[mine] for key, column in r.stages.items()},
    )  # fmt: skip
    full = _full(alone, pool) if name == "decode" else None
    found = full or limit_of(alone, missed)
    return Limit(f"{name} pool: {found.resource}", found.share, f"the {name} pool limits: {found.why}")


def _full(r: Run, pool: PoolRun) -> Limit | None:
    """Places or memory of the decode pool, where they are in use for most of its steps' time."""
    stages = steady_stages(r)
    length = stages["end_s"] - stages["start_s"]
    total = float(length.sum())
    if total <= 0:
        return None
    most = pool.policy.max_sequences * pool.deployment.ranks
    for used, whole, name in (
        (stages["running"], float(most), "sequence limit"),
        (stages["kv_bytes"], pool.kv_capacity * pool.deployment.ranks, "KV capacity"),
    ):
        share = float(length[used >= FULL * whole].sum()) / total
        if share >= 0.5:
            why = f"over {FULL:.0%} of its {name} is in use for {share:.0%} of its steps' time"
            return Limit(name, share, why)
    return None


def _of_moves(value: Callable[[KvMoves], Figure]) -> Callable[[Run], Figure]:
    return lambda r: None if r.moves is None else value(r.moves)


QUANTITIES = (
    Quantity("prefill_utilisation", "Share of the time that the pool of prompts is busy.",
             lambda r: r.pools[0].stepping, column=True),
    Quantity("decode_utilisation", "Share of the time that the pool of decodes is busy.",
             lambda r: r.pools[1].stepping, column=True),
    Quantity("kv_wait_s_mean", "Mean wait of a KV cache for the link between pools [s].",
             _of_moves(lambda m: m.wait_s.mean), column=True),
    Quantity("kv_transfer_s_mean", "Mean time of its transfer [s].",
             _of_moves(lambda m: m.transfer_s.mean), column=True),
    Quantity("kv_share_of_latency", "Share of a request's time that its transfer takes.",
             _of_moves(lambda m: m.share), column=True),
    Quantity("limiting_pool", "The pool that more load would fill first.", limiting_pool, column=True),
)  # fmt: skip
FACET = Facet(
    pool_dict, pool_blocks, QUANTITIES, "prefill", "it is of two pools (prefill and decode)",
    after="intervals", late=True,
)  # fmt: skip
