"""Bytes of weights, gradients and optimizer state for each stage of ZeRO.

With Adam in mixed precision a parameter takes 2 bytes of weight, 2 of gradient and 12 of optimizer state: a copy, momentum and
variance, each in 32 bits. ZeRO stage 1 shards the optimizer state over the data-parallel ranks, stage 2 the gradients too,
stage 3 also the weights (Rajbhandari et al., arXiv 1910.02054, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...workloads.layers import is_routed
from ...workloads.model import Layer, ModelSpec

RESIDENT = {"mxfp8": 2 * (1 + 1 / 32), "nvfp4": 2 * (0.5 + 1 / 16)}
"""Bytes of a weight that is stored twice, by rows and by columns, with block scales (Transformer Engine,
docs/features/low_precision_training)."""

LOSSES = {"fused": (4.0, 0.0, 0.0), "in-place": (2.0, 0.0, 0.0), "unfused": (4.0, 12.0, 2.0)}
"""Bytes of each logit that a loss stores until its backward pass, additional bytes during that pass, and bytes that a pipeline stores until the end
of the step.

A fused kernel stores the gradient in 32 bits, or in place of the logits (NVIDIA/TransformerEngine,
pytorch/triton/cross_entropy.py up to 2.16). PyTorch's loss stores probabilities; then it needs their exponentials, the sum
with the target's -1, and the gradient (pytorch/pytorch@02eef6b, torch/distributed/tensor/parallel/loss.py). PyTorch's last pipeline stage also keeps
the 16-bit logits of all micro-batches (`output_chunks` of torch/distributed/pipelining/stage.py; pytorch/pytorch issue 159251).
"""
LOSS_SUMS = 3
"""Sums in 32 bits for each token among devices that split the vocabulary: largest logit, logit of the target, and exponentials (NVIDIA/Megatron-LM@d98e8a6,
core/tensor_parallel/cross_entropy.py; pytorch/pytorch@02eef6b, torch/distributed/tensor/parallel/loss.py). The backward pass has none."""


@dataclass(frozen=True, slots=True)
class BytesPerWeight:
    """Bytes of one parameter by kind."""

    weights: float
    gradients: float
    optimizer: float

    @classmethod
    def adam(cls, value_bytes: float, moment_bits: int = 32, gradient_bits: int = 16) -> BytesPerWeight:
        """Return the bytes for Adam with two moments; weights below 32 bit have a copy in 32 bit."""
        return cls(value_bytes, max(value_bytes, gradient_bits / 8), moment_bits / 4 + 4.0 * (value_bytes < 4))

    def stored_as(self, dtype: str) -> BytesPerWeight:
        """Return the bytes with weights stored in the format `dtype` of their matrix products, see `RESIDENT`."""
        return replace(self, weights=RESIDENT.get(dtype, self.weights))


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameters of one device before ZeRO; experts are counted separately, because they have another number of replicas."""

    dense: float
    experts: float

    def __add__(self, other: ParameterCounts) -> ParameterCounts:
        return ParameterCounts(self.dense + other.dense, self.experts + other.experts)


@dataclass(frozen=True, slots=True)
class States:
    """Bytes of one device by kind [B]."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


def states(parameters: ParameterCounts, per_weight: BytesPerWeight, zero: int, dp: int, expert_dp: int) -> States:
    """Return the bytes of weights, gradients and optimizer state on one device under ZeRO [B].

    Parameters
    ----------
    parameters : ParameterCounts
        Parameters of the device's shard.
    zero : int
        Stage, 0 to 3.
    dp, expert_dp : int
        Ranks over which ZeRO shares the dense parameters and the experts.
    """

    def held(size: float, from_stage: int) -> float:
        if zero < from_stage:
            return size * (parameters.dense + parameters.experts)
        return size * (parameters.dense / dp + parameters.experts / expert_dp)

    return States(held(per_weight.weights, 3), held(per_weight.gradients, 2), held(per_weight.optimizer, 1))


def layer_parameters(layer: Layer) -> ParameterCounts:
    """Return the number of parameters of one layer in a device's shard."""
    dense = float(layer.norms * layer.norm_width)
    experts = 0.0
    for part in layer.parts:
        for w in part.weights():
            if w.group == "experts" and is_routed(part) and part.routed.spreads:
                experts += w.total
            else:
                dense += w.total
    return ParameterCounts(dense, experts)


def stage_parameters(stages: Sequence[ModelSpec], index: int, tp: int) -> ParameterCounts:
    """Return the parameters of one device of a pipeline stage, including its share of embedding and head."""
    stage = stages[index]
    total = ParameterCounts(float(stage.extra_weights), 0.0)
    if stage.front is not None and index == 0:
        total += ParameterCounts(float(sum(w.total for w in stage.front.weights())), 0.0)
    table = stage.vocab * stage.hidden / tp
    first, last = index == 0, index == len(stages) - 1
    copies = (first or last) if stage.tied else first + last
    total += ParameterCounts(table * copies, 0.0)
    for layer, count in stage.groups:
        layer_counts = layer_parameters(layer)
        total += ParameterCounts(layer_counts.dense * count, layer_counts.experts * count)
    return total
