"""Edge-MoE (ICCAD 2023, arXiv 2305.18691): its accelerator predicted from its HLS source.

One image of Cityscapes, one task, 12 layers, from an idle engine, mean over samples of a uniform router. Nothing is
fitted: array sizes, buffers, port widths and clock come from the published source and hardware handoff; norm and gate
cycles per token are estimates from it, board power is an input. Published latencies, energies and shares are not used;
all rows are predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from opbyte.extend import load_device

from .fpga import assumptions, run_images
from .published import Prediction, paper

MODEL, DEVICE = "edge-moe-cityscapes", "zcu102"
LINEAR = ("linear",)
ATTENTION = ("qk", "pv")


def predictions(seeds: Sequence[int], routing: str) -> tuple[Prediction, ...]:
    """Return all rows, from images."""
    device = load_device(DEVICE)[0]
    usual = run_images(MODEL, device, seeds, routing)
    in_order = run_images(MODEL, device, seeds, routing, schedule="cache")
    plain = run_images(MODEL, device, seeds, routing, attention_reorder=False)

    def share(units: tuple[str, ...]) -> float:
        return usual.mean(lambda f: f.unit(*units) / f.cycles)

    clock = usual.deployment.engine.clock_Hz
    attention = plain.mean(lambda f: f.unit(*ATTENTION)) / clock

    return (
        Prediction("latency_ms", usual.seconds * 1e3),
        Prediction("attention_share", share(ATTENTION)),
        Prediction("linear_share", share(LINEAR)),
        Prediction("fps", 1 / usual.seconds),
        Prediction("energy_j", usual.joules),
        Prediction("ddr_bytes_per_image", usual.mean(lambda f: f.memory_bytes)),
        Prediction("no_reorder_latency_ms", in_order.seconds * 1e3),
        Prediction("attention_without_reorder_latency_ms", attention * 1e3),
        Prediction("attention_latency_ms", usual.mean(lambda f: f.unit(*ATTENTION)) / clock * 1e3),
        Prediction("no_attention_reorder_latency_ms", plain.seconds * 1e3),
    )


paper(
    "edge-moe", "Predict Edge-MoE on a ZCU102: latency, where it goes, energy, memory traffic, ablations.", predictions,
    seeded=True, runs=lambda seeds: 3 * seeds, assumptions=partial(assumptions, DEVICE),
)  # fmt: skip
