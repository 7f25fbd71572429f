"""KV cache tiers below device memory (host, disk, shared pool): stored blocks, loads, writes and reported values."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, flag, text
from ...part import Part


@described
@dataclass(frozen=True, slots=True)
class TierOptions(CheckedOptions):
    """Options of the KV cache tiers below device memory; `asked` reads them."""

    kv_tiers: str | None = text(
        "KV cache tiers below device memory, nearest first: host, disk, shared. Optional: size (per "
        "replica; total of shared) such as 64GiB, bandwidth per device [GB/s], latency [us]; defaults: "
        "the device's.",
        "NAME[:SIZE[:RATE[:US]]],...",
    )
    kv_write: str | None = text(
        "Write rule of the KV tiers: through (blocks are copied when computed; default) or back (when evicted).", "RULE"
    )
    kv_load: str | None = text(
        "Load rule of the KV tiers: always (default) or cheaper (only if loading is faster than recomputing).", "RULE"
    )
    kv_prefetch: bool = flag("When a request arrives, prefetch its KV blocks from lower tiers to the first tier.")


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
            "figures": "run:FIGURES",
        },
        page="kv-tiers",
        tests=("simulator/test_kv_tiers", "analysis/test_kv_tiers"),
        asked=lambda a: getattr(a.cache, "tiers", None),
        also=("parts/adapters/run",),
        cannot={
            "sglang": "SGLang's tree copies nodes by their number of hits; tiers keep single blocks by last use",
            "tensorrt-llm": "TensorRT-LLM offloads evicted blocks by priority; tiers keep blocks by last use",
        },
    ),
)
