"""Ops of a training step's backward pass, and the values that the forward pass keeps for it.

Both are derived from the ops of a forward pass, so every kind of layer can be trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .batch import SEQUENCES, Batch, Moments
from .errors import InputError
from .layers import Run
from .layers.base import elementwise
from .model import ModelSpec, head_ops
from .ops import IN_SEQUENCE, Op, about

FUSED_BACKWARD = 2.5
"""Matmul FLOPs of a fused attention's backward pass over its forward pass: five matmuls (scores again, and the
gradients of scores, values, queries and keys) for two (Dao, FlashAttention-2, arXiv 2307.08691)."""

RECOMPUTED_STATES = frozenset({"conv_prefill", "scan_prefill", "delta_prefill", "kda_prefill"})
"""Kernels whose backward pass computes the states between chunks again (`_mamba_chunk_scan_combined_bwd` in
state-spaces/mamba, ssd_combined.py; chunk.py of the delta rules in fla-org/flash-linear-attention)."""

SLOWER_BACKWARD = 56 / 42
"""Rate of a fused attention's forward kernels over that of the backward ones: shares of the BF16 peak in DeepSeek's published training trace
(deepseek-ai/profile-data@4496024, train.json, H800)."""

SPARSE = "sparse_prefill"
"""Kind of the ops of sparse attention, in which queries read only chosen entries."""

ADDS: Mapping[str, tuple[tuple[str, str, float], ...]] = {
    SPARSE: (("pairs", "key_bytes", 2.0),), "hyper_pre": (("tokens", "token_bytes", 5.4),),
}  # fmt: skip
"""Additional traffic of backward passes by kind of op: the keys of the op's shape for the number of rows and the bytes
of a row, and how often these bytes are moved. Each query of sparse attention adds to the gradients of its entries in 32
bits (`atomic_addx4` to `dKV` of tilelang_sparse_mla_bwd.py). The gradients of four residual streams come from their
projection, their sum and the following kernels, and are added (hyper_connection.py; both NVIDIA/Megatron-LM)."""

PLAIN_BACKWARD = 2.0
"""Backward over forward FLOPs without recomputation: a gradient for each of two operands."""

SAVED_BITS = {"fp8": 8.25, "fp8_block": 8.25, "fp4": 4.5}
"""Bits per value of a matmul's input that is kept for the backward pass, by the matmul's arithmetic format, block
scales included (Transformer Engine, docs/features/low_precision_training). Other formats keep 16 bits."""

CASTS: Mapping[str, tuple[float, float]] = {
    "fp8": (4.0, 2.0), "fp8_block": (2.0, 2.06), "mxfp8": (2.0, 2.06), "nvfp4": (4.0, 1.125),
}  # fmt: skip
"""Bytes that a cast reads and writes per 16-bit value, by format. Scales of a whole tensor, as in NVFP4 too, need its
largest value first, so the tensor is read twice. Every format is written by rows and by columns, for the products of
either pass (Transformer Engine, common/recipe)."""

AFTER_NORM = frozenset({"qkv", "qkv_down", "gate_up", "gate", "up", "in", "shared_gate_up", "shared_up"})
"""Matmuls that read a norm's output; the norm's kernel casts it if the cast reads values only once."""

MODULES: Mapping[str, frozenset[str]] = {
    "core_attn": frozenset(),
    "mla_up_proj": frozenset({"q_up", "q_norm", "kv_up", "keys", "rope"}),
    "layernorm": frozenset({"norm"}),
    "mhc": frozenset({"hyper_pre", "hyper_post"}),
    "moe_act": frozenset({"expert_activation", "expert_clamp"}),
    "mlp": frozenset({"gate_up", "gate", "up", "activation", "down"}),
    "shared_experts": frozenset({"shared_gate_up", "shared_up", "shared_activation", "shared_down"}),
    "gdn_norm_out": frozenset({"gated_norm"}),
    "moe": frozenset({"router", "router_in", "router_out", "topk", "experts", "combine", "shared_gate_up", "shared_up", "shared_activation",
                      "shared_down", "latent_down", "latent_up"}),
}  # fmt: skip
"""Modules of Megatron's selective recomputation, and the ops that the backward pass runs again (transformer_config.py, `recompute_modules`)."""

BIASED = "biased"
"""Key of an op's shape that marks experts with biases outside of a fused kernel."""
CLAMPED, ADDED = (8.0, 12.0), (14.0, 20.0)
"""Additional 16-bit values that experts with biases move, forward and backward, for each value of a row's inner and
outer width: the halves of the gated activation are clamped and joined, and the second bias is gated and added in 32
bits, expert by expert (`weighted_bias_quick_geglu_impl` of fused_bias_geglu.py and `_apply_bias` of experts.py in
NVIDIA/Megatron-LM; gradients as autograd makes them, with the sums for both biases)."""

LOSS_TENSORS = 3
"""Passes of the loss over the logits: largest value and sum, exponentials, and writing the probabilities."""


