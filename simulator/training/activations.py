"""Activations that a micro-batch stores on a device from its forward to its backward pass, op by op.

Where a paper's model applies (no experts, attention that writes its scores, dropout), the sums are those of
Korthikanti et al. (arXiv 2205.05198), table 2. They are computed from the ops, so any model has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...workloads.layers import LatentAttention, Run, SparseLatentAttention, is_routed
from ...workloads.ops import Op, about
from ...workloads.training import ALTERNATE, MODULES, SAVED_BITS, idle
from ..deploy.deployment import Deployment
from .layout import TrainingOptions

INPUT_READERS = frozenset(
    {"qkv", "qkv_down", "kv_down", "gate_up", "gate", "up", "in", "router", "router_in", "shared_gate_up", "shared_up",
     "residual_gate_up", "residual_up"}
)  # fmt: skip
"""Matmuls that read the input of their part of a layer, which is stored once for all of them."""

KEEPS_NOTHING = frozenset({"embedding", "positions", "rope", "keys", "combine", "topk", "loss", "index_rotation"})
"""Vector ops whose backward pass needs no stored input.

Gates are applied within the experts, so the tokens that return from experts are not stored. `states.LOSSES` gives the bytes
that a loss stores.
"""

OUTPUT = "mla_up_proj dropped"
"""Module of the tensors that are stored only if recomputing the projections of latent attention drops its queries, keys and
values.
"""


DROPPED = {"selective": "core_attn", "full": "core_attn", ALTERNATE: "layernorm,mlp_up"}
"""Modules that the named recomputation modes drop; `mlp_up` is the half of `mlp` that torchtitan drops."""


def dropped_modules(recompute: str) -> frozenset[str]:
    """Return the modules whose tensors are not stored."""
    chosen = {*DROPPED.get(recompute, recompute).split(",")}
    if "mlp" in chosen:
        chosen.add("mlp_up")
    if "mla_up_proj" not in chosen:
        chosen.add(OUTPUT)
    return frozenset(chosen)


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """One tensor that the forward pass stores for the backward pass.

    Attributes
    ----------
    name : str
        Tensors of equal names in one part of a layer are the same tensor.
    module : str
        One of `MODULES`: recomputing it drops the tensor.
    whole : bool
        Whether the tensor spans the whole width of the model. Each tensor-parallel device then stores all of it, unless the
        devices split it along the sequence.
    """

    name: str
    bytes: float
    module: str = ""
    whole: bool = False


def kept(op: Op, run: Run, hidden: int, dropout: bool = False) -> list[SavedTensor]:
    """Return the tensors that one op of a forward pass stores for its backward pass.

    The count of Korthikanti et al. (arXiv 2205.05198, section 4), op by op. Stored are the input of every matmul and
    activation function, and queries, keys, values and output of attention. Attention that is not fused also stores the
    softmax's output. A layer of experts stores the tokens sent to it, and its outputs for the gates' gradient.

    Parameters
    ----------
    hidden : int
        Width of the model.
    dropout : bool
        Whether attention that is not fused drops scores: it then also stores a mask of one byte per score, and the
        remaining scores.
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
    if needs == "experts":  # inputs of both products and of the activation function
        return [
            SavedTensor(op.name, s["routed"] * s["hidden"] * narrow, module="moe"),
            SavedTensor("expert_gate", s["routed"] * (s["matrices"] - 1) * s["inter"] * value, module="moe"),
            SavedTensor("expert_activation", s["routed"] * s["inter"] * narrow, module="moe_act"),
        ]
    if needs == "state":  # its input, half of its traffic
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
    """Return the number of entries of an attention op's score matrices, for whole sequences."""
    s = op.shape
    if op.kind == "attention_image":
        return s["heads"] * s["pairs"]
    heads = s["heads_q"] if "heads_q" in s else s["heads"]
    return heads * s["tokens"] * s["kv"] / s["batch"] if s["batch"] else 0.0


DOWN_MODULES = {"down": "mlp_up", "shared_down": "shared_experts"}
"""Modules whose recomputation also recomputes the operand of a second product."""


def _kept_by_matmul(op: Op, value: float, hidden: int) -> list[SavedTensor]:
    s = op.shape
    size = s["m"] * s["k"] * s.get("batch", 1) * SAVED_BITS.get(op.dtype, 8 * value) / 8
    if op.name == "out":  # attention stores it as its output, unless its operands are dropped
        if op.layer == "state":  # output of the norm after the states
            return [SavedTensor(op.name, size, module="gdn_norm_out")]
        return [SavedTensor(op.name, s["m"] * s["k"] * value, module=OUTPUT)]
    first = op.name in INPUT_READERS or (op.name == "q_up" and s["k"] == hidden)
    module = "layernorm" if first else DOWN_MODULES.get(op.name, "")
    out = [SavedTensor("input" if first else op.name, size, module, whole=first or op.name == "logits")]
    if op.name in ("router", "router_out"):  # probabilities stay in 32 bit
        out.append(SavedTensor("probabilities", 4.0 * s["m"] * s["n"], whole=True))
    return out


