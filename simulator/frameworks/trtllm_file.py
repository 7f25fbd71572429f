"""Settings of TensorRT-LLM, as an ``engine.json`` gives them: the names of its LLM arguments."""

from __future__ import annotations

from dataclasses import replace

from ...workloads.errors import SpecError
from ..batching.kv import CacheSettings
from ..batching.policies import Policy
from ..limits import MAX_SEQUENCES
from ..parts.tensorrt_llm.rules import TRTLLM, TrtllmRules, of_trtllm
from .engines import TRTLLM_BLOCK, TRTLLM_SHARE
from .keys import Keys, host_of, listed, told, version_doubts, version_of
from .settings import EngineSettings
from .upkeep import upkeep_of

LISTED, OF_CACHE, OF_SCHEDULER = (
    listed(f"tensorrt-llm{part}") for part in ("", " kv_cache_config", " scheduler_config")
)
ONLY, ONLY_CACHE, ONLY_SCHEDULER = LISTED.only, OF_CACHE.only, OF_SCHEDULER.only

POLICIES = ("GUARANTEED_NO_EVICT", "MAX_UTILIZATION")
KEYS = (*LISTED.keys, *ONLY, *ONLY_CACHE, *ONLY_SCHEDULER)
"""Every key that is read, of the file and of its parts."""


def trtllm_settings(keys: Keys) -> EngineSettings:
    """What a file of TensorRT-LLM's says.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    doubts, upkeep = version_doubts(keys, "trtllm", "1.2"), upkeep_of("trtllm", version_of(keys, "1.2"))
    cache, scheduler = keys.part("kv_cache_config"), keys.part("scheduler_config")
    even, hardware, host = map(keys.part, ("attention_dp_config", "hardware", "host"))
    keys.refuse_unsimulated(ONLY)
    cache.refuse_unsimulated(ONLY_CACHE)
    scheduler.refuse_unsimulated(ONLY_SCHEDULER)
    tp, apart = keys.count("tensor_parallel_size", 1), keys.flag("enable_attention_dp", False)
    block = cache.count("tokens_per_block", TRTLLM_BLOCK)
    policy = _policy(keys, cache, scheduler, even, block)
    total = cache.count("max_tokens", None)
    parts = (keys, cache, scheduler, even, hardware, host)
    return EngineSettings(
        policy=replace(policy, host=host_of(host, upkeep.on(policy.host, 1 if apart else tp))),
        cache=CacheSettings(block, None if total is None else max(-(-total // block), 1)),
        tp=1 if apart else tp,
        dp=tp if apart else 1,
        pp=keys.count("pipeline_parallel_size", 1),
        ep=keys.count("moe_expert_parallel_size", 1),
        **told(keys, "max_seq_len", cache, "dtype"),
        left_share=cache.share("free_gpu_memory_fraction", TRTLLM_SHARE),
        engine="tensorrt-llm",
        exchange="gather",
        doubts=(*doubts, *(d for part in parts for d in part.doubts(KEYS, LISTED.harmless))),
    )


def _policy(keys: Keys, cache: Keys, scheduler: Keys, even: Keys, block: int) -> Policy:
    """The batching that the file asks for."""
    defaults = TrtllmRules()
    tokens = keys.count("max_num_tokens", defaults.max_num_tokens)
    chunked = keys.flag("enable_chunked_prefill", defaults.chunked)
    if chunked and tokens < block:
        raise SpecError(
            keys.path,
            f"max_num_tokens: must be at least tokens_per_block ({block}) with enable_chunked_prefill, not {tokens}",
        )
    ratio = keys.real("batch_wait_max_tokens_ratio", 0.0, 0.0, 1.0)
    rules = TrtllmRules(
        max_num_tokens=tokens, chunked=chunked, reuse=cache.flag("enable_block_reuse", defaults.reuse),
        evicts=scheduler.one_of("capacity_scheduler_policy", POLICIES[0], POLICIES) == POLICIES[1],
        overlap=not keys.flag("disable_overlap_scheduler", False),
        wait_steps=keys.count("batch_wait_timeout_iters", 0, least=0), wait_tokens=int(ratio * tokens),
        even=even.flag("enable_balance", False), even_steps=even.count("timeout_iters", defaults.even_steps),
        even_batches=even.count("batching_wait_iters", defaults.even_batches, least=0),
    )  # fmt: skip
    return of_trtllm(rules, keys.count("max_batch_size", TRTLLM.max_sequences, MAX_SEQUENCES))
