"""Which inner loop an engine's steps run in."""

from __future__ import annotations

from typing import Protocol

from ..batching.exact import advance_exact
from ..batching.exact_state import Exact
from ..batching.kv import KvRules
from ..batching.loop import advance
from ..batching.pipeline import Pipe, advance_pipeline
from ..batching.policies import Limits
from ..batching.state import State
from ..step.books import Books
from ..step.lowering import Plan


class Steps(Protocol):
    """What an engine's steps run on; see `engine.Engine`."""

    plan: Plan
    limits: Limits
    kv: KvRules
    state: State
    books: Books
    clients: int | None
    exact: Exact | None
    pipe: Pipe | None


def advance_engine(engine: Steps, until: float, goal: int) -> int:
    """Run compiled steps until something is to be done outside; why they stopped, see `loop.advance`."""
    what = engine.plan, engine.limits, engine.kv, engine.state, engine.books
    how = until, engine.clients is not None, goal
    if engine.exact is not None:
        return advance_exact(*what, engine.exact, *how)
    if engine.pipe is None:
        return advance(*what, *how)
    return advance_pipeline(*what, engine.pipe, *how)
