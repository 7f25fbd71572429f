"""Bytes that a micro-batch keeps on a device from its forward to its backward pass.

Where a paper's model fits (no experts, attention through main memory, dropout), the sums are those of
Korthikanti et al. (arXiv 2205.05198), table 2; they come from the ops, so any model has them.

What the forward pass of a training step keeps for the backward pass, op by op.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...workloads.layers import Run
from ...workloads.ops import Op, about
from ...workloads.training import ALTERNATE, MODULES, SAVED_BITS, idle
from .layout import TrainingOptions

INPUT_READERS = frozenset(
    {"qkv", "qkv_down", "kv_down", "gate_up", "gate", "up", "in", "router", "router_in", "shared_gate_up", "shared_up",
     "residual_gate_up", "residual_up"}
)  # fmt: skip
"""Matmuls that read the input of their part of a layer, which is kept once for all of them."""

KEEPS_NOTHING = frozenset({"embedding", "positions", "rope", "keys", "combine", "topk", "loss"})
"""Linear vector ops, whose backward pass needs no input; gates are applied within the experts, so what comes back from them is not kept. What a loss keeps
is in `states.LOSSES`."""

OUTPUT = "mla_up_proj dropped"
"""Module of what is kept only where recomputing the projections of latent attention drops its queries, keys and values."""


DROPPED = {"selective": "core_attn", "full": "core_attn", ALTERNATE: "layernorm,mlp_up"}
"""Modules of other ways to compute again; `mlp_up` is the half of `mlp` that torchtitan drops."""


def dropped_modules(recompute: str) -> frozenset[str]:
    """Modules whose tensors are not kept."""
    chosen = {*DROPPED.get(recompute, recompute).split(",")}
    if "mlp" in chosen:
        chosen.add("mlp_up")
    if "mla_up_proj" not in chosen:
        chosen.add(OUTPUT)
    return frozenset(chosen)


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """One tensor that the forward pass keeps for the backward pass.

    Attributes
    ----------
    name : str
        Tensors of equal names in one part of a layer are the same one.
    module : str
        Of `MODULES`: recomputing it drops the tensor.
    whole : bool
        Whether it spans the whole width of the model, so that tensor-parallel devices hold it alike
        unless they split it along the sequence.
    """

    name: str
    bytes: float
    module: str = ""
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
    narrow = SAVED_BITS.get(op.dtype, 8 * value) / 8
    if needs == "experts":  # inputs of both products, and what the activation reads
        return [
            SavedTensor(op.name, s["routed"] * s["hidden"] * narrow, module="moe"),
            SavedTensor("expert_gate", s["routed"] * (s["matrices"] - 1) * s["inter"] * value, module="moe"),
            SavedTensor("expert_activation", s["routed"] * s["inter"] * narrow, module="moe_act"),
        ]
    if needs == "state":  # what it reads, half of what it moves
        return [SavedTensor(op.name, op.bytes / 2, module="mhc" if op.name in MODULES["mhc"] else "")]
    scores = _scores(op) if run.score_passes else 0.0
    operands = op.act_bytes - run.score_passes * value * scores
    operands += op.kv_write_bytes * (op.kind == "attention_prefill")
    out = [SavedTensor(op.name, operands, module="mla_up_proj" if op.kind == "mla_prefill" else "")]
    if scores:
        out.append(SavedTensor("softmax", value * scores, module="core_attn"))
        if dropout:
            out.append(SavedTensor("dropped", (value + 1) * scores, module="core_attn"))
    return out


def _scores(op: Op) -> float:
    """Entries of the whole score matrices of an attention op over whole sequences."""
    s = op.shape
    if op.kind == "attention_image":
        return s["heads"] * s["pairs"]
    heads = s["heads_q"] if "heads_q" in s else s["heads"]
    return heads * s["tokens"] * s["kv"] / s["batch"] if s["batch"] else 0.0


DOWN_MODULES = {"down": "mlp_up", "shared_down": "shared_experts"}
"""Modules whose recomputation makes the operand of a second product again."""


def _kept_by_matmul(op: Op, value: float, hidden: int) -> list[SavedTensor]:
    s = op.shape
    size = s["m"] * s["k"] * s.get("batch", 1) * SAVED_BITS.get(op.dtype, 8 * value) / 8
    if op.name == "out":  # attention keeps it as its output, until its operands are dropped
        if op.layer == "state":  # output of the norm behind the states
            return [SavedTensor(op.name, size, module="gdn_norm_out")]
        return [SavedTensor(op.name, s["m"] * s["k"] * value, module=OUTPUT)]
    first = op.name in INPUT_READERS or (op.name == "q_up" and s["k"] == hidden)
    module = "layernorm" if first else DOWN_MODULES.get(op.name, "")
    out = [SavedTensor("input" if first else op.name, size, module, whole=first or op.name == "logits")]
    if op.name in ("router", "router_out"):  # probabilities stay in 32 bit
        out.append(SavedTensor("probabilities", 4.0 * s["m"] * s["n"], whole=True))
    return out


def _kept_by_vector(op: Op, value: float, hidden: int) -> list[SavedTensor]:
    """Inputs of a vector op; a norm moves four tensors and keeps one of them."""
    rows, cols, tensors = (op.shape[name] for name in ("rows", "cols", "tensors"))
    saved = tensors / 4 if op.name in ("norm", "final_norm") else tensors - 1
    module = "shared_experts" if op.name == "shared_activation" else ""
    if op.name == "activation":  # gate and up
        halves = (("gate", 1.0, "mlp"), ("up", saved - 1.0, "mlp_up"))
        return [SavedTensor(name, size * rows * cols * value, of) for name, size, of in halves]
    return [SavedTensor(op.name, saved * rows * cols * value, module, whole=cols == hidden)]


MASK_BYTES = 1.0
"""Of a dropped or kept value."""


def input_bytes(tokens: float, hidden: int, run: Run, options: TrainingOptions, tp: int) -> float:
    """Input of one layer, all that whole-layer recomputation keeps of it [B]."""
    return tokens * hidden * run.numerics.act_bytes / _split(options, tp)


def layer_bytes(
    parts: Sequence[Sequence[Op]], tokens: float, hidden: int, run: Run, options: TrainingOptions,
    tp: int, parallel: bool = False,
) -> float:  # fmt: skip
    """What one layer keeps while its backward pass is to come [B].

    Parameters
    ----------
    parts : sequence of sequence of Op
        Ops of the layer's parts on one device, experts at their loads among them.
    tokens : float
        Of the micro-batch of a data-parallel rank.
    parallel : bool
        Whether the parts read the same input side by side.
    """
    masks = len(parts) * MASK_BYTES * tokens * hidden / _split(options, tp)
    if parallel:
        parts = [[op for ops in parts for op in ops]]
    total = sum(part_bytes(ops, hidden, run, options, tp) for ops in parts)
    return total + masks * options.dropout


def part_bytes(ops: Sequence[Op], hidden: int, run: Run, options: TrainingOptions, tp: int) -> float:
    """Bytes that the ops of one part keep, each tensor once."""
    dropped = dropped_modules(options.recompute)
    return sum(size for (_, module), size in _saved(ops, hidden, run, options, tp).items() if module not in dropped)


def _saved(ops: Sequence[Op], hidden: int, run: Run, options: TrainingOptions, tp: int) -> dict[tuple[str, str], float]:
    """Bytes of the tensors of one part, by name and module of recomputation [B]."""
    saved: dict[str, SavedTensor] = {}
    for tensor in (k for op in ops for k in kept(op, run, hidden, options.dropout)):
        saved[tensor.name] = max(saved.get(tensor.name, tensor), tensor, key=lambda k: k.bytes)
    split = _split(options, tp)
    return {(k.name, k.module): k.bytes / (split if k.whole else 1) for k in saved.values()}


def offloaded_bytes(ops: Sequence[Op], hidden: int, run: Run, options: TrainingOptions, tp: int) -> float:
    """Bytes of a part's kept tensors that `TrainingOptions.offload_modules` moves to the host's memory."""
    every, dropped = _saved(ops, hidden, run, options, tp), dropped_modules(options.recompute)
    sizes = {name: size * (module not in dropped) for (name, module), size in every.items()}
    attention = sum(sizes.get(op.name, 0.0) for op in ops if about(op.kind).scores or op.kind in ATTENDS)
    # Attention keeps its output with its inputs, unless these are recomputed.
    output = every.get(("out", OUTPUT), 0.0) if attention else sizes.get("out", 0.0)
    mixer = any(op.name == "out" for op in ops)
    sizes |= {"core_attn": max(attention - output, 0.0), "attn_proj": output}
    names = {"attn_norm": "norm" * mixer, "mlp_norm": "norm" * (not mixer), "qkv_linear": "input" * mixer}
    names |= {"expert_fc1": "experts", "fused_group_mlp": "experts", "moe_act": "expert_gate"}
    return sum(sizes.get(names.get(module, module), 0.0) for module in options.offload_modules.split(","))


ATTENDS = frozenset({"sparse_prefill"})
"""Attention whose ops count no scores."""


def _split(options: TrainingOptions, tp: int) -> int:
    """Devices that share what spans the whole width."""
    return tp if options.sequence_parallel else 1
