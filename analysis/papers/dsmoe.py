"""DeepSpeed-MoE (arXiv 2201.05596): experts on hundreds of devices, pyramids with residual experts.

Parameters, messages and devices come from model and layout objects; times from the A100's cost models with sampled
loads. Nothing is fitted to the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from opbyte.extend import Deployment, ModelSpec, Op, Run, Table, deploy, gemm, load_model, load_system
from opbyte.extend.devices import CollectivePlan, usual
from opbyte.extend.models import CapacityError, elementwise
from opbyte.extend.systems import Layout, StageCost, dealt, explicit_stage, planned_exchange
from opbyte.extend.training import Prices, RepeatedOp

from .published import Prediction, paper

DEVICE, NODE = "a100-40gb", 8
PER_REPLICA, CONTEXT = 8, 128
"""Sequences of each dense replica that decode, and their cached tokens [assumed]."""
EXCHANGES = ("flat", "hierarchical", "coordinated")
"""All-to-all algorithms of the paper's section 5.3."""
MIN_CAPACITY = 4
"""Minimum capacity of an expert [tokens]: DeepSpeed's default, from memory."""


def system_name(devices: int) -> str:
    """Return the catalog's name of a system with `devices` devices in nodes of eight."""
    return f"{DEVICE}-x{devices}" if devices <= NODE else f"{DEVICE}-{devices // NODE}x{NODE}"


def parameters(model: str) -> float:
    """Return the parameters without the embedding, as the paper counts them."""
    spec = load_model(model)
    return float(spec.total_params - spec.vocab * spec.hidden)


