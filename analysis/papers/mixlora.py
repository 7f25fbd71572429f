"""MixLoRA (arXiv 2404.15159): adapter experts on one feed-forward block, plain and with the base run once.

Kernels are launched expert by expert as the authors' engine does. What is saved in FLOPs (0.73) shrinks by
what both designs have alike: small products of the adapters and passes over vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from opbyte.extend import Deployment, ModelSpec, Op, Run, Table, deploy, load_model, load_system
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

from .published import Prediction, paper

SYSTEM = "rtx-4090-x1"
EXPERTS, TOP_K, RANK = 8, 2, 16
SEQUENCES, LENGTH = 8, 512
"""Sequences of a batch, and tokens of each [assumed]."""
ADAPTER_FORMAT = "fp32"
"""Adapters are trained, so they stay in 32 bit while the base has 16 [assumed]."""
DESIGNS = ("lora", "plain", "optimised")


@cache
def deployed(model: str) -> Deployment:
    """Deploy the base model on one GPU."""
    return deploy(load_model(model), load_system(SYSTEM))


def experts_of(spec: ModelSpec, base_once: bool) -> AdapterExperts:
    """Return adapter experts on the model's feed-forward block."""
    base = spec.layers[0].ffn
    assert isinstance(base, FeedForward)
    return AdapterExperts(base, EXPERTS, TOP_K, RANK, base_once)


def forward_ops(model: str, design: str, sequences: int = SEQUENCES, training: bool = False) -> list[tuple[Op, int]]:
    """Return the kernels of a forward pass in order, each with the number of its calls.

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
    """Return the dropout of an adapter's input: one read and one write, and a mask of one byte per element."""
    if not (op.name.startswith("lora_") and op.name.endswith("_a")):
        return []
    tensors = 2 + 1 / run.numerics.act_bytes
    return [elementwise(f"{op.name}_dropout", "adapters", op.shape["m"], int(op.shape["k"]), tensors, run)]


@cache
def forward_s(model: str, design: str, sequences: int = SEQUENCES, training: bool = False) -> float:
    """Return the time of a forward pass [s]."""
    prices = Prices(deployed(model))
    return sum(prices.op(RepeatedOp(op)) * count for op, count in forward_ops(model, design, sequences, training))


def parts_s(model: str, design: str) -> dict[str, float]:
    """Return the seconds of an inference pass by part: matrices of the base, adapters, and vector ops."""
    prices, out = (Prices(deployed(model)), {"matrices of the base": 0.0, "adapters": 0.0, "vectors": 0.0})
    for op, count in forward_ops(model, design):
        if op.kind == "elementwise":
            name = "vectors"
        else:
            name = "adapters" if op.layer == "adapters" else "matrices of the base"
        out[name] += prices.op(RepeatedOp(op)) * count
    return out


def flops(model: str, design: str) -> float:
    """Return the matmul FLOPs of a pass over one sequence, without the head."""
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


LLAMA, GEMMA = "llama-2-7b", "gemma-2b"
BATCHES = (1, 2, 4, 8, 16)


def ratio(model: str, sequences: int = SEQUENCES, training: bool = False) -> float:
    """Return the time with the base run once over the time of plain experts."""
    ours, plain = (forward_s(model, d, sequences, training) for d in ("optimised", "plain"))
    return ours / plain


def predictions() -> Iterator[Prediction]:
    """Predict all rows from kernel times and weights."""
    work = flops(LLAMA, "optimised") / flops(LLAMA, "plain")
    yield Prediction("mixlora.llama2.inference.optimised_over_plain", ratio(LLAMA), f"FLOPs: {work:.3f}")
    yield Prediction("mixlora.llama2.memory_two", memory_gib(LLAMA, 2))
    yield Prediction("mixlora.llama2.training.optimised_over_plain", ratio(LLAMA, training=True))
    yield Prediction("mixlora.gemma.inference.optimised_over_plain", ratio(GEMMA))


def _batches() -> Table:
    rows = []
    for sequences in BATCHES:
        tokens = sequences * LENGTH
        us = {d: forward_s(LLAMA, d, sequences) / tokens * 1e6 for d in DESIGNS}
        rows.append({"tokens": tokens, **{f"{d}_us_a_token": took for d, took in us.items()},
                     "optimised_over_plain": ratio(LLAMA, sequences)})  # fmt: skip
    return Table("batches", f"Forward pass of {LLAMA} by tokens of the batch", rows)


def _parts() -> Table:
    rows = []
    for design in DESIGNS:
        launches = sum(count for _, count in forward_ops(LLAMA, design))
        ms = {name: took * 1e3 for name, took in parts_s(LLAMA, design).items()}
        rows.append({"design": design, "TFLOP": SEQUENCES * flops(LLAMA, design) / 1e12,
                     "kernels": launches, **{f"{name}_ms": took for name, took in ms.items()}})  # fmt: skip
    return Table("parts", f"Where a forward pass of {LLAMA} spends its time", rows)


def _drawn() -> Table:
    """Return the milliseconds of a pass by part for the plot."""
    rows = [
        {"case": design, **{name: took * 1e3 for name, took in parts_s(LLAMA, design).items()}} for design in DESIGNS
    ]
    return Table("steps", f"A forward pass of {LLAMA} by design (ms)", rows)


paper(
    "mixlora", "MixLoRA: time and memory of adapter experts whose base runs once for a token.", predictions,
    tables=(_batches, _parts), drawn={"steps": _drawn}, runs=len(DESIGNS) * len(BATCHES) + 2,
)  # fmt: skip
