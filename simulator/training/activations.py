"""Bytes that a micro-batch keeps on a device from its forward to its backward pass.

Where a paper's model fits (no experts, attention through main memory, dropout), the sums are those of
Korthikanti et al. (arXiv 2205.05198), table 2; they come from the ops, so any model has them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...workloads.layers import Run
from ...workloads.ops import Op
from ...workloads.saved_tensors import SavedTensor, dropped_modules, kept
from .layout import TrainingOptions

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
    """What ops of one part keep, each tensor once [B]."""
    saved: dict[str, SavedTensor] = {}
    for tensor in (k for op in ops for k in kept(op, run, hidden, options.dropout)):
        saved[tensor.name] = max(saved.get(tensor.name, tensor), tensor, key=lambda k: k.bytes)
    split, dropped = _split(options, tp), dropped_modules(options.recompute)
    return sum(k.bytes / (split if k.whole else 1) for k in saved.values() if k.module not in dropped)


def _split(options: TrainingOptions, tp: int) -> int:
    """Devices that share what spans the whole width."""
    return tp if options.sequence_parallel else 1