def _kept_by_vector(op: Op, value: float, hidden: int) -> list[SavedTensor]:
    """Return the stored inputs of a vector op; a norm moves four tensors and stores one of them."""
    rows, cols, tensors = (op.shape[name] for name in ("rows", "cols", "tensors"))
    saved = tensors / 4 if op.name in ("norm", "final_norm") else tensors - 1
    module = {"shared_activation": "shared_experts", "q_norm": "mla_up_proj"}.get(op.name, "")
    if op.name == "activation":  # gate and up
        halves = (("gate", 1.0, "mlp"), ("up", saved - 1.0, "mlp_up"))
        return [SavedTensor(name, size * rows * cols * value, of) for name, size, of in halves]
    return [SavedTensor(op.name, saved * rows * cols * value, module, whole=cols == hidden)]


MASK_BYTES = 1.0
"""Bytes of a dropout mask per value."""


def input_bytes(tokens: float, hidden: int, run: Run, options: TrainingOptions, tp: int) -> float:
    """Return the bytes of one layer's input, which whole-layer recomputation stores instead of its activations [B]."""
    return tokens * hidden * run.numerics.act_bytes / _split(options, tp)


def layer_bytes(
    parts: Sequence[Sequence[Op]], tokens: float, hidden: int, run: Run, options: TrainingOptions,
    tp: int, parallel: bool = False,
) -> float:  # fmt: skip
    """Return the bytes that one layer stores until its backward pass [B].

    Parameters
    ----------
    parts : sequence of sequence of Op
        Ops of the layer's parts on one device, including the experts with their loads.
    tokens : float
        Tokens of a micro-batch on a data-parallel rank.
    parallel : bool
        Whether the parts read the same input in parallel.
    """
    masks = len(parts) * MASK_BYTES * tokens * hidden / _split(options, tp)
    if parallel:
        parts = [[op for ops in parts for op in ops]]
    total = sum(part_bytes(ops, hidden, run, options, tp) for ops in parts)
    return total + masks * options.dropout


def part_bytes(ops: Sequence[Op], hidden: int, run: Run, options: TrainingOptions, tp: int) -> float:
    """Return the bytes that the ops of one part store, each tensor once [B]."""
    dropped = dropped_modules(options.recompute)
    return sum(size for (_, module), size in _saved(ops, hidden, run, options, tp).items() if module not in dropped)


def _saved(ops: Sequence[Op], hidden: int, run: Run, options: TrainingOptions, tp: int) -> dict[tuple[str, str], float]:
    """Return the bytes of the tensors of one part, by name and module of recomputation [B]."""
    saved: dict[str, SavedTensor] = {}
    for tensor in (k for op in ops for k in kept(op, run, hidden, options.dropout)):
        saved[tensor.name] = max(saved.get(tensor.name, tensor), tensor, key=lambda k: k.bytes)
    split = _split(options, tp)
    return {(k.name, k.module): k.bytes / (split if k.whole else 1) for k in saved.values()}


def offloaded_bytes(ops: Sequence[Op], hidden: int, run: Run, options: TrainingOptions, tp: int) -> float:
    """Return the bytes of a part's stored tensors that `TrainingOptions.offload_modules` moves to host memory [B]."""
    every, dropped = _saved(ops, hidden, run, options, tp), dropped_modules(options.recompute)
    sizes = {name: size * (module not in dropped) for (name, module), size in every.items()}
    attention = sum(sizes.get(op.name, 0.0) for op in ops if about(op.kind).scores or op.kind in ATTENDS)
    # Attention stores its output with its inputs, unless these are recomputed.
    output = every.get(("out", OUTPUT), 0.0) if attention else sizes.get("out", 0.0)
    mixer = any(op.name == "out" for op in ops)
    sizes |= {"core_attn": max(attention - output, 0.0), "attn_proj": output}
    names = {"attn_norm": "norm" * mixer, "mlp_norm": "norm" * (not mixer), "qkv_linear": "input" * mixer}
    names |= {"expert_fc1": "experts", "fused_group_mlp": "experts", "moe_act": "expert_gate"}
    return sum(sizes.get(names.get(module, module), 0.0) for module in options.offload_modules.split(","))


ATTENDS = frozenset({"sparse_prefill"})
"""Kinds of attention ops that count no scores."""


def _split(options: TrainingOptions, tp: int) -> int:
    """Return the number of devices that share a tensor of the whole width."""
    return tp if options.sequence_parallel else 1


LATENT = (LatentAttention, SparseLatentAttention)
"""Layer kinds with the module `mla_up_proj`."""


def least_first(deployment: Deployment) -> Iterator[str]:
    """Generate sets of modules to recompute, starting with none; modules that save most per second are added first."""
    yield "none"
    chosen: list[str] = []
    layers = deployment.shard.layers
    latent = any(isinstance(part, LATENT) for layer in layers for part in layer.parts)
    dense = any(not is_routed(layer.ffn) for layer in layers if layer.ffn is not None)
    for module, there in (
        ("mla_up_proj", latent),
        ("moe_act", bool(deployment.experts)),
        ("layernorm", True),
        ("mlp", dense),
    ):
        if there:
            chosen.append(module)
            yield ",".join(chosen)
