"""Read-ME (arXiv 2410.19123): one expert for all layers, chosen before the model runs.

What is known ahead is what is queued: a cache that evicts what the queue needs last, and batches formed
by expert. Both are simulated on uniform, independent accesses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf

import numpy as np

from opbyte.extend import EXPERIMENTS, Reproduction, Table
from opbyte.extend.answers import OnProgress

from . import PAPERS
from .published import Prediction, assumed, rows_of
from .read_me_step import EXPERTS, FORMERS, LIMIT, LOOK_AHEAD, STREAMS, StepTimes, rate, served

SIZES = (2, 3, 4, 5)
CLOSE = 0.03
"""How near random and LRU must lie to be called equal."""


@EXPERIMENTS.register("read-me")
def reproduce_read_me(
    seeds: Sequence[int], routing: str, progress: OnProgress | None, figures: bool = False
) -> Reproduction:
    """Read-ME: hit rates of caches that know the queue, and batches formed by expert."""
    began = time.perf_counter()
    found = list(predictions(seeds, routing))
    table, batches = hit_table(seeds), batch_table(seeds[0])
    return Reproduction(
        "read-me", rows_of("read-me", found), len(found), time.perf_counter() - began,
        tables=(table, batches), assumptions=assumed("read-me", STREAMS=STREAMS, LIMIT=LIMIT),
        figures=(replace(table, name="hit_rates"),) if figures else (), plots=f"{PAPERS}.figures.expert_caches",
    )  # fmt: skip


def predictions(seeds: Sequence[int] = (0,), routing: str = "uniform") -> Iterator[Prediction]:
    """All rows, simulated. Accesses are uniform, whatever the routing: that is the paper's reading."""
    yield from _hits(seeds)
    yield from _batches(seeds)


def mean_rate(policy: str, size: int, seeds: Sequence[int], look_ahead: float = inf) -> float:
    """Hit rate, the mean over seeds."""
    return float(np.mean([rate(policy, size, seed, look_ahead) for seed in seeds]))


def _hits(seeds: Sequence[int]) -> Iterator[Prediction]:
    near = {"random": inf, "lru": inf, "belady": float(LOOK_AHEAD)}
    rates = {(policy, size): mean_rate(policy, size, seeds, ahead) for policy, ahead in near.items() for size in SIZES}
    for (policy, size), value in rates.items():
        yield Prediction(f"read-me.hit.{policy}.c{size}", value)
    ordered = all(rates["belady", size] > max(rates["lru", size], rates["random", size]) for size in SIZES)
    equal = all(abs(rates["lru", size] - rates["random", size]) <= CLOSE for size in SIZES)
    yield Prediction("read-me.hit.order", float(ordered))
    yield Prediction("read-me.lru_equals_random", float(equal))


def _batches(seeds: Sequence[int]) -> Iterator[Prediction]:
    times = StepTimes()
    runs = {name: [served(former, seed, times) for seed in seeds] for name, former in FORMERS.items()}
    for name, found in runs.items():
        yield Prediction(f"read-me.batch.distinct.{name}", float(np.mean([run.distinct for run in found])))
    took = {name: np.concatenate([run.latencies for run in found]) for name, found in runs.items()}
    for name, value in (
        ("mean", {k: float(x.mean()) for k, x in took.items()}),
        ("p95", {k: float(np.quantile(x, 0.95)) for k, x in took.items()}),
    ):
        yield Prediction(f"read-me.latency.{name}_change", value["by_expert"] / value["fcfs"] - 1)


def batch_table(seed: int) -> Table:
    """Experts of a batch and latencies by how many streams there are to choose from."""
    times, rows = StepTimes(), []
    for streams in (LIMIT, 3 * LIMIT // 2, 2 * LIMIT, 3 * LIMIT):
        runs = {name: served(former, seed, times, streams) for name, former in FORMERS.items()}
        row: dict[str, float] = {"streams": streams}
        row |= {f"experts, {name}": run.distinct for name, run in runs.items()}
        first, ours = runs["fcfs"].latencies, runs["by_expert"].latencies
        row["mean latency change"] = float(ours.mean() / first.mean() - 1)
        row["p95 latency change"] = float(np.quantile(ours, 0.95) / np.quantile(first, 0.95) - 1)
        rows.append(row)
    note = f"{LIMIT} tokens a step; with as many streams there is nothing to choose"
    return Table("batches", "Batches by expert against first come", rows, note)


def hit_table(seeds: Sequence[int]) -> Table:
    """Hit rates by policy, look-ahead and size."""
    policies = {"random": ("random", inf), "lru": ("lru", inf), "lfu": ("lfu", inf),
                "belady:1": ("belady", 1.0), "belady:2": ("belady", 2.0),
                "belady:3": ("belady", 3.0), "belady, all ahead": ("belady", inf)}  # fmt: skip
    rows = [
        {"batch": 1, "slots": size}
        | {name: mean_rate(policy, size, seeds, ahead) for name, (policy, ahead) in policies.items()}
        for size in (1, *SIZES, EXPERTS)
    ]
    note = "one access a step; belady:N knows N accesses ahead"
    return Table("hits", f"Hit rates of {EXPERTS} experts by policy", rows, note)
