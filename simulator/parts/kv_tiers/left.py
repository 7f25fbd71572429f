"""What KV cache tiers left of a run."""

from __future__ import annotations

from ...serving.record import Run
from ...serving.served import Served
from .run import TiersRun


def tiers_left(run: Run, served: Served, *_: object) -> TiersRun | None:
    """What tiers did in a run."""
    belows = [(e.below, e.parts["kv_tiers"], e.kv.block) for e in served.engines if e.below is not None]
    return TiersRun.of(belows, run.cached_tokens, run.prompt_tokens + run.cached_tokens) if belows else None
