"""What KV cache tiers left of a run."""

from __future__ import annotations

from ...serving.record import Run
from ...serving.served import Served
from .run import Below, TiersRun


def tiers_left(run: Run, served: Served, *_: object) -> TiersRun | None:
    """What tiers did in a run."""
    by_engine = [(e.does.get("kv-tiers"), e) for e in served.engines]
    belows = [(below, e.parts["kv-tiers"], e.kv.block) for below, e in by_engine if isinstance(below, Below)]
    return TiersRun.of(belows, run.cached_tokens, run.prompt_tokens + run.cached_tokens) if belows else None