def exchange(algorithm: str, devices: int, tp: int) -> CollectivePlan:
    """Return the plan of the all-to-all for an algorithm and layout."""
    layout = Layout(tp, devices // tp, devices, 1)
    return planned_exchange(layout, load_system(system_name(devices)), algorithm).plans[0]


@dataclass(frozen=True, slots=True)
class Step:
    """A decoding step, as the mean over samples of the experts' loads.

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
    """Return a model on `devices` devices, with experts over all of them."""
    return deploy(load_model(model), load_system(system_name(devices)), tp=tp, all_to_all=algorithm, routing=routing)


@cache
def decode(
    model: str, devices: int, tp: int, algorithm: str | None, routing: str, seeds: tuple[int, ...],
    per_replica: int = PER_REPLICA,
) -> Step:  # fmt: skip
    """Return a decoding step of `per_replica` sequences on each data-parallel replica."""
    d = deployed(model, devices, tp, algorithm, routing)
    tokens = per_replica * d.layout.dp
    batches = dealt(d, per_replica * d.ranks, CONTEXT)
    stages = [explicit_stage(d, batches, step=seed) for seed in seeds]
    seconds = float(np.mean([stage.seconds for stage in stages]))
    return Step(seconds, tokens, devices, _parts(stages))


def _parts(stages: Sequence[StageCost]) -> dict[str, float]:
    """Return the mean seconds of experts, all-to-all, all-reduce and dense parts."""
    out: dict[str, float] = {"dense": 0.0, "experts": 0.0, "all-to-all": 0.0, "all-reduce": 0.0}
    for stage in stages:
        for kind, took in stage.times(lambda p: p.op.kind).items():
            name = {"experts": "experts", "all_to_all": "all-to-all", "all_reduce": "all-reduce"}.get(kind, "dense")
            out[name] += took / len(stages)
    return out


def fastest(
    model: str, devices: int, tp: int, routing: str, seeds: tuple[int, ...], per_replica: int
) -> tuple[str, Step]:
    """Return the all-to-all algorithm with the shortest step, and this step."""
    ways = [(name, decode(model, devices, tp, name, routing, seeds, per_replica)) for name in usual("all_to_all")]
    return min(ways, key=lambda pair: pair[1].seconds)


def floor_s(model: str, devices: int, tp: int) -> float:
    """Return the time of reading a device's weights, except the embedding, at the nominal bandwidth [s]."""
    d = deployed(model, devices, tp, None, "uniform")
    table = d.shard.vocab * d.shard.hidden * d.shard.numerics.weight_bytes("embedding")
    weights = d.shard.weight_bytes - table
    return weights / d.system.device.memory.bandwidth_bytes_per_s


def fewest_devices(model: str, tp: int) -> int:
    """Return the smallest power of two of devices whose usable memory holds the weights."""
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
    """Return the capacity of an expert in tokens: an even share, but at least `MIN_CAPACITY`."""
    return max(MIN_CAPACITY, -(-tokens * top_k // experts))


def gating_ops(spec: ModelSpec, tokens: int, table: bool) -> list[Op]:
    """Return the kernels that route a device's tokens, sort them by expert and return outputs to their tokens.

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
    """Return the product of two activation tensors as an op."""
    return gemm(name, "gate", "other", m, n, k, run)


def gating_s(model: str, tokens: int, table: bool) -> float:
    """Return the time of routing and sorting on one device [s]."""
    d = deployed("dsmoe-1.3b-moe128", NODE, 1, None, "uniform")
    prices = Prices(d)
    return sum(prices.op(RepeatedOp(op)) for op in gating_ops(load_model(model), tokens, table))


TRILLION, DEVICES, SLICES = "dsmoe-24b-moe128", 256, 8
"""The model of a trillion parameters, on the paper's largest system."""
BATCHES = (1, 2, 4, 8, 16, 32, 64)
SCALES = (8, 16, 32, 64)
DENSE, DENSE_SLICES = "gpt-3-175b", 16
PARAMS = {
    "350M.moe": "dsmoe-350m-moe128", "350M.pr": "dsmoe-350m-pr", "350M.pr_mos": "dsmoe-350m-pr-mos",
    "1.3B.moe": "dsmoe-1.3b-moe128", "2.4B.moe": "dsmoe-2.4b-moe128", "24B.moe": TRILLION, "1.3B.pr": "dsmoe-1.3b-pr",
    "1.3B.pr_mos": "dsmoe-1.3b-pr-mos", "8B.moe": "dsmoe-8b-moe128", "47B.moe": "dsmoe-47b-moe128",
}  # fmt: skip


def predictions(seeds: tuple[int, ...] = (0,), routing: str = "uniform") -> Iterator[Prediction]:
    """Return all rows, only from models, layouts and devices."""
    yield from _exchanges()
    for name, model in PARAMS.items():
        yield Prediction(f"dsmoe.params.{name}", parameters(model) / 1e9)
    ratio = parameters("dsmoe-350m-moe128") / parameters("dsmoe-350m-pr-mos")
    yield Prediction("dsmoe.pr.size_ratio", ratio)
    yield from _timed(seeds, routing)
    for name, model in (("moe", "dsmoe-8b-moe128"), ("pr_mos", "dsmoe-8b-pr-mos")):
        yield Prediction(f"dsmoe.min_gpus.8B.{name}", float(fewest_devices(model, 4)))


def _exchanges() -> Iterator[Prediction]:
    plans = {name: exchange(name, 128, SLICES) for name in EXCHANGES}
    for name, label in (("flat", "naive"), ("coordinated",) * 2, ("hierarchical",) * 2):
        yield Prediction(f"dsmoe.hops.{label}", float(plans[name].participants))
    volume = plans["hierarchical"].passes / plans["flat"].passes
    yield Prediction("dsmoe.volume.hierarchical", volume)


def _timed(seeds: tuple[int, ...], routing: str) -> Iterator[Prediction]:
    """Predict times and costs, each with the note that it is based on."""
    step = decode(TRILLION, DEVICES, SLICES, "coordinated", routing, seeds)
    floor = floor_s(TRILLION, DEVICES, SLICES)
    yield Prediction("dsmoe.1T.latency_ms", step.seconds * 1e3, f"the weights of a device take {floor * 1e3:.1f} ms")
    yield Prediction("dsmoe.1T.above_floor", float(step.seconds > floor))
    rates = [row["tokens_per_s_gpu"] for row in _scales(seeds, routing).rows]
    rising = all(a < b for a, b in pairwise(rates))
    yield Prediction("dsmoe.52B.superlinear", float(rising))
    gain = gating_s(TRILLION, PER_REPLICA, False) / gating_s(TRILLION, PER_REPLICA, True)
    note = f"{gain:.1f} x at {PER_REPLICA} tokens a device; the batch is not printed"
    yield Prediction("dsmoe.gating.over_6x", float(gain > 6), note)
    dense = decode(DENSE, DENSE_SLICES, DENSE_SLICES, None, routing, seeds)
    speed = dense.seconds / step.seconds
    cost = dense.seconds * DENSE_SLICES / (step.seconds * SLICES)
    yield Prediction("dsmoe.dense175.cost_over_speed", round(cost / speed, 9))


def _batches(seeds: tuple[int, ...], routing: str) -> Table:
    """Return the latency of the trillion-parameter model by batch and all-to-all algorithm."""
    rows = []
    for batch in BATCHES:
        row: dict[str, float | str] = {"sequences_a_replica": batch}
        for name in EXCHANGES:
            step = decode(TRILLION, DEVICES, SLICES, name, routing, seeds[:1], batch)
            row[f"{name}_ms"] = step.seconds * 1e3
        rows.append(row)
    return Table("batches", "Decoding step of 24B+MoE-128 on 256 devices, by batch and exchange", rows)


def _scales(seeds: tuple[int, ...], routing: str) -> Table:
    """Return the throughput of the 52B model by number of devices, with the fastest all-to-all."""
    rows = []
    for devices in SCALES:
        name, step = fastest("dsmoe-1.3b-moe128", devices, 1, routing, seeds, PER_REPLICA)
        rate = step.tokens / step.seconds
        rows.append({"devices": devices, "exchange": name, "step_ms": step.seconds * 1e3,
                     "tokens_per_s": rate, "tokens_per_s_gpu": rate / devices})  # fmt: skip
    return Table("scales", "Decoding 1.3B+MoE-128, 8 sequences a device, by devices", rows)


def _gating(*_: object) -> Table:
    """Compare the times of gating with masks and products, and with a table, by number of tokens."""
    rows = []
    for tokens in (1, 8, 64, 512, 4096):
        masks, table = (gating_s(TRILLION, tokens, t) for t in (False, True))
        rows.append({"tokens": tokens, "masks_us": masks * 1e6, "table_us": table * 1e6, "ratio": masks / table})
    return Table("gating", "Gating and re-ordering of 24B+MoE-128 on a device, by tokens", rows)


def _besides(seeds: tuple[int, ...], routing: str) -> Table:
    """Return ratios that cannot be checked, because the paper does not print their engines and batches."""
    ours = decode(TRILLION, DEVICES, SLICES, "coordinated", routing, seeds).seconds
    dense = decode(DENSE, DENSE_SLICES, DENSE_SLICES, None, routing, seeds).seconds
    flat = decode(TRILLION, DEVICES, SLICES, "flat", routing, seeds).seconds
    sparse = load_model(TRILLION).moe_layers
    gating = gating_s(TRILLION, PER_REPLICA, False) - gating_s(TRILLION, PER_REPLICA, True)
    rows = [
        {"ratio": "dense 175B on 16 devices over 24B+MoE-128 on 256, latency", "value": dense / ours},
        {"ratio": "the same, cost", "value": dense * DENSE_SLICES / (ours * SLICES)},
        {"ratio": "flat exchange, gating by masks over coordinated, by table",
         "value": (flat + sparse * gating) / ours},
    ]  # fmt: skip
    return Table("besides", "Not checked: batches and engines are not printed", rows)


def _drawn(seeds: tuple[int, ...], routing: str) -> Table:
    """Return the parts of the trillion-parameter model's step by exchange for the plot."""
    rows = []
    for name in EXCHANGES:
        step = decode(TRILLION, DEVICES, SLICES, name, routing, seeds)
        rows.append({"case": name, **{part: took * 1e3 for part, took in step.parts.items()}})
    return Table("steps", "A decoding step of 24B+MoE-128 on 256 A100 by exchange (ms)", rows)


paper(
    "dsmoe", "Reproduce DeepSpeed-MoE: parameters, exchanges and latency of models with 128 experts.", predictions,
    seeded=True, tables=(_batches, _scales, _gating, _besides), drawn={"steps": _drawn},
    runs=lambda seeds: seeds * (1 + len(BATCHES) + len(SCALES)),
)  # fmt: skip
