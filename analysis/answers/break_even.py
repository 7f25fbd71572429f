"""Number of tokens from which an expert's arithmetic takes as long as loading its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...devices.device import Processor, build_device
from ...devices.spec import SystemSpec
from ...simulator.deploy.placement import able, processors_of
from ...workloads.layers import RoutedKind, Run, is_routed
from ...workloads.model import ModelSpec
from ...workloads.numerics import Numerics
from ...workloads.ops import Loads


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Queue of one expert at which arithmetic and traffic take equally long.

    Attributes
    ----------
    ridge_op_per_byte : float
        Ridge point of the nominal roofs [FLOP/B].
    tokens : float or None
        Tokens of the expert, with activations that share the weights' path; None if their traffic keeps the processor memory-bound.
    weights_only_tokens : float
        Tokens of the expert if activations cause no traffic.
    """

    processor: str
    ridge_op_per_byte: float
    tokens: float | None
    weights_only_tokens: float


def routed_part(model: ModelSpec) -> RoutedKind | None:
    """Return the first layer part of a model that routes tokens to experts; None for a dense model."""
    return next((layer.ffn for layer in model.layers if is_routed(layer.ffn)), None)


def break_evens(model: ModelSpec, system: SystemSpec) -> tuple[BreakEven, ...]:
    """Return the break-even of every processor that runs experts, the one that runs everything first."""
    moe, numerics = routed_part(model), model.numerics
    if moe is None:
        return ()
    return tuple(
        _break_even(p, moe, numerics, *_bytes(p, system, numerics))
        for p in able(processors_of(build_device(system.device)), "experts")
        if numerics.compute("experts") in p.peak
    )


def _break_even(
    processor: Processor, moe: RoutedKind, numerics: Numerics, weight_bytes: float, act_bytes: float
) -> BreakEven:
    """Return the break-even of one processor for the given bytes of a weight and an activation."""
    one, dtype = Loads(np.ones(1), np.ones(1)), numerics.compute("experts")
    op = moe.expert_op(one, Run(numerics))  # one expert and one token
    weights = op.weight_bytes / numerics.weight_bytes("experts")
    per_token = act_bytes * op.act_bytes / numerics.act_bytes
    tokens = processor.break_even_tokens(dtype, weight_bytes, per_token / weights)
    return BreakEven(
        processor.name, processor.ridge(dtype), None if np.isinf(tokens) else tokens,
        processor.break_even_tokens(dtype, weight_bytes),
    )  # fmt: skip


def _bytes(processor: Processor, system: SystemSpec, numerics: Numerics) -> tuple[float, float]:
    """Return the bytes of a weight, and of an activation that shares the weights' memory path."""
    engine = system.device.processors[processor.name].engine
    stored = numerics.weight_bytes("experts")
    if engine is None:
        return stored, numerics.act_bytes
    return (stored if engine.weight_bits is None else engine.weight_bits / 8), 0.0
