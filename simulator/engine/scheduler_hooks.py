"""The hook points of an engine that runs another scheduler than the plain one; see `hooks`."""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import TYPE_CHECKING

from ...workloads.jit_hooks import ANY, EACH, FIRST, TOTAL, point

if TYPE_CHECKING:
    from .kv import KvRules
    from .policies import Limits
    from .state import I8, State


# A scheduler of another kind: each of these or none.


@point(ANY)
def is_planned(state: State) -> bool:
    """Whether the next step has been planned already."""


@point(ANY)
def results_pending(state: State) -> bool:
    """Whether something has run whose results are not processed."""


@point(FIRST)
def may_look(state: State, limits: Limits, until: float) -> bool:
    """Whether all has been submitted that the next plan would find."""


@point(FIRST)
def poll_arrivals(state: State, limits: Limits, kv_rules: KvRules) -> float:
    """Queue what has come; when the next request arrives."""


@point(FIRST)
def idle(state: State, kv_rules: KvRules) -> None:
    """Have nothing to do."""


@point(FIRST)
def prepare(state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Prepare a step: return `GO`, or the status for `loop.advance` to handle."""


@point(FIRST)
def run_step(state: State, limits: Limits, kv_rules: KvRules, arrival: float, until: float) -> int:
    """Plan what runs next, and run it; else `plain.run_step`."""


# The rules of an engine whose results come a step late (`exact`).


@point(FIRST)
def plan_next(state: State, kv_rules: KvRules, windows: I8, known: float) -> None:
    """Plan the next step of every rank by what is known at a time."""


@point(FIRST)
def on_start(state: State, kv_rules: KvRules, steps: int) -> None:
    """Called when the planned step starts; of `steps` steps all but the last have ended."""


@point(FIRST)
def take_results(state: State, kv_rules: KvRules, first_end: float, now: float) -> None:
    """Process the results of the step that has ended."""


@point(FIRST)
def most_steps(state: State) -> int:
    """How many steps are planned alike; below 0 where an arrival may change that."""


@point(FIRST)
def rank_for(state: State) -> int:
    """The rank that takes the next request."""


@point(EACH)
def on_idle(state: State) -> None:
    """There is nothing to do."""


@point(EACH)
def take_up(state: State, place: int) -> None:
    """Look at one of several batches in flight."""


@point(EACH)
def put_down(state: State, place: int) -> None:
    """Look at it no more."""


@point(TOTAL)
def elsewhere(state: State, place: int) -> int:
    """Requests that run in the other batches."""


@point(FIRST)
def seen(state: State, before: float, after: float) -> float:
    """When results are waited for; the first stage was free at times before and after the batch was sent."""
