"""Which inner loop an engine's steps run in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..batching.exact import advance_exact
from ..batching.loop import advance
from ..batching.pipeline import advance_pipeline
from ..batching.spec_loop import advance_several
from ..batching.tier_loop import advance_tiered

if TYPE_CHECKING:
    from .engine import Engine


def advance_engine(engine: Engine, until: float, goal: int) -> int:
    """Run compiled steps until something is to be done outside; why they stopped, see `loop.advance`."""
    what = engine.plan, engine.limits, engine.kv, engine.state, engine.books
    how = until, engine.clients is not None, goal
    if engine.exact is not None:
        return advance_exact(*what, engine.exact, *how)
    if engine.spec is not None:
        return advance_several(*what, engine.spec, *how)
    if engine.below is not None:
        return advance_tiered(*what, *how)
    if engine.pipe is None:
        return advance(*what, *how)
    return advance_pipeline(*what, engine.pipe, *how)
