"""Settings of vLLM, as an ``engine.json`` gives them.

How ranks share experts: from vllm/config/parallel.py (`ParallelConfig`, `EPLBConfig`), vllm/v1/worker/ubatch_utils.py
and vllm/platforms/cuda.py.

KV blocks of vLLM in host memory: `kv_offloading_size`, or the equivalent connector.

`speculative_config` of vLLM: who drafts how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...workloads.errors import SpecError, nearest
from ...workloads.speculators import MOST_DRAFTS, DraftChoice
from ..engine.kv import BLOCK_TOKENS, CacheSettings
from ..engine.policies import POLICIES, Policy, limited
from ..limits import MAX_SEQUENCES
from ..parts.kv_tiers.settings import KvTier, TierSettings
from ..parts.overlap.gates import MOST_TOKENS
from .engines import upkeep_of
from .keys import Keys, host_of, listed, told, version_doubts, version_of
from .settings import EngineSettings
from .sharing import PLACED_ONCE, Sharing, named, needs, not_simulated, refuse_old, refuse_unknown, without_effect
from .vllm_rules import BATCHED, BATCHED_TOKENS, DEFAULT_VERSION, MODES, VllmLimits, rules_of

NULL_BLOCKS = 1
"""vLLM keeps one block of its pool as a placeholder (BlockPool.null_block)."""


def vllm_settings(keys: Keys) -> EngineSettings:
    """Return the engine settings of a vLLM file.

    Keys without effect on time are ignored; keys with an effect that is not simulated are refused.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    version = version_of(keys, DEFAULT_VERSION)
    rules = rules_of(version)
    keys.refuse_unsimulated("vllm")
    cache = keys.part("kv_cache", "gpu_memory_utilization", "block_size", "enable_prefix_caching", "num_gpu_blocks")
    hardware, host = map(keys.part, ("hardware", "host"))
    tp = keys.count("tensor_parallel_size", 1)
    dp = keys.count("data_parallel_size", 1)
    blocks = cache.count("num_gpu_blocks", None) or keys.count("num_gpu_blocks_override", None)
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
            *(d for part in (keys, cache, hardware, host, keys.part(DRAFTS)) for d in part.doubts("vllm")),
        ),
    )


def _limits(keys: Keys, cache: Keys, version: tuple[int, int], dp: int) -> VllmLimits:
    """Return the limits that the file sets, and the defaults that follow from its other keys."""
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
    """Return the policy `base` with the batching settings of the file."""
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


CONNECTOR = "OffloadingConnector"
"""What `kv_offloading_size` sets up with backend native (VllmConfig._post_init_kv_transfer_config in
vllm/config/vllm.py): blocks are copied as they are computed, and loaded whenever they are found."""
OTHERS = "for other tiers use --kv-tiers; for KV transfers use --prefill and --decode"


def tiers_of_vllm(keys: Keys, cache: Keys) -> TierSettings | None:
    """Return the host memory for KV blocks in the file; None without it. The device's host link is used.

    Raises
    ------
    SpecError
        Another backend or connector, or a size that is none.
    """
    section = cache if cache.values.get("kv_offloading_size") is not None else keys
    size = section.real("kv_offloading_size", 0.0, 0.0, 1e9) * 2.0**30
    backend = section.text("kv_offloading_backend", "native")
    if size and backend != "native":
        raise SpecError(keys.path, f"{section.prefix}kv_offloading_backend: must be native, not {backend!r}: {OTHERS}")
    moved = keys.part("kv_transfer_config")
    if moved.values:
        connector = moved.text("kv_connector", "")
        if connector != CONNECTOR:
            raise SpecError(
                keys.path, f"kv_transfer_config.kv_connector: must be {CONNECTOR}, not {connector!r}: {OTHERS}"
            )
        if size:
            raise SpecError(
                keys.path,
                "kv_transfer_config: cannot be combined with kv_offloading_size, which sets the same; remove one",
            )
        extra = moved.part("kv_connector_extra_config")
        extra.refuse_unsimulated("vllm", "kv_connector_extra_config")
        size = float(extra.count("cpu_bytes_to_use", 0, 1 << 60, 0))
        if not size:
            where = "kv_transfer_config.kv_connector_extra_config.cpu_bytes_to_use"
            raise SpecError(keys.path, f"{where}: is missing; set it to the bytes of host memory for KV blocks")
    return TierSettings((KvTier("host", size, 0.0, 0.0, "file"),)) if size else None


