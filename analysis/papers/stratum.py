"""Stratum (MICRO 2025, arXiv 2510.05245): experts and caches by heat over tiers of 3D DRAM.

The gain of tiering applies only to accesses: with it the hottest data is in the fastest tiers, without it every access
takes the slowest tier's time. Nothing is fitted. The comparison with a GPU is a decode step by `compare` and only
reported: the paper's batch and lengths are unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from opbyte.extend import ModelSpec, Table, load_device, load_model
from opbyte.extend.answers import compare
from opbyte.extend.models import is_routed, make_router

from .kinds.tiers import Tiers, tiers_of
from .published import Prediction, paper

DEVICE = "stratum"
MODELS = {"mixtral": "mixtral-8x7b", "olmoe": "olmoe-1b-7b", "qwen2.5": "qwen2.5-32b", "llama-4": "llama-4-scout"}
CHIP_BYTES = 32e9
CHIPS = {"mixtral": 6, "olmoe": 1, "qwen2.5": 6, "llama-4": 12}
"""Number of chips of the smallest paper system (1, 6 or 12 chips) that holds the 16-bit model."""
GPUS = {"mixtral": ("stratum-x1", "h100-x2"), "olmoe": ("stratum-x1", "h100-x1"),
        "qwen2.5": ("stratum-x1", "h100-x1"), "llama-4": ("stratum-x2", "h100-x4")}  # fmt: skip
"""Stratum system of each model, and the smallest GPU system that holds the model."""
BATCH, CONTEXT = 32, 1024
SKEW = "measured"
"""Default popularity of experts; placement by heat needs a skewed one."""


def predictions(seeds: Sequence[int] = (0,), routing: str = "uniform") -> Iterator[Prediction]:
    """Return all rows, only from the device's description."""
    popularity = SKEW if routing == "uniform" else routing
    for name, model in MODELS.items():
        gains = [tiering(load_model(model), CHIPS[name], popularity, seed) for seed in seeds]
        yield Prediction(f"stratum.tiering.{name}", float(np.mean(gains)))
    for name, systems in GPUS.items():
        table = compare(MODELS[name], systems, batch=BATCH, context=CONTEXT, framework="typical").table
        ours, theirs = (row.items_per_s or 0.0 for row in table)
        yield Prediction(f"stratum.over_gpu.{name}", ours / theirs if theirs else 0.0)


def tiers() -> Tiers:
    """Return the memory tiers of a chip."""
    return tiers_of(load_device(DEVICE)[0].processors["stratum"].parameters)


def tiering(model: ModelSpec, chips: int, routing: str, seed: int) -> float:
    """Return the decode rate with data placed by read frequency over the rate with all data in the slowest tier."""
    memory, spec = chips * CHIP_BYTES, load_device(DEVICE)[0]
    sizes, heats = _experts(model, routing, seed)
    sizes = sizes / memory
    used = max(spec.memory.usable_fraction, model.weight_bytes / memory)
    # Dense weights and KV cache fill the rest of what is used, and are read once a step.
    return tiers().gain([*sizes, used - sizes.sum()], [*heats, 1.0])


def _experts(model: ModelSpec, routing: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of every expert, and its load relative to the mean of its layer."""
    parts = [layer.ffn for layer in model.layers if is_routed(layer.ffn)]
    if not parts:
        return np.zeros(0), np.zeros(0)
    routed = parts[0].routed
    router = make_router(routing, layers=len(parts), experts=routed.experts, top_k=routed.top_k, seed=seed)
    value = model.numerics.weight_bytes("experts")
    one = [w.total for w in parts[0].weights() if w.group == "experts"]
    size = sum(one) * value / routed.experts
    heats = (router.prob * routed.experts).ravel()
    return np.full(heats.size, size), heats


def by_tier(*_: object) -> Table:
    """Return a table of each tier's row activation time and bandwidth."""
    of, device = tiers(), load_device(DEVICE)[0]
    pins = device.memory.bandwidth_bytes_per_s / device.memory.stacks
    fastest = pins * device.processors["stratum"].bandwidth_multiple
    rows = [{"tier": i + 1, "tRCD_ns": rcd * 1e9, "TB/s": fastest / slow / 1e12}
            for i, (rcd, slow) in enumerate(zip(of.rcd_s, of.slowness, strict=True))]  # fmt: skip
    return Table("tiers", "Tiers of a chip", rows)


def _drawn(*_: object) -> Table:
    """Return the row activation and the rest of an access for the plot."""
    of = tiers()
    rows = [{"case": f"tier {i + 1}", "row activation": rcd * 1e9, "rest": of.common_s * 1e9}
            for i, rcd in enumerate(of.rcd_s)]  # fmt: skip
    return Table("steps", "An access in each tier of a Stratum chip (ns)", rows)


paper(
    "stratum", "Predict Stratum: what tiers of 3D DRAM gain with experts and caches placed by heat.", predictions,
    seeded=True, tables=(by_tier,), drawn={"steps": _drawn},
)  # fmt: skip
