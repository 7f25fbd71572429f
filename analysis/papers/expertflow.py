"""ExpertFlow (DAC 2026, arXiv 2410.17954): experts in host memory, fetched ahead of their layer.

Decoding is bound by transfers: the gain over a system that preloads whole layers is how many experts a
layer has over how many a batch touches. Hit rates, times and memory come out of the expert cache that
simulations have, on the A40 of the catalog.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from opbyte.extend import EXPERIMENTS, Reproduction, Table
from opbyte.extend.answers import OnProgress
from opbyte.extend.systems import ExpertStore

from . import PAPERS
from .expertflow_step import (
    ACCURACY,
    ALL,
    PRELOAD,
    ROUTING,
    deepseek,
    expertflow,
    fits,
    mixtral,
    plain_hit_rate,
    qwen,
    resident_bytes,
    step,
    switch,
)
from .published import Prediction, assumed, rows_of

SWITCHES = (32, 64, 128)
SLOTS, BATCH, FULL_BATCH = 16, 32, 512
SLOTS_OF = {"qwen": 8, "deepseek": 6, "mixtral": 1, "switch128": 4}
"""Slots of a layer for routed experts, as memory was measured. Of the eight of DeepSeekMoE two are the
shared experts', which Table 1 counts among the experts (their share of the weights shows it)."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
POLICIES = {"random": "random", "lru": "lru", "lfu": "lfu", "belady:8": "belady"}


@EXPERIMENTS.register("expertflow")
def reproduce_expertflow(
    seeds: Sequence[int], routing: str, progress: OnProgress | None, figures: bool = False
) -> Reproduction:
    """ExpertFlow: hit rates, decode rates and memory with experts in host memory."""
    began = time.perf_counter()
    chosen = ROUTING if routing == "uniform" else routing
    found = list(predictions(seeds, routing))
    hits, times = hit_table(chosen, seeds[0]), time_table(chosen, seeds[0])
    return Reproduction(
        "expertflow", rows_of("expertflow", found), len(found), time.perf_counter() - began,
        tables=(hits, times), assumptions=assumed("expertflow"),
        figures=drawn(hits, times) if figures else (), plots=f"{PAPERS}.figures.expert_caches",
    )  # fmt: skip


def drawn(hits: Table, times: Table) -> tuple[Table, Table]:
    """Both tables under the names of their figures."""
    return replace(hits, name="hit_rates"), replace(times, name="token_times")


def predictions(seeds: Sequence[int] = (0,), routing: str = "uniform") -> Iterator[Prediction]:
    """All rows, simulated; another routing than the paper's reading where one is asked for."""
    chosen = ROUTING if routing == "uniform" else routing
    yield from _hits(seeds, chosen)
    yield from _rates(seeds, chosen)
    yield from _memory()


def _hits(seeds: Sequence[int], routing: str) -> Iterator[Prediction]:
    for policy in ("lru", "predictive"):
        for slots, batch in ((16, 4), (16, 16), (8, 16)):
            rates = [_hit_rate(policy, slots, batch, routing, seed) for seed in seeds]
            yield Prediction(f"expertflow.hit.{policy}.cs{slots}.bs{batch}", float(np.mean(rates)))


def _hit_rate(policy: str, slots: int, batch: int, routing: str, seed: int) -> float:
    if policy == "predictive":
        return step(32, batch, expertflow(slots), routing, seed).fetch.hit_rate
    return plain_hit_rate(policy, slots, batch, routing, seed)


def gain(experts: int, batch: int, routing: str, seed: int) -> float:
    """Decode rate over that of preloading whole layers."""
    ours = step(experts, batch, expertflow(SLOTS), routing, seed).seconds
    return step(experts, batch, PRELOAD, routing, seed).seconds / ours


def _rates(seeds: Sequence[int], routing: str) -> Iterator[Prediction]:
    for experts in SWITCHES:
        gains = [gain(experts, BATCH, routing, seed) for seed in seeds]
        yield Prediction(f"expertflow.switch{experts}.vs_semoe", float(np.mean(gains)))
    for experts in SWITCHES:
        took = [step(experts, BATCH, expertflow(SLOTS), routing, seed).seconds for seed in seeds]
        yield Prediction(f"expertflow.switch{experts}.tokens_per_s", BATCH / float(np.mean(took)))
    full = [gain(32, FULL_BATCH, routing, seed) for seed in seeds]
    yield Prediction("expertflow.gain_at_full_batch", float(np.mean(full)))


def _memory() -> Iterator[Prediction]:
    models = {"qwen": qwen(), "mixtral": mixtral(), "deepseek": deepseek(), "switch128": switch(128, whole=True)}
    for name, model in models.items():
        yield Prediction(f"expertflow.memory.{name}", resident_bytes(model, SLOTS_OF[name]) / 1e9)
    whole = switch(128, whole=True)
    yield Prediction("expertflow.memory.switch128.all_in_gpu", resident_bytes(whole, None) / 1e9)
    yield Prediction("expertflow.mixtral.all_in_gpu_fits", float(fits(mixtral())))


def hit_table(routing: str, seed: int) -> Table:
    """Hit rates of policies by slots, at two batches."""
    rows = []
    for batch in (4, 16):
        for slots in (4, 8, 12, 16, 24, 32):
            row: dict[str, float] = {"batch": batch, "slots": slots}
            for label, name in POLICIES.items():
                store = ExpertStore(slots, policy=name, look_ahead=8 if name == "belady" else 0)
                row[label] = step(32, batch, store, routing, seed).fetch.hit_rate
            kept = ExpertStore(slots, policy="predictive", accuracy=ACCURACY)
            row["predictive, kept"] = step(32, batch, kept, routing, seed).fetch.hit_rate
            row["predictive, transient"] = step(32, batch, expertflow(slots), routing, seed).fetch.hit_rate
            row["lru, in tokens' order"] = plain_hit_rate("lru", slots, batch, routing, seed)
            rows.append(row)
    note = "share of the experts a step needs that are there when their layer comes"
    return Table("hits", "Switch-32: hit rates by policy", rows, note)


def time_table(routing: str, seed: int) -> Table:
    """Milliseconds of a token by how experts are kept, and what crosses the link."""
    stores = {
        "all in GPU": ALL, "preload layers (SE-MoE)": PRELOAD,
        "lru": ExpertStore(SLOTS, policy="lru"), "ExpertFlow": expertflow(SLOTS),
        "predictive, kept": ExpertStore(SLOTS, policy="predictive", accuracy=ACCURACY),
    }  # fmt: skip
    rows = []
    for batch in BATCHES:
        row: dict[str, float] = {"batch": batch}
        steps = {name: step(32, batch, store, routing, seed) for name, store in stores.items()}
        row |= {name: found.seconds / batch * 1e3 for name, found in steps.items()}
        row["distinct experts a layer"] = steps["ExpertFlow"].fetch.needed / 6
        row["gain over SE-MoE"] = row["preload layers (SE-MoE)"] / row["ExpertFlow"]
        rows.append(row)
    note = f"ms; {SLOTS} slots a layer, routing {routing}"
    return Table("times", "Switch-32: time per token by how experts are kept", rows, note)
