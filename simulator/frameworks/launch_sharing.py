"""How ranks share experts, written in an engine's own keys; the modules that read them have the sources.

What an engine has no key for is left to options, and named by `unsaid`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..parts.overlap.gates import ALIKE, AT_LEAST, DECODING, gate_of
from .sglang_sharing import DISPATCHES, MODES
from .sharing import NOTHING, SHARING, Sharing
from .vllm_sharing import EXCHANGES

EPLB = {"eplb": "auto", "balanced": "deepseek", "balanced-by-node": "deepseek_hierarchical"}
"""Placements of SGLang's `eplb_algorithm`."""

Written = tuple[dict[str, Any], frozenset[str]]
"""Keys of a file with their values, and the options that they say."""


def _vllm(sharing: Sharing, dp: int) -> Written:
    values, said = dict[str, Any](), set[str]()
    backend = next((k for k, v in EXCHANGES.items() if v is not None and v == sharing.all_to_all), None)
    if backend is not None and dp > 1:
        values["all2all_backend"] = backend
        said.add("all_to_all")
    gate = gate_of(sharing.overlap or "")
    if backend is not None and dp > 1 and gate is not None and gate.rule == AT_LEAST:
        values |= {
            "enable_dbo": True, "dbo_decode_token_threshold": gate.decodes,
            "dbo_prefill_token_threshold": gate.prompts,
        }  # fmt: skip
        said.add("overlap")
    placed = sharing.expert_placement or ("balanced" if sharing.redundant_experts is not None else None)
    if placed in EPLB:
        values |= {"enable_eplb": True, "eplb_config": {"num_redundant_experts": sharing.redundant_experts or 0}}
        said.add("redundant_experts")
        if placed == "eplb":  # vLLM chooses between the other two by itself
            said.add("expert_placement")
    elif placed == "round-robin" and not sharing.redundant_experts:
        values["expert_placement_strategy"] = "round_robin"
        said |= {"expert_placement", "redundant_experts"}
    return values, frozenset({*said, *(["expert_dispatch"] if sharing.expert_dispatch == "any" else [])})


def _sglang(sharing: Sharing, dp: int) -> Written:
    values, said = dict[str, Any](), set[str]()
    mode = next((k for k, v in MODES.items() if v == sharing.all_to_all), None)
    sends = mode is not None and dp > 1
    if sends:
        values |= {"moe_a2a_backend": "deepep", "deepep_mode": mode}
        said.add("all_to_all")
    gate = gate_of(sharing.overlap or "")
    rule = DECODING if mode == "low_latency" else ALIKE
    if sends and gate is not None and gate.rule == rule:
        values["enable_two_batch_overlap"] = True
        said.add("overlap")
    placed = sharing.expert_placement or ("balanced" if sharing.redundant_experts is not None else None)
    if placed in EPLB:
        values |= {"enable_eplb": True, "eplb_algorithm": EPLB[placed]}
    if placed in EPLB or (placed == "wrapped" and sharing.redundant_experts):
        rule_ = next(k for k, v in DISPATCHES.items() if v == (sharing.expert_dispatch or "any"))
        values |= {"ep_num_redundant_experts": sharing.redundant_experts or 0, "ep_dispatch_algorithm": rule_}
        said |= {"expert_placement", "redundant_experts", "expert_dispatch"}
    return values, frozenset(said)


WRITERS: Mapping[str, Callable[[Sharing, int], Written]] = {"vllm": _vllm, "sglang": _sglang}
"""What writes them, by engine."""


def sharing_values(engine: str, sharing: Sharing, tp: int, dp: int, ep: int) -> dict[str, Any]:
    """Keys of an engine's file that say what `sharing` does, as far as it has any."""
    return _written(engine, sharing, tp, dp, ep)[0]


def unsaid(engine: str, sharing: Sharing, tp: int, dp: int, ep: int) -> list[str]:
    """Options of `sharing` that an engine has no key for, as they are written."""
    said = _written(engine, sharing, tp, dp, ep)[1]
    given = ((name, getattr(sharing, name)) for name in SHARING)
    return [f"--{n.replace('_', '-')} {value}" for n, value in given if value is not None and n not in said]


def _written(engine: str, sharing: Sharing, tp: int, dp: int, ep: int) -> Written:
    """Both; of a dispatch that SGLang has no word for nothing is said of copies."""
    if replace(sharing, keys=()) == NOTHING or ep == 1 or engine not in WRITERS:
        return {}, frozenset()
    if ep != tp * dp:  # tokens are sent among all devices or not at all
        dp = 1
    if engine == "sglang" and sharing.expert_dispatch == "node":
        bare = replace(sharing, expert_placement=None, redundant_experts=None, expert_dispatch=None)
        return _sglang(bare, dp)
    return WRITERS[engine](sharing, dp)
