"""Adapters as mixtures: MoS (arXiv 2410.00938), pools of shards; SMoRA (arXiv 2501.15103), single ranks as experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from opbyte.extend import Batch, LayerKind, Loads, ModelSpec, Moments, Op, Run, Table, deploy, load_model, load_system
from opbyte.extend.models import LowRank, PooledAdapter, RankExperts, adaptable
from opbyte.extend.training import Prices, RepeatedOp

from .moe_graphs import GRAPHS, Graph
from .published import Prediction

MODEL, SYSTEM = "llama-2-7b", "a100-80gb-x1"
RANK = 64
"""Rank of the adapters."""
SHARE = 8
"""Factor by which a pool of shards is smaller than all weights of its adapters."""
TOP_K = 8
"""Ranks that a token uses."""
TOKENS = (1, 16, 256, 4096)
Adapt = Callable[[LayerKind], LayerKind]
POOLED = (
    (
        f"an adapter of rank {RANK} on all matrices of {MODEL}, in 16 bit; a pool has 1/{SHARE} of its weights, and "
        "the indices into it are left out"
    ),
    f"tenants use the memory that the model leaves of an {SYSTEM}'s usable memory, without a KV cache",
)
BY_RANK = (
    (
        f"an adapter of rank {RANK} on all matrices of {MODEL}, {TOP_K} ranks a token [assumed]; the router's "
        "own products are not in the share"
    ),
)
"""Assumptions of both systems."""


@GRAPHS.register("mos")
def mos() -> Graph:
    """Predict MoS: adapters are assembled from a pool of shards when they are loaded."""
    pool, plain_bytes = tenant_bytes(pooled), tenant_bytes(plain)
    rows = (
        Prediction("mos.bytes_per_tenant", pool / 1e6, f"plain LoRA of the same rank: {plain_bytes / 1e6:.1f} MB"),
        Prediction("mos.tenants_in_80GB", float(room() // pool), f"plain LoRA: {room() // plain_bytes:.0f}"),
    )
    return Graph(rows, (_loading(),), POOLED, 2)


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


@GRAPHS.register("smora")
def smora() -> Graph:
    """Predict SMoRA: a token uses some ranks of an adapter."""
    m = _moments(TOKENS[-1])
    chosen, all_flops = (sum(op.flops for op in ops(m)) for ops in (_chosen, _whole))
    row = Prediction("smora.flop_share", chosen / all_flops)
    return Graph((row,), (_by_tokens(),), BY_RANK, len(TOKENS))


def _spec() -> ModelSpec:
    return load_model(MODEL)


def _moments(tokens: int) -> Moments:
    return Batch.of([0] * tokens).moments((0,))


def _chosen(moments: Moments) -> list[Op]:
    """Return the ops of the chosen ranks in one layer, one op per adapted part."""
    run = Run(_spec().numerics)
    loads = Loads.expected(moments.tokens, TOP_K, RANK, RANK)
    return [part.expert_op(loads, run) for part in _parts()]


def _whole(moments: Moments) -> list[Op]:
    """Return the products with all ranks of one layer's adapters, without the additions of their results."""
    run = Run(_spec().numerics)
    return [
        op
        for part in _spec().layers[0].parts
        for op in LowRank(adaptable(part), RANK).ops(moments, run, None)
        if op.layer == "adapters" and op.product
    ]


def _parts() -> list[RankExperts]:
    return [RankExperts(adaptable(part), RANK, TOP_K) for part in _spec().layers[0].parts]


def _by_tokens() -> Table:
    """Compare adapter bytes gathered per token with bytes of distinct ranks, and the times, for one layer."""
    prices, run = Prices(deploy(_spec(), load_system(SYSTEM))), Run(_spec().numerics)
    rows = []
    for tokens in TOKENS:
        m = _moments(tokens)
        took = [sum(prices.op(RepeatedOp(op)) for op in ops(m)) * 1e6 for ops in (_chosen, _whole)]
        rows.append({
            "tokens": tokens,
            "gathered_MB": sum(part.gathered_bytes(tokens, run) for part in _parts()) / 1e6,
            "distinct_MB": sum(op.weight_bytes for op in _chosen(m)) / 1e6,
            "ranks_us": took[0], "adapter_us": took[1],
        })  # fmt: skip
    note = "gathered: every token fetches its rows; distinct: each rank once; ranks are one call a part"
    return Table("smora_tokens", "SMoRA: a layer's adapters by tokens of a step", rows, note)
