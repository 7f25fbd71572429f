"""MoS, mixture of shards (arXiv 2410.00938): adapters of tenants stored as pools of shards."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from opbyte.extend import LayerKind, Table, deploy, load_model, load_system
from opbyte.extend.models import LowRank, PooledAdapter, adaptable
from opbyte.extend.training import Prices, RepeatedOp

from .moe_graphs import GRAPHS, Graph
from .published import Prediction

MODEL, SYSTEM = "llama-2-7b", "a100-80gb-x1"
RANK, SHARE = 64, 8
"""Rank of the adapters, and the factor by which a pool is smaller than all their weights."""
Adapt = Callable[[LayerKind], LayerKind]
ASSUMPTIONS = (
    (
        f"an adapter of rank {RANK} on all matrices of {MODEL}, in 16 bit; a pool has 1/{SHARE} of its weights, and "
        "the indices into it are left out"
    ),
    f"tenants use the memory that the model leaves of an {SYSTEM}'s usable memory, without a KV cache",
)


@GRAPHS.register("mos")
def mos() -> Graph:
    """Predict MoS: adapters are assembled from a pool of shards when they are loaded."""
    pool, plain_bytes = tenant_bytes(pooled), tenant_bytes(plain)
    rows = (
        Prediction("mos.bytes_per_tenant", pool / 1e6, f"plain LoRA of the same rank: {plain_bytes / 1e6:.1f} MB"),
        Prediction("mos.tenants_in_80GB", float(room() // pool), f"plain LoRA: {room() // plain_bytes:.0f}"),
    )
    return Graph(rows, (_loading(),), ASSUMPTIONS, 2)


def pooled(part: LayerKind) -> LayerKind:
    """Return a part of a layer with an adapter from a pool."""
    return PooledAdapter(adaptable(part), RANK, RANK // SHARE)


def plain(part: LayerKind) -> LayerKind:
    """Return a part with a separate adapter."""
    return LowRank(adaptable(part), RANK)


def tenant_bytes(adapt: Adapt) -> float:
    """Return the bytes that one tenant's adapters add to the model [B]."""
    spec = load_model(MODEL)
    num, added = spec.numerics, 0.0
    for layer in spec.layers:
        for part in layer.parts:
            for sign, one in ((1, adapt(part)), (-1, part)):
                added += sign * sum(w.total * num.weight_bytes(w.group) for w in one.weights())
    return added


@cache
def room() -> float:
    """Return the memory of a device that remains next to the model [B]."""
    return deploy(load_model(MODEL), load_system(SYSTEM)).memory().kv


def _loading() -> Table:
    """Return each adapter's size, number of tenants, time of transfer from the host, and time of assembly."""
    d = deploy(load_model(MODEL), load_system(SYSTEM))
    host = d.system.device.host_memory
    assert host is not None
    assemble = 0.0
    for part in (part for layer in d.model.layers for part in layer.parts):
        gathers = PooledAdapter(adaptable(part), RANK, RANK // SHARE).assembly(d.run)
        assemble += sum(Prices(d).op(RepeatedOp(op)) for op in gathers)
    rows = []
    for name, adapt, more in (("LoRA", plain, 0.0), ("MoS", pooled, assemble)):
        size = tenant_bytes(adapt)
        rows.append({"adapter": name, "MB": size / 1e6, "tenants": room() // size,
                     "from_host_ms": (host.latency_s + size / host.bandwidth_bytes_per_s) * 1e3,
                     "assembly_ms": more * 1e3})  # fmt: skip
    return Table("mos_loading", "MoS: what a tenant takes, and what loading it costs", rows)
