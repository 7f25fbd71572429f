"""Rows of the paper's figures out of simulated points: throughput, latency, energy, competitors."""

from __future__ import annotations

from opbyte.extend import Row, judged

from ..points import Runner
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
    fixed,
    mean,
)

SPEED = "output_tokens_per_s"
HETERO_LENGTHS = {(2048, 4096): 101, (4096, 4096): 75, (8192, 4096): 50}
"""(Lin, Lout) of Fig. 5c and the batches that it prints."""


def throughput(get: Means) -> list[Row]:
    """Fig. 11: output tokens per second over three models, batches and lengths."""
    over_gpu = {m: get.ratios([m], ET, GPU, SPEED) for m in MOE}
    every = [r for values in over_gpu.values() for r in values]
    plain = get.ratios(MOE, PLAIN, GPU, SPEED)
    pe = get.ratios(MOE, PE, PLAIN, SPEED)
    et = get.ratios(MOE, ET, PLAIN, SPEED)
    least = min(over_gpu, key=lambda m: mean(over_gpu[m]))
    return [
        judged("T3", "throughput, +PE+ET over GPU, largest", "1", 2.67, max(every), "5 %", "VII-A"),
        judged("T4", "throughput, +PE+ET over GPU, mean", "1", 2.07, mean(every), "8 %", "X"),
        judged("T5", "throughput, plain over GPU, largest", "1", 2.51, max(plain), "5 %", "VII-A"),
        judged("T6", "throughput, +PE over plain, mean", "1", 1.04, mean(pe), "0.04", "VII-A"),
        judged("T7", "throughput, +PE+ET over plain, largest", "1", 1.36, max(et), "8 %", "VII-A"),
        judged("T8", "Grok1 gains least (1 = holds)", "1", 1.0, float(least == GROK), "0", "VII-A"),
        judged("order.pe", "+PE is nowhere below plain (1 = holds)", "1", 1.0, float(min(pe) >= 1), "0", "VII-A"),
    ]


def latency(get: Means) -> list[Row]:
    """Fig. 12: GLaM, batch 64; changes as fractions."""

    def change(device: str, base: str, name: str, length: int) -> float:
        return get(GLAM, device, 64, length, name) / get(GLAM, base, 64, length, name) - 1

    def average(device: str, base: str, name: str) -> float:
        return mean([change(device, base, name, n) for n in LENGTHS[GLAM]])

    rows = [
        judged("T9", "GLaM, median TBT, plain against GPU, mean change", "1", -0.583,
               average(PLAIN, GPU, "tbt_p50"), "0.04", "VII-B"),
        judged("T10", "GLaM, median end to end, +PE+ET against GPU, mean change", "1", -0.6020,
               average(ET, GPU, "e2e_p50"), "0.03", "VII-B"),
        judged("T11", "GLaM, median end to end, +PE+ET against 2xGPU, mean change", "1", -0.3538,
               average(ET, TWO, "e2e_p50"), "0.03", "VII-B"),
    ]  # fmt: skip
    for length in (512, 2048):
        for label, name in (("t2ft", "t2ft_p50"), ("p99_tbt", "tbt_p99")):
            rows.append(
                judged(f"glam.lin{length}.{label}_vs_2xgpu",
                       f"GLaM, Lin = Lout = {length}, {label}, +PE+ET against 2xGPU, change", "1",
                       None, change(ET, TWO, name, length))
            )  # fmt: skip
    return rows


def energy(get: Means) -> list[Row]:
    """Fig. 15: dynamic energy per output token, +PE+ET against GPU."""
    saving = {m: [1 - r for r in get.ratios([m], ET, GPU, "joules_per_token")] for m in MOE}
    published = {MIXTRAL: 0.3328, GLAM: 0.4203, GROK: 0.3459}
    rows = [
        judged(f"T19.{m.split('-')[0]}", f"{m}: best energy saving per token", "1", published[m],
               max(values), "0.04", "VII-D")
        for m, values in saving.items()
    ]  # fmt: skip
    every = [v for values in saving.values() for v in values]
    rows.append(judged("T20", "mean energy saving per token", "1", 0.2819, mean(every), "0.03", "X"))
    by_length = [v[i : i + 3] for v in saving.values() for i in range(0, len(v), 3)]
    longer = all(short < middle < long for short, middle, long in by_length)
    rows.append(
        judged("order.energy", "energy saving grows with length at every batch (1 = holds)", "1",
               1.0, float(longer), "0", "VII-D")
    )  # fmt: skip
    return rows


def bank_pim(get: Means) -> list[Row]:
    """Fig. 14: Bank-PIM beside Duplex."""
    rows = []
    for batch, length, label, device in (
        (64, 256, "duplex", ET), (64, 256, "bankpim", BANK), (32, 4096, "bankpim", BANK),
    ):  # fmt: skip
        ratio = get(MIXTRAL, device, batch, length, SPEED) / get(MIXTRAL, GPU, batch, length, SPEED)
        rows.append(
            judged(f"bankpim.mixtral.b{batch}.l{length}.{label}",
                   f"Mixtral, batch {batch}, length {length}: {label} over GPU", "1", None, ratio)
        )  # fmt: skip
    for model, label, pick in (
        (MIXTRAL, "mixtral", ("max", "mean")), (LLAMA3, "llama3", ("min", "max")),
        (OPT, "opt", ("min", "max")),
    ):  # fmt: skip
        ratios = get.ratios([model], ET, BANK, SPEED)
        for name in pick:
            value = {"min": min(ratios), "max": max(ratios), "mean": mean(ratios)}[name]
            rows.append(
                judged(f"bankpim.{label}.duplex_over_bankpim.{name}",
                       f"{model}: throughput, Duplex over Bank-PIM, {name}", "1", None, value)
            )  # fmt: skip
    return rows


def hetero(runner: Runner) -> list[Row]:
    """Fig. 5c: how many of 128 requests the Logic-PIM devices' memory holds at once."""
    rows = []
    for (prompt, output), published in HETERO_LENGTHS.items():
        held = runner[fixed(HETERO, 128, prompt, output)].decodes
        rows.append(
            judged(f"T21.l{prompt}", f"hetero, Mixtral, ({prompt}, {output}): batch that fits", "1",
                   published, held, "1", "Fig. 5c")
        )  # fmt: skip
    return rows


def split(get: Means, runner: Runner) -> list[Row]:
    """Fig. 16: two devices that prefill and two that decode beside four that do both."""
    held = runner[fixed(SPLIT, 128, 4096, 4096)].decodes
    tail = get(MIXTRAL, ET, 128, 4096, "tbt_p99") / get(MIXTRAL, SPLIT, 128, 4096, "tbt_p99")
    rows = [
        judged("split.batch", "Duplex-Split, Mixtral, (4096, 4096): batch that fits of 128", "1",
               None, held),
        judged("split.duplex_p99_tbt_over_split", "Mixtral, (4096, 4096), batch 128: p99 TBT, "
               "Duplex over Duplex-Split", "1", None, tail),
    ]  # fmt: skip
    for n in LENGTHS[MIXTRAL]:
        ratio = get(MIXTRAL, ET, 128, n, SPEED) / get(MIXTRAL, SPLIT, 128, n, SPEED)
        rows.append(
            judged(f"split.throughput_duplex_over_split.l{n}",
                   f"Mixtral, batch 128, length {n}: throughput, Duplex over Duplex-Split", "1",
                   None, ratio)
        )  # fmt: skip
    return rows
