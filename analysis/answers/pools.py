"""Pool that limits a run with prefill and decode pools, and its limiting resource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...simulator.parts.two_pools.run import PoolRun, TwoPools, limiting_pool
from ...simulator.results.record import FULL, Run, steady_stages
from .limits import Limit, limit_of

LINK = "KV link"


def pool_limit(run: Run, missed: Mapping[str, float]) -> Limit:
    """Return the resource of the limiting pool that limits throughput; see `limits.limit_of`."""
    left: TwoPools = run.parts["two-pools"]
    name = limiting_pool(run, left, tuple(missed))
    if name == "link":
        busy = max(p.sending for p in left.pools)
        why = f"the KV link limits: a port is busy for {busy:.0%} of the run"
        return Limit(LINK, busy, why)
    pool = left.pools[name == "decode"]
    nodes = run.stages["node"] >= left.pools[0].replicas
    mine = nodes if name == "decode" else ~nodes
    alone = replace(
        run, deployment=pool.deployment, policy=pool.policy, kv_capacity=pool.kv_capacity,
        parts={k: v for k, v in run.parts.items() if k != "two-pools"},
        stages={key: column[mine] for key, column in run.stages.items()},
    )  # fmt: skip
    full = _full(alone, pool) if name == "decode" else None
    limit = full or limit_of(alone, missed)
    return Limit(f"{name} pool: {limit.resource}", limit.share, f"the {name} pool limits: {limit.why}")


def _full(run: Run, pool: PoolRun) -> Limit | None:
    """Return the decode pool's sequence limit or KV memory, if it is exhausted for most of its steps' time."""
    stages = steady_stages(run)
    length = stages["end_s"] - stages["start_s"]
    total = float(length.sum())
    if total <= 0:
        return None
    most = pool.policy.max_sequences * pool.deployment.ranks
    for used, total_all, name in (
        (stages["running"], float(most), "sequence limit"),
        (stages["kv_bytes"], pool.kv_capacity * pool.deployment.ranks, "KV capacity"),
    ):
        share = float(length[used >= FULL * total_all].sum()) / total
        if share >= 0.5:
            why = f"over {FULL:.0%} of its {name} is in use for {share:.0%} of its steps' time"
            return Limit(name, share, why)
    return None
