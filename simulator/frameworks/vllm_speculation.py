"""`speculative_config` of vLLM: who drafts how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...workloads.errors import SpecError, nearest
from ...workloads.speculators.asked import MOST_DRAFTS, DraftChoice
from .keys import Keys

METHODS: Mapping[str, str] = {
    "mtp": "mtp", "deepseek_mtp": "mtp", "glm4_moe_mtp": "mtp", "qwen3_next_mtp": "mtp",
    "eagle": "eagle", "ngram": "ngram", "draft_model": "draft",
}  # fmt: skip
"""vLLM's method names and their names in `workloads.speculators` (vllm/config/speculative.py)."""
ONLY: Mapping[str, tuple[Any, str]] = {
    "disable_by_batch_size": (None, "drafts do not stop where many sequences run"),
    "speculative_token_tree": (None, "a chain is drafted"),
    "parallel_drafting": (False, "drafts come one after another"),
}
"""Keys that bear on time and of which only one value is simulated, and why."""
DRAFTS = "speculative_config"
KEYS = ("method", "model", "num_speculative_tokens", "draft_tensor_parallel_size", *ONLY)


def speculation_of(keys: Keys, tp: int) -> DraftChoice | None:
    """What a file asks for; None without `speculative_config`.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    section = keys.part(DRAFTS)
    if keys.values.get(DRAFTS) is None:
        return None
    section.refuse_unsimulated(ONLY)
    method, model = section.text("method", ""), section.text("model", "")
    if not method and model:  # vLLM's rule: whatever is named is a draft model, if it is not "ngram"
        method = "ngram" if model == "ngram" else "draft_model"
    if method not in METHODS:
        known = nearest(method, METHODS) if method else f"; known: {', '.join(METHODS)}"
        what = f"unknown method {method!r}" if method else "is missing, as is model"
        raise SpecError(keys.path, f"speculative_config.method: {what}{known}")
    if section.values.get("num_speculative_tokens") is None:
        raise SpecError(keys.path, "speculative_config.num_speculative_tokens: is missing; a whole number is required")
    tokens = section.count("num_speculative_tokens", 1, MOST_DRAFTS)
    if METHODS[method] == "draft" and not model:
        raise SpecError(keys.path, "speculative_config.model: is missing; draft_model needs one")
    split = section.count("draft_tensor_parallel_size", tp)
    if split != tp:
        raise SpecError(
            keys.path, "speculative_config.draft_tensor_parallel_size: must be "
            f"tensor_parallel_size ({tp}), as the model is split, not {split}",
        )  # fmt: skip
    return DraftChoice(METHODS[method], model if METHODS[method] == "draft" else "", tokens)


def drafts_written(asked: DraftChoice) -> dict[str, Any]:
    """The same key of drafts that need no other checkpoint; none of those that do."""
    if asked.method not in ("mtp", "ngram") or not asked.tokens:
        return {}
    return {DRAFTS: {"method": asked.method, "num_speculative_tokens": asked.tokens}}
