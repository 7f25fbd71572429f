"""vLLM's keys of expert parallelism: how tokens are exchanged, where experts lie, dual batch overlap.

From vllm/config/parallel.py (`ParallelConfig`, `EPLBConfig`), vllm/v1/worker/ubatch_utils.py and
vllm/platforms/cuda.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...workloads.errors import SpecError
from ..parts.overlap.gates import MOST_TOKENS
from .keys import Keys, listed
from .sharing import PLACED_ONCE, Sharing, named, needs, not_simulated, refuse_old, refuse_unknown, without_effect

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

EPLB, _, ONLY_EPLB = listed("vllm eplb_config")
"""Keys of `eplb_config`."""
OLD = {
    "num_redundant_experts": "eplb_config.num_redundant_experts",
    "eplb_window_size": "eplb_config.window_size",
    "eplb_step_interval": "eplb_config.step_interval",
    "eplb_log_balancedness": "eplb_config.log_balancedness",
    "microbatch_size": "ubatch_size",
}
"""Keys of earlier versions."""
LISTED = listed("vllm sharing")
ONLY, HARMLESS = LISTED.only, LISTED.harmless
KEYS = (*LISTED.keys, *ONLY)
THRESHOLDS = {"dbo_decode_token_threshold": 32, "dbo_prefill_token_threshold": 512}


def sharing_of(keys: Keys, tp: int, dp: int) -> tuple[str, Sharing, list[str]]:
    """Return how ranks share experts: exchange, options and warnings.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    refuse_old(keys, OLD)
    keys.refuse_unsimulated(ONLY)
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
    """Whether the exchange lets vLLM capture graphs."""
    return dp == 1 or keys.values.get("all2all_backend") != NO_GRAPHS


def _placed(keys: Keys, spread: bool) -> tuple[str | None, int | None, list[str]]:
    """Placement and copies of experts; None, None where the file asks for none."""
    section = keys.part("eplb_config")
    refuse_unknown(section, EPLB)
    section.refuse_unsimulated(ONLY_EPLB)
    copies = section.count("num_redundant_experts", 0, least=0)
    for name in ("window_size", "step_interval"):
        section.count(name, 1)
    section.flag("use_async", False)
    strategy = keys.one_of("expert_placement_strategy", "linear", ("linear", "round_robin"))
    if not keys.flag("enable_eplb", False):
        if copies:
            raise needs(section, "num_redundant_experts", "enable_eplb")
        doubts = without_effect(section, [k for k in EPLB if k in section.values], "without enable_eplb")
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
