"""The hook points of an engine whose scheduler replaces the plain one; see `hooks`."""

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
    """Return whether the next step has been planned already."""


@point(ANY)
def results_pending(state: State) -> bool:
    """Return whether steps have run whose results have not been processed."""


@point(FIRST)
def may_look(state: State, limits: Limits, until: float) -> bool:
    """Return whether all requests that the next plan could see have been submitted."""


@point(FIRST)
def poll_arrivals(state: State, limits: Limits, kv_rules: KvRules) -> float:
    """Queue the requests that have arrived; return the next arrival time [s]."""


@point(FIRST)
def idle(state: State, kv_rules: KvRules) -> None:
    """Called when the engine has no request to run."""


@point(FIRST)
def prepare(state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Prepare a step: return `GO`, or the status for `loop.advance` to handle."""


@point(FIRST)
def run_step(state: State, limits: Limits, kv_rules: KvRules, arrival: float, until: float) -> int:
    """Plan the next step and run it; default: `plain.run_step`."""


# The rules of an engine whose results come a step late (`exact`).


@point(FIRST)
def plan_next(state: State, kv_rules: KvRules, windows: I8, known: float) -> None:
    """Plan the next step of every rank with the requests known at time `known`."""


@point(FIRST)
def on_start(state: State, kv_rules: KvRules, steps: int) -> None:
    """Called when the planned step starts; of `steps` steps all but the last have ended."""


@point(FIRST)
def take_results(state: State, kv_rules: KvRules, first_end: float, now: float) -> None:
    """Process the results of the step that has ended."""


@point(FIRST)
def most_steps(state: State) -> int:
    """Return the number of following steps with the same plan; negative if an arrival may change it."""


@point(FIRST)
def rank_for(state: State) -> int:
    """Return the rank that the next arriving request is assigned to."""


@point(EACH)
def on_idle(state: State) -> None:
    """Called when a plan is empty."""


@point(EACH)
def take_up(state: State, place: int) -> None:
    """Select one of several batches in flight (`place`) as the current one."""


@point(EACH)
def put_down(state: State, place: int) -> None:
    """Deselect the current batch in flight."""


@point(TOTAL)
def elsewhere(state: State, place: int) -> int:
    """Return the number of requests that run in the other batches in flight."""


@point(FIRST)
def seen(state: State, before: float, after: float) -> float:
    """Return when results are awaited; the first stage was free at `before` and `after` the batch was sent [s]."""
