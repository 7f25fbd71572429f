"""DeepSpeed-MoE (arXiv 2201.05596): experts on hundreds of devices, pyramids with residual experts.

Parameters, messages and devices come from model and layout objects; times from the price list of the
A100 with drawn loads. Nothing is fitted to the paper.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

from opbyte.extend import EXPERIMENTS, Reproduction, Table, load_model
from opbyte.extend.answers import OnProgress

from .dsmoe_step import (
    CONTEXT,
    EXCHANGES,
    PER_REPLICA,
    decode,
    exchange,
    fastest,
    fewest_devices,
    floor_s,
    gating_s,
    parameters,
)
from .published import Prediction, assumed, rows_of, with_figures

TRILLION, DEVICES, SLICES = "dsmoe-24b-moe128", 256, 8
"""The model of a trillion parameters, on the paper's largest system."""
BATCHES = (1, 2, 4, 8, 16, 32, 64)
SCALES = (8, 16, 32, 64)
DENSE, DENSE_SLICES = "gpt-3-175b", 16
STATEMENT = "0"
"""Tolerance of what holds or does not."""
PARAMS = {
    "350M.moe": "dsmoe-350m-moe128", "350M.pr": "dsmoe-350m-pr", "350M.pr_mos": "dsmoe-350m-pr-mos",
    "1.3B.moe": "dsmoe-1.3b-moe128", "2.4B.moe": "dsmoe-2.4b-moe128", "24B.moe": TRILLION, "1.3B.pr": "dsmoe-1.3b-pr",
    "1.3B.pr_mos": "dsmoe-1.3b-pr-mos", "8B.moe": "dsmoe-8b-moe128", "47B.moe": "dsmoe-47b-moe128",
}  # fmt: skip


@EXPERIMENTS.register("dsmoe")
def dsmoe(seeds: Sequence[int], routing: str, progress: OnProgress | None, figures: bool = False) -> Reproduction:
    """Reproduce DeepSpeed-MoE: parameters, exchanges and latency of models with 128 experts."""
    began = time.perf_counter()
    found = list(predictions(seeds, routing))
    runs = len(seeds) * (1 + len(BATCHES) + len(SCALES))
    result = Reproduction(
        "dsmoe", rows_of("dsmoe", found), runs, time.perf_counter() - began,
        tables=(_batches(seeds, routing), _scales(seeds, routing), _gating(), _besides(seeds, routing)),
        assumptions=assumed("dsmoe", PER_REPLICA=PER_REPLICA, CONTEXT=CONTEXT),
    )  # fmt: skip
    return with_figures(result, _drawn(seeds, routing)) if figures else result


def predictions(seeds: Sequence[int] = (0,), routing: str = "uniform") -> Iterator[Prediction]:
    """All rows, from models, layouts and devices alone."""
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


def _timed(seeds: Sequence[int], routing: str) -> Iterator[Prediction]:
    step = decode(TRILLION, DEVICES, SLICES, "coordinated", routing, seeds)
    floor = floor_s(TRILLION, DEVICES, SLICES)
    yield Prediction("dsmoe.1T.latency_ms", step.seconds * 1e3, f"weights of a device alone take {floor * 1e3:.1f} ms")
    yield Prediction("dsmoe.1T.above_floor", float(step.seconds > floor))
    rates = [each["tokens_per_s_gpu"] for each in _scales(seeds, routing).rows]
    rising = all(a < b for a, b in pairwise(rates))
    yield Prediction("dsmoe.52B.superlinear", float(rising))
    gain = gating_s(TRILLION, PER_REPLICA, False) / gating_s(TRILLION, PER_REPLICA, True)
    note = f"{gain:.1f} x at {PER_REPLICA} tokens a device; the batch is not printed"
    yield Prediction("dsmoe.gating.over_6x", float(gain > 6), note)
    dense = decode(DENSE, DENSE_SLICES, DENSE_SLICES, None, routing, seeds)
    speed = dense.seconds / step.seconds
    cost = dense.seconds * DENSE_SLICES / (step.seconds * SLICES)
    yield Prediction("dsmoe.dense175.cost_over_speed", round(cost / speed, 9))


def _batches(seeds: Sequence[int], routing: str) -> Table:
    """Latency of the trillion-parameter model by batch and exchange."""
    rows = []
    for batch in BATCHES:
        row: dict[str, float | str] = {"sequences_a_replica": batch}
        for name in EXCHANGES:
            step = decode(TRILLION, DEVICES, SLICES, name, routing, seeds[:1], batch)
            row[f"{name}_ms"] = step.seconds * 1e3
        rows.append(row)
    return Table("batches", "Decoding step of 24B+MoE-128 on 256 devices, by batch and exchange", rows)


def _scales(seeds: Sequence[int], routing: str) -> Table:
    """Throughput of the 52B model by devices, with the fastest exchange."""
    rows = []
    for devices in SCALES:
        name, step = fastest("dsmoe-1.3b-moe128", devices, 1, routing, seeds, PER_REPLICA)
        rate = step.tokens / step.seconds
        rows.append({"devices": devices, "exchange": name, "step_ms": step.seconds * 1e3,
                     "tokens_per_s": rate, "tokens_per_s_gpu": rate / devices})  # fmt: skip
    return Table("scales", "Decoding 1.3B+MoE-128, 8 sequences a device, by devices", rows)


def _gating() -> Table:
    """Gating with masks and products against a table, by tokens."""
    rows = []
    for tokens in (1, 8, 64, 512, 4096):
        masks, table = (gating_s(TRILLION, tokens, t) for t in (False, True))
        rows.append({"tokens": tokens, "masks_us": masks * 1e6, "table_us": table * 1e6, "ratio": masks / table})
    return Table("gating", "Gating and re-ordering of 24B+MoE-128 on a device, by tokens", rows)


def _besides(seeds: Sequence[int], routing: str) -> Table:
    """What the paper compares with engines and batches that it does not print."""
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


def _drawn(seeds: Sequence[int], routing: str) -> Table:
    """Parts of the trillion-parameter model's step by exchange, as the figure takes them."""
    rows = []
    for name in EXCHANGES:
        step = decode(TRILLION, DEVICES, SLICES, name, routing, seeds)
        rows.append({"case": name, **{part: took * 1e3 for part, took in step.parts.items()}})
    return Table("steps", "A decoding step of 24B+MoE-128 on 256 A100 by exchange (ms)", rows)
