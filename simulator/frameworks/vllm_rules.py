"""What differs between versions of vLLM, and which of its settings are known here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rules:
    """What a version of vLLM does.

    Attributes
    ----------
    since : tuple of int
        First version (major, minor) with these rules.
    bare_first : bool
        Freed blocks without a content hash are handed out next, not last (``BlockPool.free_blocks``
        in vllm/v1/core/block_pool.py).
    memory_share : float
        Default of `gpu_memory_utilization` (vllm/config/cache.py).
    serial_stages : bool
        What asynchronous scheduling means with pipeline stages, see `Policy.serial_stages`: of the V1
        model runner. The V2 runner, which newer versions have for most models, gives a decode every
        `pp`-th batch (`next_decode_eligible_step` in vllm/v1/core/sched/async_scheduler.py), as
        synchronous scheduling does once the pipeline is full; that is what is simulated.
    gap_s : float
        What the devices wait between two steps, see `Host.gap_s` [s].
    """

    since: tuple[int, int]
    bare_first: bool
    memory_share: float
    serial_stages: bool
    gap_s: float = 0.0


EARLY_GAP_S = 1e-3
"""What a step of vLLM 0.10 takes beside its devices' work [s]; most likely its inputs are prepared, and its
tokens read, while the devices wait: overlapping that was to save 5 to 10 % of a step with asynchronous
scheduling (github.com/vllm-project/vllm/pull/23569; whether 0.10.2 has it was not checked). Fitted: the value with the least median error of
TPOT over the 120 rows of vLLM 0.10.2 in ../shared/serving_points, which it brings from 12.5 to 2.7 %,
for 1 to 8 devices, two formats and 4 to 64 sequences alike. Runs of 0.15 and 0.19 show no such gap;
that it ended with 0.11 is assumed."""

RULES = (
    Rules((0, 0), False, 0.9, True, EARLY_GAP_S),
    Rules((0, 11), False, 0.9, True),
    Rules((0, 25), True, 0.92, False),
)
"""From the wheels 0.19.0 and 0.25.0. Versions before 0.19 schedule as it does here, those between 0.19
and 0.25 too: 0.21.0 still hands blocks out in the old order."""

DEFAULT_VERSION = "0.19"


def rules_of(version: str) -> Rules | None:
    """The rules of a version such as ``0.19.0`` or ``v0.25.1rc2``; None if it is no version."""
    found = re.match(r"v?(\d+)\.(\d+)(?!\d)", version)
    if not found:
        return None
    number = int(found[1]), int(found[2])
    return max((rules for rules in RULES if rules.since <= number), key=lambda r: r.since)


ONLY: Mapping[str, tuple[Any, str]] = {
    "max_num_partial_prefills": (1, "vLLM's V1 engine refuses other values"),
    "max_long_partial_prefills": (1, "vLLM's V1 engine refuses other values"),
    "scheduler_reserve_full_isl": (True, "admission asks for room for the whole prompt"),
    "decode_context_parallel_size": (1, "contexts are not split here"),
    "prefill_context_parallel_size": (1, "contexts are not split here"),
    "enable_lora": (False, "adapters are not simulated"),
    "cpu_offload_gb": (0, "weights in host memory are not simulated"),
    "watermark": (0.0, "all blocks are used"),
}
"""Settings that bear on time and of which only one value, their default, is simulated, and why."""

HARMLESS = frozenset({
    "model", "served_model_name", "seed", "num_cpu_blocks", "kv_cache_memory_bytes",
    "num_kv_tokens", "torch_version", "cuda_version", "device_count", "device_capability",
    "swap_space", "disable_log_requests", "disable_log_stats", "trust_remote_code", "tokenizer",
})  # fmt: skip
"""Keys of vLLM's that say what ran and do not bear on time, though some look like others."""
