"""What differs between versions of vLLM, and which of its settings are known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...devices.spec import DeviceSpec
from ..batching.policies import Policy


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
    ahead : bool
        Default of `async_scheduling`: on from 0.14 (its release notes).
    early : bool
        The V0 engine: whole prompts in steps of their own, before decodes; no prefix caching, and the
        host's work between the steps (``Scheduler._schedule_default`` in vllm/core/scheduler.py).
    """

    since: tuple[int, int]
    bare_first: bool
    memory_share: float
    serial_stages: bool
    ahead: bool = True
    early: bool = False

    def applied(self, policy: Policy) -> Policy:
        """The batching of this version."""
        policy = replace(
            policy, bare_first=self.bare_first, serial_stages=self.serial_stages, ahead=self.ahead
        )
        if not self.early:
            return policy
        return replace(policy, prompts_alone=True, chunked=False, lazy=False, caching=False)


RULES = (
    Rules((0, 0), False, 0.9, True, ahead=False, early=True),
    Rules((0, 8), False, 0.9, True, ahead=False),
    Rules((0, 14), False, 0.9, True),
    Rules((0, 25), True, 0.92, False),
)
"""From the wheels 0.19.0 and 0.25.0. Versions before 0.19 schedule as it does here, those between 0.19
and 0.25 too: 0.21.0 still hands blocks out in the old order."""

DEFAULT_VERSION = "0.19"

LOGIT_BYTES = 40.4
"""What vLLM keeps free of its cache for each sequence that a step may have and entry of the vocabulary [B].

Before the cache is cut, an engine runs its largest step, and what that takes stays free: logits of 16 and 32
bits, their sorted copies and places, probabilities. The mean of two engines that say how many tokens their
cache holds: 0.19 on an RTX 4090 (256 sequences of Llama-3.1-8B, 37.7 bytes) and 0.30 on an H100 (1,024 of
Qwen3-8B, 43.1). Graphs and activations, of 0.1 to 1 GB, are in these numbers and not told apart.
"""

LARGE_BYTES = 70 * 2**30
SMALL_LIMITS = (2048, 256)
"""Tokens and sequences of a step on devices below `LARGE_BYTES` and on an A100 of any size, where the
server's defaults are smaller (get_batch_defaults in vllm/engine/arg_utils.py)."""


def limits_on(device: DeviceSpec) -> tuple[int | None, int | None]:
    """Tokens and sequences of a step that a server has without being told; None is the policy's."""
    small = device.memory.capacity_bytes < LARGE_BYTES or device.name.startswith("a100")
    return SMALL_LIMITS if small else (None, None)


def rules_of(number: tuple[int, int]) -> Rules:
    """The rules of a version: those of the last one known that is no newer."""
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
