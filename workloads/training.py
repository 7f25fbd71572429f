"""A training step as ops: what the backward pass runs, and what the forward pass keeps for it.

Both follow from the ops of a forward pass, so every layer kind can be trained as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .batch import SEQUENCES, Batch, Moments
from .layers import Run, is_routed
from .layers.base import Routed, elementwise
from .model import ModelSpec, embedding_ops, head_ops, layer_ops
from .numerics import BITS
from .ops import Loads, Op, about

FUSED_BACKWARD = 2.5
"""Matmuls of a fused attention's backward pass over its forward pass: five (scores again, and the
gradients of scores, values, queries and keys) for two (Dao, FlashAttention-2, arXiv 2307.08691)."""

PLAIN_BACKWARD = 2.0
"""The same where nothing is computed again: a gradient for each of two operands."""

LOSS_TENSORS = 3
"""Passes over the logits: largest value and sum, exponentials, and the probabilities written."""

INPUT_READERS = frozenset(
    {"qkv", "qkv_down", "kv_down", "gate_up", "gate", "up", "in", "router", "router_in",
     "shared_gate_up", "shared_up",
     "residual_gate_up", "residual_up"}
)  # fmt: skip
"""Matmuls that read the input of their part of a layer, which is kept once for all of them."""

KEEPS_NOTHING = frozenset({"embedding", "positions", "rope", "out"})
"""Ops whose backward pass needs no input: linear vector ops, and the output projection, whose input
counts as the attention's output."""


@dataclass(frozen=True, slots=True)
class RepeatedOp:
    """Kernels like an op: each FLOP, byte and second of it `times` over."""

    op: Op
    times: float = 1.0

    @property
    def flops(self) -> float:
        return self.op.flops * self.times


def whole_sequences(sequences: int, length: int, windows: tuple[int, ...]) -> Moments:
    """Moments of a micro-batch: sequences from their first token on.

    Parameters
    ----------
    sequences, length : int
        How many, and the tokens of each.
    windows : tuple of int
        Attention windows of the model.
    """
    return Batch.of(chunks=[(length, 0)] * sequences).moments(windows)


def loss_ops(spec: ModelSpec, m: Moments, run: Run, tp: int) -> list[Op]:
    """Final norm, logits of all tokens and the loss; the vocabulary split over `tp` devices."""
    every = Moments(m.windows, m.values.copy())
    every.values[SEQUENCES] = m.tokens
    ops = head_ops(spec, every, run, tp)
    if not spec.vocab:
        return ops
    columns = int(ops[-1].shape["n"])
    return [*ops, elementwise("loss", "head", m.tokens, columns, LOSS_TENSORS, run)]


def backward(op: Op, run: Run, gradient_bytes: float) -> list[RepeatedOp]:
    """Kernels of the backward pass of one op.

    A matmul has two of its own FLOPs each, in its own format: the gradient of its input, which reads the weights, and
    that of its weights, which is added to what is there. Experts are two such layers of experts, at the same loads. A
    vector op moves every value and its gradient. Fused attention computes its scores once more.

    Parameters
    ----------
    op : Op
        Of the forward pass.
    gradient_bytes : float
        Of the gradient of a weight [B].
    """
    if idle(op):
        return []
    if op.product:
        return _matmul_gradients(op, run.numerics.act_bytes, gradient_bytes)
    if op.kind == "elementwise":
        doubled = {**op.shape, "tensors": 2 * op.shape["tensors"]}
        both = replace(op, shape=doubled, flops=2 * op.flops, act_bytes=2 * op.act_bytes)
        return [RepeatedOp(replace(both, name=f"{op.name}_grad"))]
    return [RepeatedOp(replace(op, name=f"{op.name}_grad"), backward_times(op, run))]


def idle(op: Op) -> bool:
    """Whether an op has nothing to do: those of decodes, in a batch of whole sequences."""
    return op.flops <= 0 and op.act_bytes <= 0


def backward_times(op: Op, run: Run) -> float:
    """FLOPs of an op's backward pass over those of its forward pass."""
    fused = run.attention == "flash" and about(op.kind).scores
    return FUSED_BACKWARD if fused else PLAIN_BACKWARD


def _matmul_gradients(op: Op, value_bytes: float, gradient_bytes: float) -> list[RepeatedOp]:
    s = op.shape
    m, n, k, batch = s["m"], s["n"], s["k"], s.get("batch", 1)
    by_input = replace(op, name=f"{op.name}_dgrad", shape={**s, "m": m, "n": k, "k": n})
    by_weight = replace(
        op, name=f"{op.name}_wgrad", shape={**s, "m": n, "n": k, "k": m},
        weight_bytes=BITS[op.dtype] / 8 * m * k * batch,
        act_bytes=value_bytes * m * n * batch + 2 * gradient_bytes * n * k * batch,
    )  # fmt: skip
    return [RepeatedOp(by_input), RepeatedOp(by_weight)]


def made_anew(op: Op, run: Run, recompute: str) -> bool:
    """Whether the backward pass runs an op of the forward pass once more.

    Parameters
    ----------
    recompute : str
        "none", "selective" (attention whose scores are not kept on chip), or "full".
    """
    if recompute == "selective":
        return run.attention == "unfused" and about(op.kind).scores
    return recompute == "full"


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
        """Those of so many steps alike."""
        return Flops(steps * self.forward, steps * self.model, steps * self.hardware)


