"""Settings of SGLang, as an ``engine.json`` gives them: the names of its server's arguments.

SGLang's keys of expert parallelism: how tokens are exchanged, where experts lie, two-batch overlap.

From sglang/srt/server_args.py (`_handle_a2a_moe`, `_handle_eplb_and_dispatch`), sglang/srt/eplb
(`expert_location.py`, `expert_location_dispatch.py`, `eplb_algorithms`), sglang/srt/layers/moe/utils.py
(`DeepEPMode`) and sglang/srt/batch_overlap/two_batch_overlap.py, version 0.5.9.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...workloads.errors import SpecError
from ...workloads.speculators import MOST_DRAFTS, DraftChoice
from ..engine.kv import CacheSettings
from ..engine.policies import Policy
from ..limits import MAX_SEQUENCES
from ..parts.sglang.state import SGLANG, THRESHOLD, SglangRules
from .engines import sglang_patch, sglang_version, upkeep_of
from .keys import Keys, host_of, told, version_doubts
from .settings import EngineSettings
from .sglang_limits import STRATEGIES, SglangLimits, sglang_chunk
from .sharing import PLACED_ONCE, Sharing, named, needs, not_simulated, refuse_old, without_effect

URGENT = "enable_priority_scheduling"
PRIORITY = ("schedule_low_priority_values_first", "priority_scheduling_preemption_threshold")
"""Keys of priority scheduling."""


def sglang_settings(keys: Keys) -> EngineSettings:
    """Return the engine settings of an SGLang file.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    doubts = version_doubts(keys, "sglang", "0.5.9")
    keys.refuse_unsimulated("sglang")
    doubts += [] if keys.flag(URGENT, False) else without_effect(keys, PRIORITY, f"without {URGENT}")
    hardware, host = keys.part("hardware"), keys.part("host")
    tp, dp, pp = (_degree(keys, name) for name in ("tensor", "data", "pipeline"))
    apart = dp > 1 and keys.flag("enable_dp_attention", False)
    tp_each = max(tp // dp, 1) if apart else tp  # SGLang's counts all devices of its ranks
    ep, sends = _degree(keys, "expert"), sends_tokens(keys)
    if sends and ep != tp:  # `_handle_a2a_moe` in sglang/srt/server_args.py
        given = any(keys.values.get(k) is not None for k in ("ep_size", "expert_parallel_size"))
        doubts += [f"{keys.path}: ep_size: is tp_size ({tp}) with moe_a2a_backend: deepep"] * given
        ep = tp
    exchange, sharing, also = sharing_of(keys, tp_each, apart, ep)
    page = keys.count("page_size", 1)
    policy = _policy(keys, host, page, dp if apart else 1, pp)
    total = keys.count("max_total_tokens", None)
    return EngineSettings(
        policy=policy,
        cache=CacheSettings(page, None if total is None else max(total // page, 1)),
        tp=tp_each,
        dp=dp,
        pp=pp,
        ep=ep,
        **told(keys, "context_length", keys, "kv_cache_dtype"),
        engine="sglang",
        limits=_limits(keys),
        speculative=_speculation(keys),
        exchange=exchange,
        sharing=sharing,
        doubts=(
            *doubts, *also,
            *(d for part in (keys, hardware, host) for d in part.doubts("sglang")),
        ),
    )  # fmt: skip


ALGORITHMS = ("EAGLE", "EAGLE3", "NEXTN", "STANDALONE", "NGRAM")
"""Values of `speculative_algorithm` that are simulated."""
STEPS = 3
"""Default number of drafts per step (``auto_choose_speculative_params``, of most models since 0.5.9)."""


def sglang_drafts(asked: DraftChoice) -> dict[str, Any]:
    """Return SGLang's keys of drafts from the checkpoint's own heads; nothing for other drafts."""
    if asked.method != "mtp" or not asked.tokens:
        return {}
    return {
        "speculative_algorithm": "EAGLE", "speculative_num_steps": asked.tokens, "speculative_eagle_topk": 1,
        "speculative_num_draft_tokens": asked.tokens + 1,
    }  # fmt: skip


def _speculation(keys: Keys) -> DraftChoice | None:
    """Who drafts how much; None without `speculative_algorithm`.

    EAGLE without a draft model takes the checkpoint's own heads (multi-token prediction), as SGLang does.

    Raises
    ------
    SpecError
        An algorithm or a tree of drafts that is not simulated.
    """
    if keys.values.get("speculative_algorithm") is None:
        return None
    algorithm = keys.one_of("speculative_algorithm", ALGORITHMS[0], ALGORITHMS)
    if keys.count("speculative_eagle_topk", 1) != 1:
        raise SpecError(
            keys.path, "speculative_eagle_topk: must be 1, because only chains of draft tokens are simulated, not trees"
        )
    model = keys.text("speculative_draft_model_path", "")
    steps = keys.count("speculative_num_steps", STEPS, MOST_DRAFTS)
    drafts = keys.count("speculative_num_draft_tokens", None, MOST_DRAFTS + 1, 2)
    if algorithm == "NGRAM":
        return DraftChoice("ngram", "", steps if drafts is None else drafts - 1)
    if drafts is not None and drafts != steps + 1:
        raise SpecError(
            keys.path, f"speculative_num_draft_tokens: must be speculative_num_steps + 1 ({steps + 1}), as a chain has"
        )
    if algorithm == "STANDALONE":
        if not model:
            raise SpecError(keys.path, "speculative_draft_model_path: is missing; STANDALONE needs one")
        return DraftChoice("draft", model, steps)
    return DraftChoice("eagle" if model else "mtp", "", steps)


def _limits(keys: Keys) -> SglangLimits:
    """Return the limits of concurrent requests and memory that the file sets."""
    chunk = keys.count("chunked_prefill_size", None, least=-1)
    return SglangLimits(
        sglang_version(keys.text("version", keys.text("engine_version", ""))),
        keys.count("max_running_requests", None, MAX_SEQUENCES),
        keys.share("mem_fraction_static", 0.0) or None,
        None if chunk is None else max(chunk, 0),
        keys.count("page_size", None),
        None if keys.values.get("swa_full_tokens_ratio") is None else keys.share("swa_full_tokens_ratio", 0.8),
        keys.real("mamba_full_memory_ratio", 0.9, 1e-6, 1e6),
        keys.count("max_mamba_cache_size", None),
        keys.one_of("mamba_radix_cache_strategy", STRATEGIES[0], STRATEGIES),
        keys.count("cuda_graph_max_bs", None),
        keys.count("context_length", None),
        keys.text("attention_backend", ""),
    )


def _degree(keys: Keys, of: str) -> int:
    """Return a parallel degree from its long or its short key."""
    short = f"{'p' if of == 'pipeline' else of[0]}p_size"
    long = f"{of}_parallel_size"
    if keys.values.get(short) is not None and keys.values.get(long) is not None:
        raise SpecError(keys.path, f"{short}: cannot be combined with {long}, which sets the same; remove one")
    return keys.count(short if keys.values.get(short) is not None else long, 1)


def _priorities(keys: Keys, lpm: bool) -> dict[str, Any]:
    """Return the options of `SglangRules` for priorities of requests.

    Raises
    ------
    SpecError
        A queue policy that SGLang does not combine with it; or, without it, that requests with a priority are rejected.
    """
    low, threshold = PRIORITY
    if not keys.flag(URGENT, False):
        if keys.flag("abort_on_priority_when_disabled", False):
            raise SpecError(
                keys.path, f"abort_on_priority_when_disabled: must be false, or {URGENT} true: SGLang turns requests "
                "with a priority away, here they are served without",
            )  # fmt: skip
        return {}
    if lpm:
        raise SpecError(keys.path, f"schedule_policy: must be fcfs with {URGENT}, not lpm")
    return {
        "priority": True,
        "low_first": keys.flag(low, False),
        "threshold": keys.count(threshold, THRESHOLD, least=0),
    }


def _policy(keys: Keys, host: Keys, page: int, ranks: int, pp: int) -> Policy:
    """Return the batching policy that the file sets."""
    defaults, version = SglangRules(), keys.text("version", keys.text("engine_version", ""))
    memory = keys.part("hardware").count("device_total_memory_bytes", None, 1 << 50)
    usual = defaults.chunked_prefill_size if memory is None else sglang_chunk(sglang_version(version), memory)
    chunk = keys.count("chunked_prefill_size", usual, least=-1)
    chunk = max(chunk, 0) // ranks
    if chunk % page:
        raise SpecError(keys.path, f"chunked_prefill_size: must be pages of {page} tokens, not {chunk}")
    sequences = keys.count("max_running_requests", SGLANG.max_sequences * ranks, MAX_SEQUENCES)
    sequences = max(sequences // ranks, 1)
    mixed = keys.flag("enable_mixed_chunk", False) and chunk > 0
    if mixed and chunk <= sequences:
        raise SpecError(
            keys.path, f"chunked_prefill_size: must be above max_running_requests ({sequences}) "
            f"with enable_mixed_chunk, not {chunk}",
        )  # fmt: skip
    care = keys.real("schedule_conservativeness", defaults.conservativeness, 0.0, 1e6)
    overlap = not keys.flag("disable_overlap_schedule", False) and pp == 1
    lpm = keys.one_of("schedule_policy", "fcfs", ("fcfs", "lpm")) == "lpm"
    urgent = _priorities(keys, lpm)
    captured = not keys.flag("disable_cuda_graph", False) and captures(keys)
    return replace(
        SGLANG,
        token_budget=chunk or keys.count("max_prefill_tokens", defaults.max_prefill_tokens),
        max_sequences=sequences,
        ahead=overlap,
        poll_steps=keys.count("scheduler_recv_interval", 1),
        host=host_of(host, upkeep_of("sglang", (0, 5)).on(SGLANG.host, 1)),
        eager=not captured,
        rules=SglangRules(
            max_prefill_tokens=keys.count("max_prefill_tokens", defaults.max_prefill_tokens),
            chunked_prefill_size=chunk,
            mixed=mixed,
            lpm=lpm,
            radix=not keys.flag("disable_radix_cache", False),
            overlap=overlap,
            conservativeness=care * (0.3 if ranks > 1 else 1.0),
            patch=sglang_patch(version),
            **urgent,
        ),
        order="priority" if urgent else "",
    )


MODES = {"auto": "deepep-auto", "normal": "deepep-normal", "low_latency": "deepep-low-latency"}
"""Values of `deepep_mode` and the exchange of each; the first is the default."""
PLACEMENTS = {
    "auto": "eplb", "deepseek": "balanced", "deepseek_vec": "balanced",
    "deepseek_hierarchical": "balanced-by-node", "deepseek_vec_hierarchical": "balanced-by-node",
}  # fmt: skip
"""Values of `eplb_algorithm` and the placement of each; the first is the default."""
DISPATCHES = {"static": "local", "dynamic": "any"}
"""Dispatch rule for each value of `ep_dispatch_algorithm`."""
EVEN = 0.48
"""Least share of the smaller half's tokens above which halves count as even; SGLang's default."""
DIRECT = ("deepep_v2", "flashinfer", "megamoe", "mooncake", "mori", "nixl", "pplx")
"""Values of `moe_a2a_backend` besides none and deepep (0.5.23); all are simulated as one direct exchange of messages."""
OLD = {"enable_deepep_moe": "moe_a2a_backend: deepep", "enable_ep_moe": "ep_size"}
"""Keys of earlier versions, with their present names."""
REBALANCING = (
    "eplb_rebalance_num_iterations", "eplb_rebalance_layers_per_chunk",
    "eplb_min_rebalancing_utilization_threshold",
)  # fmt: skip


def sharing_of(keys: Keys, tp: int, apart: bool, ep: int) -> tuple[str, Sharing, list[str]]:
    """Return how ranks share experts: exchange, options and warnings.

    Parameters
    ----------
    tp : int
        Devices of a rank's attention.
    apart : bool
        Whether attention is data-parallel.
    ep : int
        Expert-parallel groups.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    refuse_old(keys, OLD)
    sends = sends_tokens(keys)
    mode = keys.one_of("deepep_mode", "auto", tuple(MODES))
    option_names, deepep = ["deepep_mode", "deepep_config"], _backend(keys) == "deepep"
    doubts = [] if deepep else without_effect(keys, option_names, "without moe_a2a_backend: deepep")
    if sends:
        doubts += not_simulated(keys, {"deepep_config": "the number of SMs for exchanges is not simulated"})
        if not apart:
            why = "enable_dp_attention and dp_size above 1, because only attention of data-parallel ranks is simulated with it"
            raise needs(keys, "moe_a2a_backend", why)
    if keys.count("moe_dense_tp_size", 1, 1) != tp and keys.values.get("moe_dense_tp_size"):
        raise SpecError(
            keys.path, f"moe_dense_tp_size: dense layers are split as attention is, over {tp} devices; "
            "remove it, or let dp_size be tp_size",
        )  # fmt: skip
    placement, copies, rule, why_placed = _placed(keys, sends, ep)
    said = {
        "--all-to-all": "deepep_mode", "--overlap": "enable_two_batch_overlap",
        "--redundant-experts": "ep_num_redundant_experts", "--expert-placement": "enable_eplb",
        "--expert-dispatch": "ep_dispatch_algorithm",
    }  # fmt: skip
    if not keys.flag("enable_eplb", False):
        said["--expert-placement"] = "init_expert_location"
    overlap, also = _halves(keys, sends, mode)
    sharing = Sharing(MODES[mode] if deepep else None, overlap, placement, copies, rule, keys=named(keys.path, said))
    return "all_to_all" if sends else "gather", sharing, [*doubts, *why_placed, *also]


def sends_tokens(keys: Keys) -> bool:
    """Return whether ranks send tokens to their experts instead of gathering all tokens."""
    return _backend(keys) != "none"


def _backend(keys: Keys) -> str:
    return keys.one_of("moe_a2a_backend", "none", ("none", "deepep", *DIRECT))


def captures(keys: Keys) -> bool:
    """Return whether SGLang captures CUDA graphs with this exchange; DeepEP's normal kernels prevent it."""
    return not (_backend(keys) == "deepep" and keys.values.get("deepep_mode") == "normal")


def _placed(keys: Keys, sends: bool, ep: int) -> tuple[str | None, int | None, str | None, list[str]]:
    """Return placement, redundant experts and dispatch of experts; None if the file does not set them."""
    copies = keys.count("ep_num_redundant_experts", 0, least=0)
    location = keys.text("init_expert_location", "trivial")
    balances = keys.flag("enable_eplb", False)
    policy = PLACEMENTS[keys.one_of("eplb_algorithm", "auto", tuple(PLACEMENTS))]
    asked = keys.values.get("ep_dispatch_algorithm")
    if asked is not None and asked != "fake":
        keys.one_of("ep_dispatch_algorithm", "static", tuple(DISPATCHES))
    elif asked is not None:
        raise SpecError(keys.path, "ep_dispatch_algorithm: fake chooses experts at random; say --routing uniform")
    if balances and ep == 1:
        raise needs(keys, "enable_eplb", "ep_size above 1")
    doubts = list[str]()
    if balances:
        doubts += not_simulated(keys, dict.fromkeys(REBALANCING, PLACED_ONCE))
    else:
        doubts += without_effect(keys, REBALANCING, "without enable_eplb")
    if location != "trivial":
        text = "experts are placed by the loads of --routing; the loads in the file are ignored"
        doubts += not_simulated(keys, {"init_expert_location": text})
    elif not balances:
        text = "without enable_eplb or init_expert_location"
        doubts += without_effect(keys, ["eplb_algorithm"], text)
        if not copies:
            return (
                None,
                None,
                None,
                doubts + without_effect(keys, ["ep_dispatch_algorithm"], "without copies of experts"),
            )
        if asked is None:
            raise needs(
                keys, "ep_num_redundant_experts", "ep_dispatch_algorithm, enable_eplb or "
                "init_expert_location: without them SGLang sends no token to a copy",
            )  # fmt: skip
        policy = "wrapped"
    rule = DISPATCHES[asked or "static"] if sends else "any"
    if not sends and asked == "static":
        doubts += not_simulated(keys, {"ep_dispatch_algorithm": "copies share gathered tokens evenly here"})
    return policy, copies, rule, doubts


def _halves(keys: Keys, sends: bool, mode: str) -> tuple[str | None, list[str]]:
    """Two-batch overlap: return a value of ``--overlap`` and warnings."""
    key = "tbo_token_distribution_threshold"
    share = keys.real(key, EVEN, 0.0, 0.5)
    if not keys.flag("enable_two_batch_overlap", False):
        return None, without_effect(keys, [key], "without enable_two_batch_overlap")
    if not sends:
        raise needs(keys, "enable_two_batch_overlap", "moe_a2a_backend: deepep")
    if keys.flag("enable_mixed_chunk", False):
        raise SpecError(keys.path, "enable_two_batch_overlap: cannot be combined with enable_mixed_chunk")
    if share < EVEN:
        raise SpecError(keys.path, f"{key}: must be in [{EVEN:g}, 0.5]: halves have equal tokens here")
    return f"two-batch:{'decodes' if mode == 'low_latency' else 'alike'}", []
