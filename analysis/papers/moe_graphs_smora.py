"""SMoRA (arXiv 2501.15103): single ranks of one adapter as experts, against the whole adapter."""

from __future__ import annotations

from opbyte.extend import Batch, Loads, ModelSpec, Moments, Op, Run, Table, deploy, load_model, load_system
from opbyte.extend.models import LowRank, RankExperts, adaptable
from opbyte.extend.training import Prices, RepeatedOp

from .moe_graphs import GRAPHS, Graph
from .published import Prediction

MODEL, SYSTEM = "llama-2-7b", "a100-80gb-x1"
RANK, TOP_K = 64, 8
TOKENS = (1, 16, 256, 4096)
ASSUMPTIONS = (
    (
        f"an adapter of rank {RANK} on all matrices of {MODEL}, {TOP_K} ranks a token [assumed]; the router's "
        "own products are not in the share"
    ),
)


@GRAPHS.register("smora")
def smora() -> Graph:
    """Predict SMoRA: a token uses some ranks of an adapter."""
    m = _moments(TOKENS[-1])
    chosen, all_flops = (sum(op.flops for op in ops(m)) for ops in (_chosen, _whole))
    row = Prediction("smora.flop_share", chosen / all_flops)
    return Graph((row,), (_by_tokens(),), ASSUMPTIONS, len(TOKENS))


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
