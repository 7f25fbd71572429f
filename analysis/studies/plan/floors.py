"""Lower bounds of the time of a deployment at nominal rates.

Every bounded cost model takes at least an op's FLOPs over the nominal peak and its bytes over the nominal bandwidth.
Only ops of every step are counted: matrix products, experts, and the keys and values of decodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ....devices.calibrated.model import CalibratedModel
from ....devices.cost import Roofline
from ....devices.dram.model import DerivedRoofline
from ....simulator.deploy.deployment import Deployment
from ....simulator.deploy.placement import alone_in_cache
from ....simulator.step.sections import sections_of
from ....workloads.batch import Batch
from ....workloads.layers import Attention, FeedForward, LatentAttention, MixtureOfExperts
from ....workloads.ops import Loads, Op

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

SCALES = 0.99
"""Share of an op's bytes that counts: scales of 128 x 128 blocks, 0.2 % of their weights, are not part of
the fitted models' least traffic."""
KINDS = (Attention, LatentAttention, FeedForward, MixtureOfExperts)
"""Layer kinds in which every token does all products, with `top_k` experts each."""
MODELS = (Roofline, CalibratedModel, DerivedRoofline)
"""Cost models that never exceed nominal rates. Measured tables, fitted lines and user-defined kinds may."""


@dataclass(frozen=True, slots=True)
class Least:
    """Least seconds of an engine's work.

    Attributes
    ----------
    token_s : float
        Products of one token on all stages, evenly distributed over the engine's devices.
    lone_s : float
        The same where one rank has all tokens and the others none.
    pass_s : float
        Weights of all layers read once, a token's experts among them.
    key_s : mapping of int to float
        A key and its value read by a decode on a rank's devices, all layers of a window (0 = none).
    ranks, stages : int
        Of the engine.
    """

    token_s: float
    lone_s: float
    pass_s: float
    key_s: Mapping[int, float]
    ranks: int
    stages: int

    def keys_s(self, context: I8) -> F8:
        """Keys and values that a decode at some contexts reads at least [s], shape as `context`."""
        out = np.zeros(context.shape)
        for window, per_key_s in self.key_s.items():
            out = out + per_key_s * (np.minimum(context, window) if window else context)
        return out


def least_of(deployment: Deployment) -> Least | None:
    """Return the lower bounds of a deployment; None if its times may be below them."""
    device = deployment.device
    if not all(type(part) in KINDS for layer in deployment.shard.layers for part in layer.parts):
        return None
    if deployment.kernels or deployment.pools or device.spec.lines or deployment.system.mapping.separate:
        return None
    if (
        deployment.several > 1 or deployment.parts.get("expert-copies") is not None
    ):  # tokens by the step, experts more than once
        return None
    if not all(isinstance(p.model, MODELS) for p in device.processors.values()):
        return None
    rate = _Rates(deployment)
    decode, prompt = (_layer_ops(deployment, b) for b in (Batch.of([0]), Batch.of([], [(1, 0)])))
    flop_s = min(sum(rate.flop_s(op) * layers for op, layers in ops if op.product) for ops in (decode, prompt))
    read_s = sum(rate.read_s(op.weight_bytes) * n for op, n in decode if op.product)
    keys: dict[int, float] = {}
    for op, layers in decode:
        if alone_in_cache(op):
            window = int(op.shape.get("window", 0))
            keys[window] = keys.get(window, 0.0) + rate.read_s(op.kv_read_bytes) * layers
    dealt = lone = 0.0
    for part in deployment.experts:
        routed = part.spec.routed
        op = part.spec.expert_op(Loads(np.ones(1), np.array([float(routed.top_k)])), deployment.run)
        flop_s_each = rate.flop_s(op) * part.layers / part.ep
        dealt += flop_s_each if routed.spreads else flop_s_each / deployment.ranks
        lone += flop_s_each if routed.spreads else flop_s_each / deployment.ranks
        read = rate.read_s(op.weight_bytes) * part.layers / part.ep
        read_s += read if routed.spreads else 0.0
    return Least(flop_s / deployment.ranks + dealt, flop_s + lone, read_s, keys, deployment.ranks, deployment.layout.pp)


def _layer_ops(deployment: Deployment, batch: Batch) -> list[tuple[Op, int]]:
    """Ops of every layer at a batch of a rank, without experts, and how many layers run them."""
    m = batch.moments(deployment.shard.windows)
    return [
        (op, section.layers)
        for section in sections_of(deployment)
        if section.layer is not None  # embedding, what is sent on, and the head are none
        for op in section.build(m)
    ]


class _Rates:
    """All processors of a device together, at nominal rates."""

    def __init__(self, deployment: Deployment) -> None:
        self.processors = list(deployment.device.processors.values())
        self.bandwidth = sum(p.bandwidth for p in self.processors)

    def flop_s(self, op: Op) -> float:
        return op.flops / sum(p.peak.get(op.dtype, 0.0) for p in self.processors)

    def read_s(self, size: float) -> float:
        return SCALES * size / self.bandwidth
