"""SGLang's keys of expert parallelism: how tokens are exchanged, where experts lie, two-batch overlap.

From sglang/srt/server_args.py (`_handle_a2a_moe`, `_handle_eplb_and_dispatch`), sglang/srt/eplb
(`expert_location.py`, `expert_location_dispatch.py`, `eplb_algorithms`), sglang/srt/layers/moe/utils.py
(`DeepEPMode`) and sglang/srt/batch_overlap/two_batch_overlap.py, version 0.5.9.
"""

from __future__ import annotations

from ...workloads.errors import SpecError
from .keys import Keys, listed
from .sharing import PLACED_ONCE, Sharing, named, needs, not_simulated, refuse_old, without_effect

MODES = {"auto": "deepep-auto", "normal": "deepep-normal", "low_latency": "deepep-low-latency"}
"""Values of `deepep_mode` and the exchange of each; the first is the default."""
ALGORITHMS = {
    "auto": "eplb", "deepseek": "balanced", "deepseek_vec": "balanced",
    "deepseek_hierarchical": "balanced-by-node", "deepseek_vec_hierarchical": "balanced-by-node",
}  # fmt: skip
"""Values of `eplb_algorithm` and the placement of each; the first is the default."""
DISPATCHES = {"static": "local", "dynamic": "any"}
"""Values of `ep_dispatch_algorithm` and the rule of each."""
EVEN = 0.48
"""Least share of the smaller half's tokens above which halves count as even; SGLang's default."""
DIRECT = ("deepep_v2", "flashinfer", "megamoe", "mooncake", "mori", "nixl", "pplx")
"""Other values of `moe_a2a_backend` than none and deepep (0.5.23): here all messages at once, directly."""
OLD = {"enable_deepep_moe": "moe_a2a_backend: deepep", "enable_ep_moe": "ep_size"}
"""Keys of earlier versions."""
LISTED = listed("sglang sharing")
ONLY, HARMLESS = LISTED.only, LISTED.harmless
REBALANCING = (
    "eplb_rebalance_num_iterations", "eplb_rebalance_layers_per_chunk",
    "eplb_min_rebalancing_utilization_threshold",
)  # fmt: skip
KEYS = (*LISTED.keys, *ONLY)


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
    keys.refuse_unsimulated(ONLY)
    sends = sends_tokens(keys)
    mode = keys.one_of("deepep_mode", "auto", tuple(MODES))
    option_names, deepep = ["deepep_mode", "deepep_config"], _backend(keys) == "deepep"
    doubts = [] if deepep else without_effect(keys, option_names, "without moe_a2a_backend: deepep")
    if sends:
        doubts += not_simulated(keys, {"deepep_config": "how many SMs exchange is not modelled"})
        if not apart:
            why = "enable_dp_attention and dp_size above 1: before it attention runs rank by rank here"
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
    """Whether tokens are sent to their experts, and not gathered."""
    return _backend(keys) != "none"


def _backend(keys: Keys) -> str:
    return keys.one_of("moe_a2a_backend", "none", ("none", "deepep", *DIRECT))


def captures(keys: Keys) -> bool:
    """Whether the exchange lets SGLang capture graphs: DeepEP's normal kernels do not."""
    return not (_backend(keys) == "deepep" and keys.values.get("deepep_mode") == "normal")


def _placed(keys: Keys, sends: bool, ep: int) -> tuple[str | None, int | None, str | None, list[str]]:
    """Placement, copies and dispatch of experts; None where the file asks for none."""
    copies = keys.count("ep_num_redundant_experts", 0, least=0)
    location = keys.text("init_expert_location", "trivial")
    balances = keys.flag("enable_eplb", False)
    policy = ALGORITHMS[keys.one_of("eplb_algorithm", "auto", tuple(ALGORITHMS))]
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