@dataclass(frozen=True, slots=True)
class RepeatedOp:
    """Kernels derived from an op: `times` its FLOPs and bytes, at a rate `slower` times lower than the op's.

    `late` marks gradients of weights, for which no other op waits.
    """

    op: Op
    times: float = 1.0
    slower: float = 1.0
    late: bool = False

    @property
    def flops(self) -> float:
        return self.op.flops * self.times


def whole_sequences(sequences: int, length: int, windows: tuple[int, ...]) -> Moments:
    """Return the moments of a micro-batch of whole sequences.

    Parameters
    ----------
    sequences, length : int
        How many, and the tokens of each.
    windows : tuple of int
        Attention windows of the model.
    """
    return Batch.of(chunks=[(length, 0)] * sequences).moments(windows)


def loss_ops(spec: ModelSpec, moments: Moments, run: Run, tp: int) -> list[Op]:
    """Return the final norm, the logits of all tokens and the loss, with the vocabulary split over `tp` devices."""
    every = Moments(moments.windows, moments.values.copy())
    every.values[SEQUENCES] = moments.tokens
    ops = head_ops(spec, every, run, tp)
    if not spec.vocab:
        return ops
    columns = int(ops[-1].shape["n"])
    return [*ops, elementwise("loss", "head", moments.tokens, columns, LOSS_TENSORS, run)]


def collective_op(kind: str, message_bytes: float, ranks: int) -> Op:
    """Return an exchange of `message_bytes` bytes as an op, for cost models of ops."""
    return Op(
        name=f"training_{kind}", layer="communication", kind=kind, phase="both",
        shape={"ranks": ranks}, dtype="bf16", flops=0.0, act_bytes=message_bytes,
    )  # fmt: skip


def along_sequence(op: Op, share: float) -> Op:
    """Return the op on a share of its tokens, as tensor-parallel devices split it along the sequence."""
    rows = "m" if op.product else "rows"
    shape = {**op.shape, rows: op.shape[rows] * share}
    return replace(op, shape=shape, flops=op.flops * share, act_bytes=op.act_bytes * share)


def forward(op: Op, run: Run) -> list[RepeatedOp]:
    """Return the kernels of an op's forward pass.

    Experts are grouped products between permutations; products in narrow formats follow casts.
    """
    if idle(op):
        return []
    if op.routed:
        return _around_experts(op, run, 0) + [w for one in grouped(op, run) for w in forward(one, run)]
    reads, written = _cast(op, run)
    if not reads or (op.name in AFTER_NORM and reads <= run.numerics.act_bytes):
        return [RepeatedOp(op)]
    return [RepeatedOp(op), _casting(op, run, reads + written, op.shape["k"])]


def _around_experts(op: Op, run: Run, way: int) -> list[RepeatedOp]:
    """Return the kernels around experts' products in the forward (0) or backward (1) pass: permutation, activation, biases."""
    rows, s, suffix = op.shape["routed"], op.shape, "_grad" if way else ""
    passes = 2 * s["matrices"] - 1 if way else s["matrices"]
    kernels = [
        elementwise(f"permute{suffix}", op.layer, rows, int(s["hidden"]), 2, run),
        elementwise(f"expert_activation{suffix}", op.layer, rows, int(s["inter"]), passes, run),
        *_biases(op, run, way),
    ]
    return [RepeatedOp(kernel) for kernel in kernels]


def _biases(op: Op, run: Run, way: int) -> list[Op]:
    """Return the ops that experts' biases add to the forward (0) or backward (1) pass."""
    s = op.shape
    if BIASED not in s:
        return []
    sizes = (("expert_clamp", "inter", CLAMPED), ("expert_bias", "hidden", ADDED))
    return [elementwise(name, op.layer, s["routed"], int(s[width]), moved[way], run) for name, width, moved in sizes]


def grouped(op: Op, run: Run) -> list[Op]:
    """Return experts as products: for each class of equally loaded experts, one to the inner width and one back."""
    assert op.loads is not None
    s, value = op.shape, run.numerics.act_bytes
    weight = op.weight_bytes / max(op.loads.active, 1e-300) / (s["matrices"] * s["hidden"] * s["inter"])
    out = []
    for rows, experts in zip(op.loads.tokens, op.loads.experts, strict=True):
        if rows * experts <= 0:
            continue
        for name, n, k in (
            ("expert_fc1", (s["matrices"] - 1) * s["inter"], s["hidden"]),
            ("expert_fc2", s["hidden"], s["inter"]),
        ):
            shape = {"m": float(rows), "n": n, "k": k, "batch": float(experts)}
            out.append(replace(
                op, name=name, kind="gemm", shape=shape, loads=None, access=IN_SEQUENCE, flops=2.0 * rows * experts * n * k,
                weight_bytes=weight * n * k * experts, act_bytes=value * rows * experts * (n + k),
            ))  # fmt: skip
    return out


def _cast(op: Op, run: Run) -> tuple[float, float]:
    """Return the bytes read and written per value that a product casts; 0 for products in 16 bits."""
    if not op.product or op.dtype not in SAVED_BITS:
        return 0.0, 0.0
    return CASTS.get(run.numerics.weight_format("ffn"), CASTS["fp8"])


