"""Edge-MoE (ICCAD 2023, arXiv 2305.18691): its accelerator predicted from its HLS source.

One image of Cityscapes, one task, 12 layers, from an idle engine, mean over samples of a uniform router. Nothing is
fitted: array sizes, buffers, port widths and clock come from the published source and hardware handoff; norm and gate
cycles per token are estimates from it, board power is an input. Published latencies, energies and shares are not used;
all rows are predictions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from opbyte.extend import EXPERIMENTS, Reproduction, load_device
from opbyte.extend.answers import OnProgress

from .fpga import assumptions, run_images
from .published import Prediction, rows_of

MODEL, DEVICE = "edge-moe-cityscapes", "zcu102"
LINEAR = ("linear",)
ATTENTION = ("qk", "pv")


@EXPERIMENTS.register("edge-moe")
def edge_moe(seeds: Sequence[int], routing: str, progress: OnProgress | None) -> Reproduction:
    """Predict Edge-MoE on a ZCU102: latency, where it goes, energy, memory traffic, ablations."""
    began = time.perf_counter()
    device = load_device(DEVICE)[0]
    usual = run_images(MODEL, device, seeds, routing)
    in_order = run_images(MODEL, device, seeds, routing, schedule="cache")
    plain = run_images(MODEL, device, seeds, routing, attention_reorder=False)

    def share(units: tuple[str, ...]) -> float:
        return usual.mean(lambda f: f.unit(*units) / f.cycles)

    clock = usual.deployment.engine.clock_Hz
    attention = plain.mean(lambda f: f.unit(*ATTENTION)) / clock

    rows = (
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
    return Reproduction(
        "edge-moe",
        rows_of("edge-moe", rows),
        3 * len(seeds),
        time.perf_counter() - began,
        assumptions=assumptions(DEVICE),
    )
