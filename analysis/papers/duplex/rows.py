"""Rows of the paper's figures out of simulated points: throughput, latency, energy, competitors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..points import Point, Runner
from ..published import Prediction
from .cases import (
    BANK,
    ET,
    GLAM,
    GPU,
    GROK,
    HETERO,
    LENGTHS,
    LLAMA3,
    MIXTRAL,
    MOE,
    OPT,
    PE,
    PLAIN,
    SPLIT,
    TWO,
    Means,
    closed,
    fixed,
    mean,
)

SPEED = "output_tokens_per_s"
HETERO_LENGTHS = ((2048, 4096), (4096, 4096), (8192, 4096))
"""(Lin, Lout) of Fig. 5c."""
LOADED = {"gpu": GPU, "duplex": ET, "2xgpu": TWO}
"""Systems of Fig. 13."""


def throughput(get: Means) -> list[Prediction]:
    """Fig. 11: output tokens per second over three models, batches and lengths."""
    over_gpu = {m: get.ratios([m], ET, GPU, SPEED) for m in MOE}
    every = [r for values in over_gpu.values() for r in values]
    plain, pe, et = (get.ratios(MOE, a, b, SPEED) for a, b in ((PLAIN, GPU), (PE, PLAIN), (ET, PLAIN)))
    least = min(over_gpu, key=lambda m: mean(over_gpu[m]))
    values = {
        "T3": max(every), "T4": mean(every), "T5": max(plain), "T6": mean(pe), "T7": max(et),
        "T8": float(least == GROK), "order.pe": float(min(pe) >= 1),
    }  # fmt: skip
    return [Prediction(*pair) for pair in values.items()]


def latency(get: Means) -> list[Prediction]:
    """Fig. 12: GLaM, batch 64; changes as fractions."""

    def change(device: str, base: str, name: str, length: int) -> float:
        return get(GLAM, device, 64, length, name) / get(GLAM, base, 64, length, name) - 1

    def average(device: str, base: str, name: str) -> float:
        return mean([change(device, base, name, n) for n in LENGTHS[GLAM]])

    return [
        Prediction("T9", average(PLAIN, GPU, "tbt_p50")),
        Prediction("T10", average(ET, GPU, "e2e_p50")),
        Prediction("T11", average(ET, TWO, "e2e_p50")),
        *(
            Prediction(f"glam.lin{length}.{label}_vs_2xgpu", change(ET, TWO, name, length))
            for length in (512, 2048)
            for label, name in (("t2ft", "t2ft_p50"), ("p99_tbt", "tbt_p99"))
        ),
    ]


def energy(get: Means) -> list[Prediction]:
    """Fig. 15: dynamic energy per output token, +PE+ET against GPU."""
    saving = {m: [1 - r for r in get.ratios([m], ET, GPU, "joules_per_token")] for m in MOE}
    every = [v for values in saving.values() for v in values]
    by_length = [v[i : i + 3] for v in saving.values() for i in range(0, len(v), 3)]
    longer = all(short < middle < long for short, middle, long in by_length)
    return [
        *(Prediction(f"T19.{m.split('-')[0]}", max(values)) for m, values in saving.items()),
        Prediction("T20", mean(every)),
        Prediction("order.energy", float(longer)),
    ]


def bank_pim(get: Means) -> list[Prediction]:
    """Fig. 14: Bank-PIM beside Duplex."""
    rows = []
    for batch, length, label, device in (
        (64, 256, "duplex", ET), (64, 256, "bankpim", BANK), (32, 4096, "bankpim", BANK),
    ):  # fmt: skip
        ratio = get(MIXTRAL, device, batch, length, SPEED) / get(MIXTRAL, GPU, batch, length, SPEED)
        rows.append(Prediction(f"bankpim.mixtral.b{batch}.l{length}.{label}", ratio))
    for model, label, pick in (
        (MIXTRAL, "mixtral", ("max", "mean")), (LLAMA3, "llama3", ("min", "max")),
        (OPT, "opt", ("min", "max")),
    ):  # fmt: skip
        ratios = get.ratios([model], ET, BANK, SPEED)
        values = {"min": min(ratios), "max": max(ratios), "mean": mean(ratios)}
        rows += [Prediction(f"bankpim.{label}.duplex_over_bankpim.{name}", values[name]) for name in pick]
    return rows


def hetero(runner: Runner) -> list[Prediction]:
    """Fig. 5c: number of 128 requests whose caches fit the Logic-PIM devices' memory at once."""
    return [
        Prediction(f"T21.l{lengths[0]}", runner[fixed(HETERO, 128, *lengths)].decodes) for lengths in HETERO_LENGTHS
    ]


def split(get: Means, runner: Runner) -> list[Prediction]:
    """Fig. 16: two devices that prefill and two that decode beside four that do both."""

    def over(length: int, name: str) -> float:
        return get(MIXTRAL, ET, 128, length, name) / get(MIXTRAL, SPLIT, 128, length, name)

    return [
        Prediction("split.batch", runner[fixed(SPLIT, 128, 4096, 4096)].decodes),
        Prediction("split.duplex_p99_tbt_over_split", over(4096, "tbt_p99")),
        *(Prediction(f"split.throughput_duplex_over_split.l{n}", over(n, SPEED)) for n in LENGTHS[MIXTRAL]),
    ]


def full(device: str, seeds: Sequence[int], routing: str) -> list[Point]:
    """Fig. 13's requests, as many in flight as it allows at once."""
    return [closed(MIXTRAL, device, 128, 4096, s, routing, output_len=512) for s in seeds]


def loads(get: Means) -> list[Prediction]:
    """Fig. 13: the highest whole number of requests per second below what full engines complete."""
    rates = {name: get.of(full(device, get.seeds, get.routing), "completion_rate") for name, device in LOADED.items()}
    return [
        Prediction(f"qps.{name}_max", float(math.ceil(rate) - 1), f"Fig. 13; full engines complete {rate:.2f}/s")
        for name, rate in rates.items()
    ]
