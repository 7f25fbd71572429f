"""MixLoRA (arXiv 2404.15159): adapter experts on one feed-forward block, plain and with the base run once.

Kernels are launched expert by expert as the authors' engine does. What is saved in FLOPs (0.73) shrinks by
what both designs have alike: small products of the adapters and passes over vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

from opbyte.extend import Table

from .mixlora_step import (
    DESIGNS,
    EXPERTS,
    LENGTH,
    RANK,
    SEQUENCES,
    SYSTEM,
    TOP_K,
    flops,
    forward_ops,
    forward_s,
    memory_gib,
    parts_s,
)
from .published import Prediction, paper

LLAMA, GEMMA = "llama-2-7b", "gemma-2b"
BATCHES = (1, 2, 4, 8, 16)


def ratio(model: str, sequences: int = SEQUENCES, training: bool = False) -> float:
    """Return the time with the base run once over the time of plain experts."""
    ours, plain = (forward_s(model, d, sequences, training) for d in ("optimised", "plain"))
    return ours / plain


def predictions() -> Iterator[Prediction]:
    """All rows, from kernels and weights."""
    work = flops(LLAMA, "optimised") / flops(LLAMA, "plain")
    yield Prediction("mixlora.llama2.inference.optimised_over_plain", ratio(LLAMA), f"FLOPs: {work:.3f}")
    yield Prediction("mixlora.llama2.memory_two", memory_gib(LLAMA, 2))
    yield Prediction("mixlora.llama2.training.optimised_over_plain", ratio(LLAMA, training=True))
    yield Prediction("mixlora.gemma.inference.optimised_over_plain", ratio(GEMMA))


def _batches() -> Table:
    rows = []
    for sequences in BATCHES:
        tokens = sequences * LENGTH
        us = {d: forward_s(LLAMA, d, sequences) / tokens * 1e6 for d in DESIGNS}
        rows.append({"tokens": tokens, **{f"{d}_us_a_token": took for d, took in us.items()},
                     "optimised_over_plain": ratio(LLAMA, sequences)})  # fmt: skip
    return Table("batches", f"Forward pass of {LLAMA} by tokens of the batch", rows)


def _parts() -> Table:
    rows = []
    for design in DESIGNS:
        launches = sum(count for _, count in forward_ops(LLAMA, design))
        ms = {name: took * 1e3 for name, took in parts_s(LLAMA, design).items()}
        rows.append({"design": design, "TFLOP": SEQUENCES * flops(LLAMA, design) / 1e12,
                     "kernels": launches, **{f"{name}_ms": took for name, took in ms.items()}})  # fmt: skip
    return Table("parts", f"Where a forward pass of {LLAMA} spends its time", rows)


def _drawn() -> Table:
    """Return the milliseconds of a pass by part for the plot."""
    rows = [
        {"case": design, **{name: took * 1e3 for name, took in parts_s(LLAMA, design).items()}} for design in DESIGNS
    ]
    return Table("steps", f"A forward pass of {LLAMA} by design (ms)", rows)


paper(
    "mixlora", "MixLoRA: time and memory of adapter experts whose base runs once for a token.", predictions,
    facts={"SEQUENCES": SEQUENCES, "LENGTH": LENGTH, "SYSTEM": SYSTEM, "EXPERTS": EXPERTS, "TOP_K": TOP_K, "RANK": RANK}, tables=(_batches, _parts), drawn=_drawn, runs=len(DESIGNS) * len(BATCHES) + 2,
)  # fmt: skip