METHODS: Mapping[str, str] = {
    "mtp": "mtp", "deepseek_mtp": "mtp", "glm4_moe_mtp": "mtp", "qwen3_next_mtp": "mtp",
    "eagle": "eagle", "ngram": "ngram", "draft_model": "draft",
}  # fmt: skip
"""vLLM's method names and their names in `workloads.speculators` (vllm/config/speculative.py)."""
DRAFTS = "speculative_config"


def speculation_of(keys: Keys, tp: int) -> DraftChoice | None:
    """Return the speculative decoding that the file requests; None without `speculative_config`.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    section = keys.part(DRAFTS)
    if keys.values.get(DRAFTS) is None:
        return None
    section.refuse_unsimulated("vllm", DRAFTS)
    method, model = section.text("method", ""), section.text("model", "")
    if not method and model:  # vLLM's rule: whatever is named is a draft model, if it is not "ngram"
        method = "ngram" if model == "ngram" else "draft_model"
    if method not in METHODS:
        known = nearest(method, METHODS) if method else f"; known: {', '.join(METHODS)}"
        what = f"unknown method {method!r}" if method else "is missing (model is missing too)"
        raise SpecError(keys.path, f"speculative_config.method: {what}{known}")
    if section.values.get("num_speculative_tokens") is None:
        raise SpecError(
            keys.path, "speculative_config.num_speculative_tokens: is missing; set the number of draft tokens per step"
        )
    tokens = section.count("num_speculative_tokens", 1, MOST_DRAFTS)
    if METHODS[method] == "draft" and not model:
        raise SpecError(
            keys.path, "speculative_config.model: is missing; method draft_model needs the name of a draft model"
        )
    split = section.count("draft_tensor_parallel_size", tp)
    if split != tp:
        raise SpecError(
            keys.path, "speculative_config.draft_tensor_parallel_size: must be "
            f"equal to tensor_parallel_size ({tp}), not {split}",
        )  # fmt: skip
    return DraftChoice(METHODS[method], model if METHODS[method] == "draft" else "", tokens)


def drafts_written(asked: DraftChoice) -> dict[str, Any]:
    """Return vLLM's key of drafts that need no other checkpoint; nothing for those that do."""
    if asked.method not in ("mtp", "ngram") or not asked.tokens:
        return {}
    return {DRAFTS: {"method": asked.method, "num_speculative_tokens": asked.tokens}}


GATHERS = ("allgather_reducescatter", "naive")
"""Values of `all2all_backend` that are not an all-to-all; the first is the default."""
EXCHANGES: Mapping[str, str | None] = {
    "deepep_high_throughput": "deepep-normal", "deepep_low_latency": "deepep-low-latency",
    "pplx": None, "flashinfer_all2allv": None, "flashinfer_nvlink_two_sided": None,
    "flashinfer_nvlink_one_sided": None, "mori": None, "nixl_ep": None,
}  # fmt: skip
"""Those that are, and their algorithm here; None: all messages at once, directly."""
NO_GRAPHS = "deepep_high_throughput"
"""With this one vLLM captures no graphs (`check_and_update_config` in vllm/platforms/cuda.py)."""

OLD = {
    "num_redundant_experts": "eplb_config.num_redundant_experts",
    "eplb_window_size": "eplb_config.window_size",
    "eplb_step_interval": "eplb_config.step_interval",
    "eplb_log_balancedness": "eplb_config.log_balancedness",
    "microbatch_size": "ubatch_size",
}
"""Keys of earlier versions."""
THRESHOLDS = {"dbo_decode_token_threshold": 32, "dbo_prefill_token_threshold": 512}


