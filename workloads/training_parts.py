"""Training of the parts of a layer: formats of their ops, the losses that train indexers, and the FLOPs of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .batch import Moments
from .layers import Run, is_routed
from .layers.base import Routed, elementwise
from .model import Layer, ModelSpec, embedding_ops, layer_ops
from .ops import Loads, Op, about
from .training import SPARSE, RepeatedOp, backward, idle, loss_ops, made_anew

WIDE = frozenset({"compress", "index_compress", "index_weights", "out_down"})
"""Products that stay in 16 bits in steps of narrow formats: pools of tokens, the weights of index heads, and the grouped output
(`get_fp8_disabled_context` of csa.py; the `einsum` of deepseek_v4_hybrid_attention.py, NVIDIA/Megatron-LM)."""
ALONE = ("q_norm", "index_rotation")
"""Vector ops that serving engines fuse with others: norms of queries' heads and the rotation of index queries (`_q_rms_norm` of
deepseek_v4_hybrid_attention.py and `rotate_activation` of csa.py, NVIDIA/Megatron-LM)."""
INDEX_PASSES = 74
"""16-bit values that an indexer's loss moves for each chosen entry (gathered scores, softmax, two copies and the KL divergence in
32 bits), besides the gradients of keys. Its backward pass has three products like the one of its scores. The target takes the scores of
attention again, one of its two products (`FusedCSAIndexerSparseAttnFunc`, fused_sparse_attention.py, NVIDIA/Megatron-LM; indexer_backward_sm100.py, NVIDIA/cudnn-frontend)."""
NOTHING = Loads(np.zeros(1), np.zeros(1))


def training_ops(layer: Layer, moments: Moments, run: Run) -> list[list[Op]]:
    """Return the ops of the forward pass of each part of a layer, in the formats of training; experts without loads."""
    return [[_widened(op, run, ops) for op in ops] for ops in layer_ops(layer, moments, run, NOTHING)]


def _learns(ops: Sequence[Op]) -> bool:
    """Return whether sparse attention and its indexer are among the ops of a part."""
    return {"index_weights", "index_prefill", SPARSE} <= {op.name for op in ops if not idle(op)}


def _widened(op: Op, run: Run, ops: Sequence[Op]) -> Op:
    """Return an op of a part in 16 bits if training runs it so: `WIDE`, and scores from which an indexer learns."""
    if op.name not in WIDE and not (about(op.kind).table == "index_prefill" and _learns(ops)):
        return op
    weights = op.product * op.flops / 2 / op.shape.get("m", 1.0)
    return replace(op, dtype="bf16", weight_bytes=run.numerics.act_bytes * weights)


def part_backward(ops: Sequence[Op], run: Run, gradient_bytes: float) -> list[RepeatedOp]:
    """Return the kernels of the backward pass of a part's ops; see `backward`.

    An indexer of sparse attention learns from a loss of its own, on whole sequences: the loss compares its scores of the chosen entries with
    those of attention, and each query adds to the gradients of its keys in 32 bits. What the indexer reads gets no gradient.
    """
    learns = _learns(ops)
    out = [
        work
        for op in ops
        if not (learns and about(op.kind).table in ("index_prefill", "index_select"))
        for work in backward(op, run, gradient_bytes)[learns and op.product and op.name.startswith("index_") :]
    ]
    return out + _indexer_loss({op.kind: op for op in ops if not idle(op)}, run) if learns else out


def _indexer_loss(kinds: Mapping[str, Op], run: Run) -> list[RepeatedOp]:
    """Return the kernels that train an indexer, from the ops of its part by kind; see `INDEX_PASSES`."""
    scores, attention = kinds["index_prefill"], kinds[SPARSE]
    s = scores.shape
    most = 2 * s["pairs"] / s["tokens"]
    chosen = min(kinds["index_select"].shape["token_bytes"] / 4, most)
    read = s["tokens"] * chosen * (1 - chosen / (2 * most))
    return [
        RepeatedOp(replace(attention, name="index_target"), read / attention.shape["pairs"] / 2),
        RepeatedOp(replace(scores, name="index_grad"), 3 * read / s["pairs"]),
        RepeatedOp(elementwise("index_loss", scores.layer, read, 1, INDEX_PASSES + s["flops"] / s["rows"], run)),
    ]


@dataclass(frozen=True, slots=True)
class Flops:
    """Matmul FLOPs of a step.

    Attributes
    ----------
    model : float
        Three times those: what the model's size says, whatever is computed again.
    hardware : float
        What devices compute, scores and layers made anew among them.
    """

    forward: float
    model: float
    hardware: float

    def times(self, steps: int) -> Flops:
        """Return the FLOPs of `steps` equal steps."""
        return Flops(steps * self.forward, steps * self.model, steps * self.hardware)


def step_flops(spec: ModelSpec, moments: Moments, run: Run, recompute: str, stages: int = 1) -> Flops:
    """Return the matmul FLOPs of a step on whole sequences.

    Every token has a logit, and experts have their expected loads.

    Parameters
    ----------
    moments : Moments
        Sums over all sequences of the step.
    recompute, stages : str, int
        See `made_anew`; of "full:N" each pipeline stage has N layers.
    """
    scope, _, layers = recompute.partition(":")
    recompute, share = scope, min(int(layers) * stages / len(spec.layers), 1.0) if layers else 1.0
    forward = hardware = 0.0
    for ops, count, again in _every_part(spec, moments, run):
        for op in ops:
            flops = op.flops * count * about(op.kind).matrix
            forward += flops
            hardware += flops * (1.0 + again * share * made_anew(op, run, recompute))
        hardware += count * sum(w.flops for w in part_backward(ops, run, 0.0) if about(w.op.kind).matrix)
    return Flops(forward, 3 * forward, hardware)


def losses(spec: ModelSpec) -> int:
    """Return how often a token's logits are computed: once, and once more per multi-token-prediction head."""
    heads = spec.mtp * spec.mtp_heads
    return 1 + spec.mtp_heads * bool(heads and spec.layers[-len(heads) :] == heads)


def _every_part(spec: ModelSpec, moments: Moments, run: Run) -> list[tuple[list[Op], int, bool]]:
    """Return the ops of a forward pass part by part, how often each part runs, and whether it belongs to a layer."""
    out = [(embedding_ops(spec, moments, run), 1, False), (loss_ops(spec, moments, run, 1), losses(spec), False)]
    for layer, count in spec.groups:
        for part, ops in zip(layer.parts, training_ops(layer, moments, run), strict=True):
            if is_routed(part):
                ops = [part.expert_op(even_loads(part.routed, moments.tokens), run) if op.routed else op for op in ops]
            out.append((ops, count, True))
    return out


def even_loads(routed: Routed, tokens: float) -> Loads:
    """Return loads with tokens spread evenly over all experts."""
    return Loads(np.array([tokens * routed.top_k / routed.experts]), np.array([routed.experts]))