def step_flops(spec: ModelSpec, m: Moments, run: Run, recompute: str) -> Flops:
    """Matmul FLOPs of a step on whole sequences, every token with a logit, loads as routed.

    Parameters
    ----------
    m : Moments
        Of all sequences of the step.
    recompute : str
        See `made_anew`.
    """
    forward = hardware = 0.0
    for op, again in _every_op(spec, m, run):
        if not about(op.kind).matrix:
            continue
        flops = op.flops * op.count
        forward += flops
        times = 1.0 + sum(w.times for w in backward(op, run, 0.0))
        hardware += flops * (times + (again and made_anew(op, run, recompute)))
    return Flops(forward, 3 * forward, hardware)


def _every_op(spec: ModelSpec, m: Moments, run: Run) -> list[tuple[Op, bool]]:
    """Ops of a forward pass with their counts, and whether they lie in a layer."""
    out = [(op, False) for op in (*embedding_ops(spec, m, run), *loss_ops(spec, m, run, 1))]
    for layer, count in spec.groups:
        for part, ops in zip(layer.parts, layer_ops(layer, m, run, _NOTHING), strict=True):
            for op in ops:
                if op.routed and is_routed(part):
                    op = part.expert_op(even_loads(part.routed, m.tokens), run)
                out.append((replace(op, count=count), True))
    return out


def even_loads(routed: Routed, tokens: float) -> Loads:
    """Tokens spread evenly over all experts."""
    return Loads(np.array([tokens * routed.top_k / routed.experts]), np.array([routed.experts]))


_NOTHING = Loads(np.zeros(1), np.zeros(1))


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """One tensor that the forward pass keeps for the backward pass.

    Attributes
    ----------
    name : str
        Tensors of equal names in one part of a layer are the same one.
    again : bool
        Whether selective recomputation makes it anew instead (scores of attention).
    whole : bool
        Whether it spans the whole width of the model, so that tensor-parallel devices hold it alike
        unless they split it along the sequence.
    """

    name: str
    bytes: float
    again: bool = False
    whole: bool = False


def kept(op: Op, run: Run, hidden: int, dropout: bool = False) -> list[SavedTensor]:
    """What one op of a forward pass keeps for its backward pass.

    The count of Korthikanti et al. (arXiv 2205.05198, section 4), op by op: the input of every matmul and activation
    function, queries, keys, values and output of attention, and of attention that is not fused the softmax's output. A
    layer of experts keeps the tokens sent to it, and what comes back for the gates' gradient.

    Parameters
    ----------
    hidden : int
        Width of the model.
    dropout : bool
        Whether attention that is not fused drops scores: it then keeps a mask of one byte, and the
        scores that are left, besides.
    """
    value = run.numerics.act_bytes
    s = op.shape
    if op.name in KEEPS_NOTHING or idle(op):
        return []
    needs = about(op.kind).backward
    if needs == "matmul":
        return _kept_by_matmul(op, value, hidden)
    if needs == "vector":
        return _kept_by_vector(op, value, hidden)
    if needs == "experts":
        rows = s["hidden"] + s["matrices"] * s["inter"]
        return [SavedTensor(op.name, s["routed"] * rows * value)]
    if needs == "state":
        return [SavedTensor(op.name, op.bytes)]
    scores = _scores(op) if run.attention == "unfused" else 0.0
    operands = op.act_bytes - 4 * value * scores  # scores are written and read twice
    out = [SavedTensor(op.name, operands + op.kv_write_bytes * (op.kind == "attention_prefill"))]
    if scores:
        out.append(SavedTensor("softmax", value * scores, again=True))
        if dropout:
            out.append(SavedTensor("dropped", (value + 1) * scores, again=True))
    return out


def _scores(op: Op) -> float:
    """Entries of the whole score matrices of an attention op over whole sequences."""
    s = op.shape
    if op.kind == "attention_image":
        return s["heads"] * s["pairs"]
    heads = s["heads_q"] if "heads_q" in s else s["heads"]
    return heads * s["tokens"] * s["kv"] / s["batch"] if s["batch"] else 0.0


def _kept_by_matmul(op: Op, value: float, hidden: int) -> list[SavedTensor]:
    s = op.shape
    size = s["m"] * s["k"] * s.get("batch", 1) * value
    first = op.name in INPUT_READERS or (op.name == "q_up" and s["k"] == hidden)
    out = [SavedTensor("input" if first else op.name, size, whole=first or op.name == "logits")]
    if op.name in ("router", "router_out"):  # probabilities stay in 32 bit
        out.append(SavedTensor("probabilities", 4.0 * s["m"] * s["n"], whole=True))
    return out


def _kept_by_vector(op: Op, value: float, hidden: int) -> list[SavedTensor]:
    """Inputs of a vector op; a norm moves four tensors and keeps one of them."""
    rows, cols, tensors = (op.shape[name] for name in ("rows", "cols", "tensors"))
    if op.name == "loss":  # the logits, in 32 bit
        return [SavedTensor("logits_32", 4.0 * rows * cols)]
    held = tensors / 4 if op.name in ("norm", "final_norm") else tensors - 1
    return [SavedTensor(op.name, held * rows * cols * value, whole=cols == hidden)]
