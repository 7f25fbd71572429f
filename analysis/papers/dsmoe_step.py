"""DeepSpeed-MoE by simulation: parameters, exchanges, decoding steps, gating, and fewest devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from opbyte.extend import Deployment, ModelSpec, Op, Run, deploy, gemm, load_model, load_system
from opbyte.extend.devices import CollectivePlan, usual
from opbyte.extend.models import CapacityError, elementwise
from opbyte.extend.systems import Layout, StageCost, dealt, explicit_stage, planned_exchange
from opbyte.extend.training import Prices, RepeatedOp

DEVICE, NODE = "a100-40gb", 8
PER_REPLICA, CONTEXT = 8, 128
"""Sequences of each dense replica that decode, and their cached tokens [assumed]."""
EXCHANGES = ("flat", "hierarchical", "coordinated")
"""Algorithms of the paper's section 5.3."""
MIN_CAPACITY = 4
"""Fewest tokens that an expert has room for: DeepSpeed's default, from memory."""


def system_name(devices: int) -> str:
    """The catalog's name of so many devices in nodes of eight."""
    return f"{DEVICE}-x{devices}" if devices <= NODE else f"{DEVICE}-{devices // NODE}x{NODE}"


def parameters(model: str) -> float:
    """Parameters without the embedding, as the paper counts."""
    spec = load_model(model)
    return float(spec.total_params - spec.vocab * spec.hidden)


def exchange(algorithm: str, devices: int, tp: int) -> CollectivePlan:
    """The all-to-all that the simulator costs."""
    layout = Layout(tp, devices // tp, devices, 1)
    return planned_exchange(layout, load_system(system_name(devices)), algorithm).plans[0]


@dataclass(frozen=True, slots=True)
class Step:
    """A decoding step, mean over draws of the experts' loads.

    Attributes
    ----------
    seconds : float
    tokens : int
        Sequences that decode.
    devices : int
    parts : mapping of str to float
        Seconds of the slowest ranks by part [s].
    """

    seconds: float
    tokens: int
    devices: int
    parts: Mapping[str, float]


@cache
def deployed(model: str, devices: int, tp: int, algorithm: str | None, routing: str) -> Deployment:
    """A model on so many devices, experts over all of them."""
    return deploy(load_model(model), load_system(system_name(devices)), tp=tp, all_to_all=algorithm, routing=routing)


def decode(
    model: str, devices: int, tp: int, algorithm: str | None, routing: str, seeds: Sequence[int],
    per_replica: int = PER_REPLICA,
) -> Step:  # fmt: skip
    """One decoding step of every rank's sequences."""
    return _decode(model, devices, tp, algorithm, routing, tuple(seeds), per_replica)


@cache
def _decode(
    model: str, devices: int, tp: int, algorithm: str | None, routing: str, seeds: tuple[int, ...], per_replica: int
) -> Step:
    d = deployed(model, devices, tp, algorithm, routing)
    tokens = per_replica * d.layout.dp
    batches = dealt(d, per_replica * d.ranks, CONTEXT)
    found = [explicit_stage(d, batches, step=seed) for seed in seeds]
    seconds = float(np.mean([stage.seconds for stage in found]))
    return Step(seconds, tokens, devices, _parts(found))


def _parts(stages: Sequence[StageCost]) -> dict[str, float]:
    """Mean seconds of experts, exchanges and all else."""
    out: dict[str, float] = {"dense": 0.0, "experts": 0.0, "all-to-all": 0.0, "all-reduce": 0.0}
    for stage in stages:
        for kind, took in stage.times(lambda p: p.op.kind).items():
            name = {"experts": "experts", "all_to_all": "all-to-all", "all_reduce": "all-reduce"}.get(kind, "dense")
            out[name] += took / len(stages)
    return out


def fastest(
    model: str, devices: int, tp: int, routing: str, seeds: Sequence[int], per_replica: int
) -> tuple[str, Step]:
    """The algorithm with which a step takes least, and the step."""
    found = [(name, decode(model, devices, tp, name, routing, seeds, per_replica)) for name in usual("all_to_all")]
    return min(found, key=lambda each: each[1].seconds)


def floor_s(model: str, devices: int, tp: int) -> float:
    """Seconds that reading a device's weights takes, embedding aside, at the nominal bandwidth."""
    d = deployed(model, devices, tp, None, "uniform")
    table = d.shard.vocab * d.shard.hidden * d.shard.numerics.weight_bytes("embedding")
    held = d.shard.weight_bytes - table
    return held / d.system.device.memory.bandwidth_bytes_per_s


def fewest_devices(model: str, tp: int) -> int:
    """Smallest power of two of devices whose usable memory holds the weights."""
    spec = load_model(model)
    for power in range(1, 13):
        n = 1 << power
        try:
            deploy(spec, load_system(system_name(n)), tp=min(tp, n)).memory()
        except CapacityError:
            continue
        return n
    raise CapacityError(DEVICE, f"no 4,096 of it hold {model}")


def capacity(tokens: int, experts: int, top_k: int) -> int:
    """Tokens that an expert has room for: an even share, never fewer than `MIN_CAPACITY`."""
    return max(MIN_CAPACITY, -(-tokens * top_k // experts))


def gating_ops(spec: ModelSpec, tokens: int, table: bool) -> list[Op]:
    """Kernels that route tokens of a device, sort them by expert and bring outputs back.

    Without a table: masks of tokens x experts one operation after another, a tensor of tokens x experts
    x capacity, and two products with it (cost S E M c); DeepSpeed's ``top1gating``, its operations from
    memory. With one: a fused gate, a gather and a scatter (S M).
    """
    run, hidden = Run(spec.numerics), spec.hidden
    (routed,) = {part.routed for layer in spec.layers for part in layer.expert_parts}
    e, k = routed.experts, routed.top_k
    c = capacity(tokens, e, k)

    def vector(name: str, columns: int, tensors: float) -> Op:
        return elementwise(name, "gate", tokens, columns, tensors, run)

    gate = vector("softmax", e, 2)
    if table:
        return [gate, vector("gather", hidden, 2), vector("scatter", hidden, 1 + k)]
    masks = [vector(name, e, 2) for name in ("one_hot", "places", "counts")]
    masks += [vector(name, e, 3) for name in ("within_capacity", "chosen_places", "gates")]
    return [
        gate, *masks, vector("one_hot_places", c, 2), vector("combine_tensor", e * c, 1),
        vector("dispatch_mask", e * c, 2),
        _product("dispatch", e * c, hidden, tokens, run),
        _product("combine", tokens, hidden, e * c, run),
    ]  # fmt: skip


def _product(name: str, m: int, n: int, k: int, run: Run) -> Op:
    """A product of two tensors of activations."""
    return gemm(name, "gate", "other", m, n, k, run)


def gating_s(model: str, tokens: int, table: bool) -> float:
    """Seconds of routing and sorting on one device [s]."""
    d = deployed("dsmoe-1.3b-moe128", NODE, 1, None, "uniform")
    prices = Prices(d)
    return sum(prices.op(RepeatedOp(op)) for op in gating_ops(load_model(model), tokens, table))
