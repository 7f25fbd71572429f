"""Programs of the devices of a layout: the ops of a layer or the head, with the collectives between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...workloads.batch import Moments
from ...workloads.layers import RoutedKind, Run, is_routed
from ...workloads.layers.attention import SUMS
from ...workloads.layers.base import sent_width
from ...workloads.model import Layer, ModelSpec, head_ops, sampling_ops
from ...workloads.ops import LIBRARY_SUMS, Op
from .layout import Layout

TO_AND_FRO = "to_and_fro"
"""Key in an op's shape that marks transfers to experts on separate devices and back."""
QUANTISED = ("fp8", "nvfp4")
"""Formats of experts whose inputs TensorRT-LLM quantises before it gathers them (``run_post_quant_allgather`` in
tensorrt_llm/_torch/modules/fused_moe/fused_moe_cutlass.py); others gather 16 bits."""
LOGITS = "logits"
"""Label of the all-gather of logits over the devices of a rank."""


def all_reduce(label: str, tokens: float, hidden: int, ranks: int, run: Run) -> Op:
    """Return the op that sums partial outputs over a rank's devices."""
    op = _collective("all_reduce", label, tokens * hidden, ranks, run)
    return replace(op, shape={**op.shape, LIBRARY_SUMS: 1.0}) if LIBRARY_SUMS in run.alone else op


def all_to_all(label: str, tokens: float, hidden: int, top_k: int, tp: int, ranks: int, run: Run) -> Op:
    """Return the op that sends each token to the ranks of its experts; a rank's devices divide the sending."""
    op = _collective("all_to_all", label, tokens * hidden * top_k / tp, ranks, run)
    return replace(op, shape={**op.shape, "top_k": top_k})


def gather_tokens(kind: str, label: str, tokens: float, hidden: int, ranks: int, run: Run) -> Op:
    """Return an all-gather or reduce-scatter of the tokens of all ranks, assuming this rank's number on each.

    All ranks wait for the rank with the most tokens, and the step time is computed from that rank's program.
    """
    return _collective(kind, label, tokens * hidden * ranks, ranks, run)


def transfer(label: str, values: float, run: Run) -> Op:
    """Return the op that sends values from one device of a group to another."""
    return _collective("transfer", label, values, 2, run)


def to_and_fro(label: str, values: float, run: Run) -> Op:
    """Return the op that sends values to experts on separate devices, or back from them."""
    op = transfer(label, values, run)
    return replace(op, shape={**op.shape, TO_AND_FRO: 1})


def stage_send(tokens: float, hidden: int, stage: int, run: Run) -> Op:
    """Return the op that sends activations from a pipeline stage to the next.

    Each device receives hidden states and residual (vLLM's ``IntermediateTensors`` hold both, for
    example in vllm/model_executor/models/llama.py).
    """
    op = transfer("stage", 2 * tokens * hidden, run)
    return replace(op, shape={**op.shape, "stage": stage})


def _collective(kind: str, label: str, values: float, ranks: int, run: Run) -> Op:
    return Op(
        name=f"{label}_{kind}",
        layer="communication",
        kind=kind,
        phase="both",
        shape={"values": values, "ranks": ranks},
        dtype=run.numerics.default,
        flops=0.0,
        act_bytes=values * run.numerics.act_bytes,
    )


def _with_transfers(ops: Sequence[Op], tokens: float, layout: Layout, hidden: int, run: Run) -> list[Op]:
    """Add the link transfers around ops that run on another device.

    Decodes send queries, keys and values there and receive the attention's output; prompts,
    whose attention runs here, send the keys and values that they add to the cache. Each device
    sends the hidden rows that its experts need, all of them at most, and receives as many back.
    """
    out: list[Op] = []
    for i, op in enumerate(ops):
        if op.kind not in layout.away:
            out.append(op)
            continue
        if op.routed:
            groups, top_k = layout.ep, op.shape.get("top_k", layout.ep)
            sent = back = tokens * hidden * layout.dp * min(1.0, top_k / groups)
        else:
            prompt = ops[i - 1] if i and ops[i - 1].phase == "prefill" else None
            back = op.act_bytes / 2 / run.numerics.act_bytes
            sent = back + sum(o.kv_write_bytes for o in (op, prompt) if o is not None) / run.numerics.act_bytes
            if prompt is not None:  # before the prompts' attention: both may run side by side
                out.pop()
                out += [transfer(f"{op.name}_send", sent, run), prompt, op]
                out.append(transfer(f"{op.name}_return", back, run))
                continue
        out += [transfer(f"{op.name}_send", sent, run), op]
        out.append(transfer(f"{op.name}_return", back, run))
    return out


def head_program(spec: ModelSpec, moments: Moments, layout: Layout, run: Run) -> list[Op]:
    """Return the ops of the model head: final norm, logits, their all-gather over devices, and sampling."""
    ops = head_ops(spec, moments, run, layout.tp)
    if layout.gather and layout.tp > 1 and spec.vocab:
        values = moments.sequences * ops[-1].shape["n"] * layout.tp
        ops.append(_collective("all_gather", LOGITS, values, layout.tp, run))
    return ops + sampling_ops(spec, moments, run)


def _exchanged(op: Op, part: RoutedKind, tokens: float, layout: Layout, run: Run) -> list[Op]:
    """Return the expert op between the exchange that sends tokens to experts and the one that returns outputs."""
    if layout.apart:
        values = tokens * sent_width(part) * part.routed.top_k / layout.tp
        return [to_and_fro("dispatch", values, run), op, to_and_fro("collect", values, run)]
    if layout.gather:
        moved = (sent_width(part), layout.dp, run)
        gather = gather_tokens("all_gather", "dispatch", tokens * layout.width, *moved)
        return [gather, op, gather_tokens("reduce_scatter", "collect", tokens, *moved)]
    sent = (tokens * layout.sent, sent_width(part), part.routed.top_k, layout.tp, layout.dp, run)
    op = replace(op, shape={**op.shape, "wide": 1.0})  # no other's rows are among its own
    return [all_to_all("dispatch", *sent), op, all_to_all("collect", *sent)]


def layer_program(layer: Layer, parts: Sequence[Sequence[Op]], layout: Layout, run: Run, tokens: float) -> list[Op]:
    """Join the ops of a layer's parts and insert the collectives between them.

    An all-reduce follows each part's output projection (one for both parts of a parallel layer). Experts are between
    two all-to-alls, or an all-gather and a reduce-scatter, if several ranks share them, and between two transfers if
    they are on separate devices.
    """
    out: list[Op] = []
    hidden = layer.mixer.hidden
    for part, ops in zip(layer.parts, parts, strict=True):
        ops = _with_transfers(ops, tokens, layout, hidden, run)
        for op in ops:
            exchange = (layout.dp > 1 or layout.apart) and op.routed
            if exchange and is_routed(part) and part.routed.spreads:
                out += _exchanged(op, part, tokens, layout, run)
            else:
                out.append(op)
            if SUMS in op.shape and layout.tp > 1:
                out.append(all_reduce("qk", tokens, 4, layout.tp, run))  # two numbers of 32 bits
        last = part is layer.parts[-1]
        if layout.tp > 1 and (last or not layer.parallel) and not layer.replicated:
            label = "ffn" if part is layer.ffn else "mixer"
            out.append(all_reduce(label, tokens, hidden, layout.tp, run))
    return out
