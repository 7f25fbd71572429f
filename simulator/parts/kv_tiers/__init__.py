"""KV cache tiers below device memory (host, disk, shared pool): stored blocks, loads, writes and reported values."""

from __future__ import annotations

from ...part import Part
from .options import TierOptions

PARTS = (
    Part(
        "kv-tiers",
        "--kv-tiers",
        "memories below the devices' that keep KV blocks",
        options=TierOptions,
        hooks={
            "settings": "asked:with_tiers",
            "shared": "run:common_of",
            "engine": "run:of_engine",
            "collect": "run:tiers_left",
            "figures": "figures:FIGURES",
        },
        page="kv-tiers",
        tests=("simulator/test_kv_tiers", "analysis/test_kv_tiers"),
        asked=lambda a: getattr(a.cache, "tiers", None),
        also=("parts/adapters/run",),
        cannot={
            "sglang": "its tree copies whole nodes by counts of hits; tiers keep blocks by last use",
            "tensorrt-llm": "its tree offloads by priorities as it evicts; tiers keep blocks by last use",
        },
    ),
)
