"""Settings of vLLM, as an ``engine.json`` gives them."""

from __future__ import annotations

from dataclasses import replace

from ...workloads.errors import SpecError, nearest
from ..batching.kv import BLOCK_TOKENS, CacheSettings
from ..batching.policies import POLICIES, Policy, limited
from ..limits import MAX_SEQUENCES
from .keys import Keys, host_of, listed, told, version_doubts, version_of
from .settings import EngineSettings
from .upkeep import upkeep_of
from .vllm_offload import KEYS as OFFLOADED
from .vllm_offload import tiers_of_vllm
from .vllm_rules import BATCHED, BATCHED_TOKENS, DEFAULT_VERSION, MODES, VllmLimits, rules_of
from .vllm_sharing import HARMLESS as APART
from .vllm_sharing import KEYS as SHARING
from .vllm_sharing import captures, sharing_of
from .vllm_speculation import KEYS as SPECULATIVE
from .vllm_speculation import speculation_of

LISTED = listed("vllm")
ONLY = LISTED.only
KEYS = (*LISTED.keys, *SPECULATIVE, *OFFLOADED, *ONLY, *SHARING)
"""Every key that is read, of the file and of its parts."""
NULL_BLOCKS = 1
"""vLLM keeps one block of its pool as a placeholder (BlockPool.null_block)."""


def vllm_settings(keys: Keys) -> EngineSettings:
    """What a file of vLLM's says.

    Keys that do not bear on time are ignored; those that do and are not simulated are refused.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    version = version_of(keys, DEFAULT_VERSION)
    rules = rules_of(version)
    keys.refuse_unsimulated(ONLY)
    cache, hardware, host = map(keys.part, ("kv_cache", "hardware", "host"))
    tp = keys.count("tensor_parallel_size", 1)
    dp = keys.count("data_parallel_size", 1)
    blocks = cache.count("num_gpu_blocks", None)
    max_model_len = keys.count("max_model_len", None)
    memory, device = hardware.count("device_total_memory_bytes", None, 1 << 50), hardware.text("device_name", "")
    base = rules.applied(POLICIES["vllm"])
    if memory is not None:
        base = limited(base, *rules.limits_on(memory, device))
    exchange, sharing, doubts = sharing_of(keys, tp, dp)
    doubts += version_doubts(keys, "vllm", DEFAULT_VERSION)
    return EngineSettings(
        policy=_policy(keys, cache, host, base, version, max_model_len),
        cache=CacheSettings(
            cache.count("block_size", BLOCK_TOKENS),
            None if blocks is None else max(blocks - NULL_BLOCKS, 1),
            tiers=tiers_of_vllm(keys, cache),
        ),
        tp=tp,
        dp=dp,
        pp=keys.count("pipeline_parallel_size", 1),
        ep=tp * dp if keys.flag("enable_expert_parallel", False) else 1,
        **told(keys, "max_model_len", keys, "kv_cache_dtype"),
        memory_share=cache.share("gpu_memory_utilization", rules.memory_share),
        logit_bytes=rules.logit_bytes,
        exchange=exchange,
        sharing=sharing,
        speculative=speculation_of(keys, tp),
        limits=_limits(keys, cache, version, dp),
        doubts=(
            *doubts,
            *(
                d
                for part in (keys, cache, hardware, host, keys.part("speculative_config"))
                for d in part.doubts(KEYS, LISTED.harmless | APART)
            ),
        ),
    )


def _limits(keys: Keys, cache: Keys, version: tuple[int, int], dp: int) -> VllmLimits:
    """Which limits the file says, and what its other keys make of the defaults."""
    said = {key for key in (*keys.values, *cache.values) if {**keys.values, **cache.values}[key] is not None}
    batched = version >= (0, 20) and dp > 1 and keys.values.get("all2all_backend") in BATCHED
    return VllmLimits(
        version, not said.isdisjoint({"max_num_batched_tokens", "max_num_scheduled_tokens"}),
        not said.isdisjoint({"max_num_seqs", "max_num_active_seqs"}),
        2 if keys.one_of("performance_mode", MODES[0], MODES) == MODES[1] else 1,
        BATCHED_TOKENS if batched else None, "block_size" in said,
        cache.flag("enable_prefix_caching", False),
    )  # fmt: skip


def _policy(
    keys: Keys, cache: Keys, host: Keys, base: Policy, version: tuple[int, int], max_model_len: int | None
) -> Policy:
    """The batching that the file asks for, where it says other than `base`."""
    order = keys.text("scheduling_policy", "fcfs")
    if order not in ("fcfs", "priority"):
        known = nearest(order, ("fcfs", "priority"))
        raise SpecError(keys.path, f"scheduling_policy: unknown policy {order!r}{known}")
    least = base.token_budget if base.chunked else max(base.token_budget, max_model_len or 0)
    tokens = keys.count("max_num_batched_tokens", least)
    chunked = keys.flag("enable_chunked_prefill", base.chunked)
    if not chunked and max_model_len is not None and max_model_len > tokens:
        raise SpecError(
            keys.path, f"max_num_batched_tokens: must be at least max_model_len ({max_model_len}) "
            f"without enable_chunked_prefill, not {tokens}",
        )  # fmt: skip
    places = keys.count("max_num_seqs", base.max_sequences, MAX_SEQUENCES)
    threshold = keys.count("long_prefill_token_threshold", 0, least=0)
    if threshold and not chunked:
        raise SpecError(keys.path, "long_prefill_token_threshold: needs enable_chunked_prefill")
    graphs = not keys.flag("enforce_eager", not base.graphs) and captures(keys, keys.count("data_parallel_size", 1))
    return replace(
        base,
        token_budget=keys.count("max_num_scheduled_tokens", tokens),
        max_sequences=keys.count("max_num_active_seqs", places, places),
        chunked=chunked,
        lazy=base.lazy or chunked,
        prompts_alone=base.prompts_alone and not chunked,
        threshold=threshold,
        first_chunk=not keys.flag("scheduler_reserve_full_isl", not base.first_chunk) and chunked,
        ahead=keys.flag("async_scheduling", base.ahead),
        graphs=graphs,
        eager=not graphs,
        host=host_of(host, upkeep_of("vllm", version).on(base.host, keys.count("tensor_parallel_size", 1))),
        caching=cache.flag("enable_prefix_caching", base.caching),
        order=order if order == "priority" else "",
    )
