"""Edge-MoE (ICCAD 2023, arXiv 2305.18691): its accelerator predicted from its HLS source.

One image of Cityscapes, one task, 12 layers, from an idle engine, mean over draws of a uniform
router. Nothing is fitted: array sizes, buffers, port widths and clock come from the published
source and hardware handoff; norm and gate cycles per token are estimates from it, board power is
an input. Published latencies, energies and shares are not used; all rows are predictions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from opbyte.extend import EXPERIMENTS, Reproduction, Row, judged, load_device
from opbyte.extend.answers import Told

from .fpga import assumptions, run_images

MODEL, DEVICE = "edge-moe-cityscapes", "zcu102"
LINEAR = ("linear",)
ATTENTION = ("qk", "pv")


@EXPERIMENTS.register("edge-moe")
def edge_moe(seeds: Sequence[int], routing: str, told: Told | None) -> Reproduction:
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

    def predicted(id: str, quantity: str, unit: str, value: float, note: str = "") -> Row:
        return judged(id, quantity, unit, None, value, note=note)

    rows = (
        predicted("latency_ms", "one image", "ms", usual.seconds * 1e3),
        predicted("attention_share", "QK and PV units, share of the latency", "1",
                  share(ATTENTION)),
        predicted("linear_share", "linear unit, share of the latency", "1", share(LINEAR),
                  "QKV, projection, MLP and experts, stalls for their weights included"),
        predicted("fps", "images per second, one after another", "1/s", 1 / usual.seconds),
        predicted("energy_j", "energy of one image", "J", usual.joules,
                  "board power of 14.54 W, an input, times the latency"),
        predicted("ddr_bytes_per_image", "external memory traffic of one image", "B",
                  usual.mean(lambda f: f.memory_bytes)),
        predicted("no_reorder_latency_ms", "one image, experts in token order", "ms",
                  in_order.seconds * 1e3, "every visit loads its expert, in series"),
        predicted("attention_without_reorder_latency_ms",
                  "QK and PV units, every query reading all keys", "ms", attention * 1e3,
                  "attention alone, all layers"),
        predicted("attention_latency_ms", "QK and PV units as built", "ms",
                  usual.mean(lambda f: f.unit(*ATTENTION)) / clock * 1e3,
                  "attention alone, all layers"),
        predicted("no_attention_reorder_latency_ms",
                  "one image, every query reading all keys", "ms", plain.seconds * 1e3),
    )  # fmt: skip
    return Reproduction("edge-moe", rows, 3 * len(seeds), time.perf_counter() - began, assumptions=assumptions(DEVICE))