def sharing_of(keys: Keys, tp: int, dp: int) -> tuple[str, Sharing, list[str]]:
    """Return how ranks share experts: exchange, options and warnings.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    refuse_old(keys, OLD)
    spread = keys.flag("enable_expert_parallel", False) and tp * dp > 1
    backend = keys.one_of("all2all_backend", GATHERS[0], (*GATHERS, *EXCHANGES))
    doubts = list[str]()
    sends = backend in EXCHANGES
    if sends and not (spread and dp > 1):
        doubts += without_effect(
            keys, ["all2all_backend"], "without enable_expert_parallel" if dp > 1 else "with data_parallel_size 1"
        )
        sends = False
    placement, copies, why = _placed(keys, spread)
    overlap, also = _halves(keys, backend, spread, dp)
    said = {
        "--all-to-all": "all2all_backend", "--overlap": "enable_dbo",
        "--expert-placement": "enable_eplb" if copies is not None else "expert_placement_strategy",
        "--redundant-experts": "eplb_config.num_redundant_experts",
    }  # fmt: skip
    sharing = Sharing(EXCHANGES[backend] if sends else None, overlap, placement, copies, keys=named(keys.path, said))
    return "all_to_all" if sends else "gather", sharing, [*doubts, *why, *also]


def captures(keys: Keys, dp: int) -> bool:
    """Return whether vLLM captures CUDA graphs with this exchange."""
    return dp == 1 or keys.values.get("all2all_backend") != NO_GRAPHS


def _placed(keys: Keys, spread: bool) -> tuple[str | None, int | None, list[str]]:
    """Return placement and redundant experts; (None, None) if the file does not set them."""
    section = keys.part("eplb_config")
    known = listed("vllm").sections[section.prefix.rstrip(".")]
    refuse_unknown(section, known)
    section.refuse_unsimulated("vllm", "eplb_config")
    copies = section.count("num_redundant_experts", 0, least=0)
    for name in ("window_size", "step_interval"):
        section.count(name, 1)
    section.flag("use_async", False)
    strategy = keys.one_of("expert_placement_strategy", "linear", ("linear", "round_robin"))
    if not keys.flag("enable_eplb", False):
        if copies:
            raise needs(section, "num_redundant_experts", "enable_eplb")
        doubts = without_effect(section, [key for key in known if key in section.values], "without enable_eplb")
        if strategy == "round_robin" and not spread:
            doubts += without_effect(keys, ["expert_placement_strategy"], "without enable_expert_parallel")
            strategy = "linear"
        return ("round-robin" if strategy == "round_robin" else None), None, doubts
    if not keys.flag("enable_expert_parallel", False):
        raise needs(keys, "enable_eplb", "enable_expert_parallel")
    if not spread:
        raise SpecError(keys.path, "enable_eplb: needs tensor_parallel_size or data_parallel_size above 1")
    doubts = not_simulated(section, {"window_size": PLACED_ONCE, "step_interval": PLACED_ONCE})
    if strategy == "round_robin":
        doubts += without_effect(keys, ["expert_placement_strategy"], "enable_eplb places experts")
    return "eplb", copies, doubts


def _halves(keys: Keys, backend: str, spread: bool, dp: int) -> tuple[str | None, list[str]]:
    """Dual batch overlap: return a value of ``--overlap`` and warnings."""
    least = [keys.count(name, default, MOST_TOKENS, least=0) for name, default in THRESHOLDS.items()]
    if not keys.flag("enable_dbo", False):
        return None, without_effect(keys, THRESHOLDS, "without enable_dbo")
    if dp == 1:  # `coordinate_batch_across_dp` in vllm/v1/worker/dp_utils.py
        return None, without_effect(keys, ["enable_dbo", *THRESHOLDS], "with data_parallel_size 1")
    if not spread:
        raise needs(keys, "enable_dbo", "enable_expert_parallel")
    if not backend.startswith("deepep"):
        raise needs(keys, "enable_dbo", "all2all_backend deepep_low_latency or deepep_high_throughput")
    return f"two-batch:{least[0]},{least[1]}", []
