"""Which inner loop an engine's steps run in."""

from __future__ import annotations

from typing import Any

from ..batching.exact import advance_exact
from ..batching.loop import advance
from ..batching.pipeline import advance_pipeline


def advance_engine(engine: Any, until: float, goal: int) -> int:
    """Run compiled steps of an `engine.Engine` until something is to be done outside; why they stopped, see `loop.advance`."""
    what = engine.plan, engine.limits, engine.kv, engine.state, engine.books
    how = until, engine.clients is not None, goal
    if engine.exact is not None:
        return advance_exact(*what, engine.exact, *how)
    if engine.pipe is None:
        return advance(*what, *how)
    return advance_pipeline(*what, engine.pipe, *how)
