"""What the parts of an engine bring at its hook points."""

from __future__ import annotations

from typing import Any

from ..batching import exact, own_stages, plans, uneven, waiting_on
from ..batching.hooks import Brought
from ..parts.classes import preempt as lanes_preempt
from ..parts.classes import queue as lanes_queue
from ..parts.drafts import hooks as drafts_plan
from ..parts.drafts import verify as drafts_verify
from ..parts.expert_cache import fetch
from ..parts.kv_tiers import hooks as tier_hooks
from ..parts.kv_tiers import loads as tier_loads
from ..parts.kv_tiers import store as tier_store
from ..parts.pipeline import batches as pipeline
from ..parts.sglang import steps as sglang_steps
from ..parts.tensorrt_llm import steps as trtllm_steps

HOOKS: dict[str, tuple[Any, ...]] = {
    "drafts": (drafts_plan.HOOKS, drafts_verify.HOOKS),
    "kv_tiers": (tier_hooks.HOOKS, tier_loads.HOOKS, tier_store.HOOKS),
    "classes": (lanes_queue.HOOKS, lanes_preempt.HOOKS),
    "pipeline": (pipeline.HOOKS,),
    "sglang": (sglang_steps.HOOKS,),
    "tensorrt-llm": (trtllm_steps.HOOKS,),
    "plans": (plans.HOOKS,),
}
"""What parts of an engine bring, by name."""


def brought_by(engine: Any) -> list[Brought]:
    """What the parts of a `serving.engine.Engine` bring."""
    brought: list[Brought] = []
    for name, state in engine.parts.items():
        if name == "scheduler" and engine.policy.rules is not None:
            brought += [(state, own) for own in HOOKS[engine.policy.rules.part]]
        elif name == "exact":
            brought.append((state, exact.HOOKS if engine.plan.stages == 1 else own_stages.HOOKS))
        else:
            brought += [(state, own) for own in HOOKS[name]]
    if engine.policy.part is not None:
        asked = engine.policy.part
        brought.append((waiting_on.Asking(asked.compiled, asked.own), waiting_on.HOOKS))
    if engine.plan.uneven is not None:
        brought.append((engine.model, uneven.HOOKS))
    if engine.books.shelf is not None:
        brought.append((engine.books.shelf, fetch.HOOKS))
    return brought