def _casting(op: Op, run: Run, value_bytes: float, columns: float) -> RepeatedOp:
    rows = op.shape["m"] * op.shape.get("batch", 1)
    return RepeatedOp(elementwise("cast", op.layer, rows, int(columns), value_bytes / run.numerics.act_bytes, run))


def backward(op: Op, run: Run, gradient_bytes: float) -> list[RepeatedOp]:
    """Return the kernels of an op's backward pass.

    A matmul has two with its own FLOPs and format: the gradient of its input, which reads the weights, and
    that of its weights, which is added to what is there. Experts are grouped products, each with two such gradients, between permutations. A
    vector op moves every value and its gradient. Fused attention computes its scores once more.

    Parameters
    ----------
    op : Op
        Op of the forward pass.
    gradient_bytes : float
        Size of the gradient of a weight [B].
    """
    if idle(op):
        return []
    if op.routed:
        return _around_experts(op, run, 1) + [w for one in grouped(op, run) for w in backward(one, run, gradient_bytes)]
    if op.product:
        reads, written = _cast(op, run)
        casts = [_casting(op, run, reads + written, op.shape["n"])] if reads else []
        return [*_matmul_gradients(op, run.numerics.act_bytes, gradient_bytes), *casts]
    if op.kind == "elementwise":
        doubled = {**op.shape, "tensors": 2 * op.shape["tensors"]}
        both = replace(op, shape=doubled, flops=2 * op.flops, act_bytes=2 * op.act_bytes)
        return [RepeatedOp(replace(both, name=f"{op.name}_grad"))]
    slower = SLOWER_BACKWARD if _fused(op, run) else 1.0
    more = [
        elementwise(
            f"{op.name}_sums", op.layer, op.shape[rows], int(op.shape[width] / run.numerics.act_bytes), times, run
        )
        for rows, width, times in ADDS.get(op.kind, ())
    ]
    again = RepeatedOp(replace(op, name=f"{op.name}_grad"), backward_times(op, run), slower)
    return [again, *map(RepeatedOp, more)]


def _fused(op: Op, run: Run) -> bool:
    """Return whether an op is attention whose scores stay on the chip."""
    kind = about(op.kind)
    return run.attention == "flash" and (kind.scores or kind.table == SPARSE)


def idle(op: Op) -> bool:
    """Return whether an op has no work, as the ops of decodes in a batch of whole sequences."""
    return op.flops <= 0 and op.act_bytes <= 0


def backward_times(op: Op, run: Run) -> float:
    """Return the ratio of an op's backward FLOPs to its forward FLOPs."""
    if op.kind in RECOMPUTED_STATES:
        return PLAIN_BACKWARD + 1.0
    return FUSED_BACKWARD if _fused(op, run) else PLAIN_BACKWARD


def _matmul_gradients(op: Op, value_bytes: float, gradient_bytes: float) -> list[RepeatedOp]:
    s = op.shape
    m, n, k, batch = s["m"], s["n"], s["k"], s.get("batch", 1)
    by_input = replace(op, name=f"{op.name}_dgrad", shape={**s, "m": m, "n": k, "k": n})
    by_weight = replace(
        op, name=f"{op.name}_wgrad", shape={**s, "m": n, "n": k, "k": m},
        weight_bytes=SAVED_BITS.get(op.dtype, 8 * value_bytes) / 8 * m * k * batch,
        act_bytes=value_bytes * m * n * batch + 2 * gradient_bytes * n * k * batch,
    )  # fmt: skip
    return [RepeatedOp(by_input), RepeatedOp(by_weight, late=True)]


def check_recompute(recompute: str) -> None:
    """Refuse an unknown recomputation setting."""
    layers = recompute.removeprefix("full:")
    unknown = [name for name in recompute.split(",") if name not in MODULES]
    if (
        recompute not in ("none", "auto", "selective", "full", ALTERNATE)
        and unknown
        and not (layers != recompute and layers.isdecimal())
    ):
        raise InputError(
            "--recompute",
            f"must be none, auto, selective, alternate, full, full:N or some of {', '.join(MODULES)}, not {recompute!r}",
        )


ALTERNATE = "alternate"
"""Name of torchtitan's selective checkpoints. They recompute norms, activations and every second product, in the order
of a layer's calls: queries, keys, values, output, gate, up, down (pytorch/torchtitan@b5bcd76,
distributed/activation_checkpoint.py)."""
SECOND: Mapping[str, float] = {"gate_up": 0.5, "out": 1.0, "up": 1.0, "norm": 1.0, "rope": 1.0, "activation": 1.0}
"""Share of each op that `ALTERNATE` recomputes; the product for keys, a small part of `qkv`, is left out."""


def made_anew(op: Op, run: Run, recompute: str) -> float:
    """Return the share of a forward op that the backward pass recomputes, if whole layers are not recomputed.

    `recompute` has the form of `check_recompute`.
    """
    if recompute == ALTERNATE:
        return SECOND.get(op.name, 0.0)
    chosen = recompute.split(",")
    if about(op.kind).scores and ((recompute == "selective" and run.score_passes) or "core_attn" in chosen):
        return 1.0
    return float(recompute == "full" or any(op.name in MODULES.get(name, ()) for name in chosen))
