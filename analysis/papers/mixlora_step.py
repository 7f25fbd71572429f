"""MixLoRA by simulation: a forward pass kernel by kernel, and the memory of adapters on one base."""

from __future__ import annotations

from functools import cache

from opbyte.extend import Deployment, ModelSpec, Op, Run, deploy, load_model, load_system
from opbyte.extend.models import (
    BITS,
    AdapterExperts,
    FeedForward,
    LowRank,
    adaptable,
    elementwise,
    embedding_ops,
    head_ops,
    layer_ops,
)
from opbyte.extend.training import Prices, RepeatedOp, loss_ops, whole_sequences

SYSTEM = "rtx-4090-x1"
EXPERTS, TOP_K, RANK = 8, 2, 16
SEQUENCES, LENGTH = 8, 512
"""Sequences of a batch, and tokens of each [assumed]."""
ADAPTER_FORMAT = "fp32"
"""Adapters are trained, so they stay in 32 bit while the base has 16 [assumed]."""
DESIGNS = ("lora", "plain", "optimised")


@cache
def deployed(model: str) -> Deployment:
    """The base on one card."""
    return deploy(load_model(model), load_system(SYSTEM))


def experts_of(spec: ModelSpec, base_once: bool) -> AdapterExperts:
    """Adapter experts on the model's feed-forward block."""
    base = spec.layers[0].ffn
    assert isinstance(base, FeedForward)
    return AdapterExperts(base, EXPERTS, TOP_K, RANK, base_once)


def forward_ops(model: str, design: str, sequences: int = SEQUENCES, training: bool = False) -> list[tuple[Op, int]]:
    """Kernels of a forward pass with how often each runs, one after another.

    Parameters
    ----------
    design : str
        One of `DESIGNS`: an adapter on every matrix, or adapter experts on the feed-forward block.
    training : bool
        Every token has a logit and a loss, and the input of every adapter is dropped out.
    """
    spec = load_model(model)
    m, run = whole_sequences(sequences, LENGTH, spec.windows), Run(spec.numerics)
    ends = loss_ops(spec, m, run, 1) if training else head_ops(spec, m, run, 1)
    ops_found = [(op, 1) for op in (*embedding_ops(spec, m, run), *ends)]
    layer = spec.layers[0]
    norms = [op for part in layer_ops(layer, m, run, None) for op in part if op.name == "norm"]
    ops = norms + LowRank(adaptable(layer.mixer), RANK).ops(m, run, None)
    if design == "lora":
        assert layer.ffn is not None
        ops += LowRank(adaptable(layer.ffn), RANK).ops(m, run, None)
    else:
        even = [m.tokens * TOP_K / EXPERTS] * EXPERTS
        ops += experts_of(spec, design == "optimised").kernels(even, run)
    ops += [op for a in ops for op in _dropout(a, run)] if training else []
    return ops_found + [(op, len(spec.layers)) for op in ops]


def _dropout(op: Op, run: Run) -> list[Op]:
    """Input of an adapter's first matrix, read and written, with a mask of a byte."""
    if not (op.name.startswith("lora_") and op.name.endswith("_a")):
        return []
    tensors = 2 + 1 / run.numerics.act_bytes
    return [elementwise(f"{op.name}_dropout", "adapters", op.shape["m"], int(op.shape["k"]), tensors, run)]


@cache
def forward_s(model: str, design: str, sequences: int = SEQUENCES, training: bool = False) -> float:
    """Seconds of a forward pass [s]."""
    prices = Prices(deployed(model))
    return sum(prices.op(RepeatedOp(op)) * count for op, count in forward_ops(model, design, sequences, training))


def parts_s(model: str, design: str) -> dict[str, float]:
    """Seconds of an inference pass by part: the base's matrices, the adapters', and vectors [s]."""
    prices, out = (Prices(deployed(model)), {"matrices of the base": 0.0, "adapters": 0.0, "vectors": 0.0})
    for op, count in forward_ops(model, design):
        if op.kind == "elementwise":
            name = "vectors"
        else:
            name = "adapters" if op.layer == "adapters" else "matrices of the base"
        out[name] += prices.op(RepeatedOp(op)) * count
    return out


def flops(model: str, design: str) -> float:
    """Matmul FLOPs of a pass over one sequence, the head aside."""
    return sum(
        op.flops * count for op, count in forward_ops(model, design, 1)
        if op.kind != "elementwise" and op.layer != "head"
    )  # fmt: skip


def memory_gib(model: str, adapters: int) -> float:
    """Return the memory of the base and `adapters` sets of adapter experts and attention adapters [GiB]."""
    spec = load_model(model)
    layer = spec.layers[0]
    experts = experts_of(spec, True)
    pair = LowRank(adaptable(layer.mixer), RANK).pair + sum(w.total for w in experts.weights())
    pair -= sum(w.total for w in experts.base.weights())
    adapter_bytes = pair * len(spec.layers) * BITS[ADAPTER_FORMAT] / 8
    return (spec.weight_bytes + adapters * adapter_bytes) / 2**30
