"""The hook points of an engine.

A hook has no body here; parts provide compiled functions of the same name and arguments, with their state as first
argument (`engine.engine_part`). Without a part, a call returns the neutral value of its rule; where the engine's plain rule
differs, the caller checks `st.hooks.NAME.size` first. `FIRST`: at most one part may provide it. Hooks of other
schedulers are in `scheduler_hooks`.
"""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...workloads.jit_address import by_address
from ...workloads.jit_hooks import ANY, EACH, EVERY, FEWEST, FIRST, LATEST, POINTS, SOONEST, TOTAL, gathered, point
from .scheduler_hooks import *  # callers know them here

if TYPE_CHECKING:
    from .kv import KvRules
    from .policies import Limits
    from .state import F8, I8, State


# A request arrives.


@point(EVERY)
def on_submit(state: State, index: int, number: int) -> bool:
    """Prepare a row of a part's state for request `number`; return whether there is a free row."""


@point(ANY)
def refuse(state: State, rank: int, index: int) -> bool:
    """Return whether an arriving request is rejected."""


@point(FIRST)
def queue(state: State, rank: int, index: int) -> None:
    """Queue an arriving request; default: `queues.enqueue`."""


@point(EACH)
def on_arrival(state: State, limits: Limits, kv_rules: KvRules, rank: int, index: int) -> None:
    """Called after an arriving request has been queued."""


# The next request is chosen, and admitted.


@point(EACH)
def find_head(state: State, rank: int) -> None:
    """Choose which waiting request is the head of a rank's queue."""


@point(ANY)
def sooner(state: State, index: int, other: int) -> bool:
    """Return whether waiting request `index` has priority over request `other`."""


@point(FIRST)
def choose(state: State, limits: Limits, kv_rules: KvRules, rank: int) -> int:
    """Return the request to admit next, -1 if there is none; default: the head of the queue."""


@point(ANY)
def waits_on(state: State, limits: Limits, rank: int, index: int, now: float) -> bool:
    """Return whether the prompt at the head of the queue must wait longer, although it could be admitted."""


@point(FIRST)
def lookup(state: State, kv_rules: KvRules, rank: int, index: int, whole: int) -> bool:
    """Share a request's cached prefix blocks if the rest of `whole` tokens fits; default: `allocation.use_prefix`."""


@point(FIRST)
def leave(state: State, rank: int, index: int) -> None:
    """Remove an admitted request from its queue; default: `queues.leave_queue`."""


@point(FIRST)
def take_head(state: State, rank: int, index: int) -> None:
    """Remove the head of a rank's queue."""


@point(EACH)
def on_left(state: State, index: int) -> None:
    """Called after a request has left the waiting queue."""


@point(FIRST)
def unqueue(state: State, rank: int, index: int) -> None:
    """Remove a request that ends while it waits from its queue."""


# The tokens of a sequence in a step.


@point(TOTAL)
def drafts_of(state: State) -> int:
    """Return the number of draft tokens of every decode."""


@point(FIRST)
def want(state: State, index: int) -> int:
    """Return the tokens that a running sequence may compute in a step; default: its known ones (`planning.next_tokens`)."""


@point(ANY)
def in_flight(state: State, index: int) -> bool:
    """Return whether a waiting request cannot be admitted yet because some of its tokens are in flight."""


@point(FIRST)
def reach(state: State, limits: Limits, index: int) -> int:
    """Return the KV slots that a sequence needs before its new tokens; default: its cached tokens."""


@point(FIRST)
def count_tokens(state: State, moments: F8, windows: I8, context: int, tokens: int) -> None:
    """Add a decode of `tokens` tokens to the sums of a batch; default: a decode of one token."""


@point(EACH)
def on_count(state: State, rank: int, context: int, tokens: int, chunk: bool) -> None:
    """Called when a sequence has been added to the sums of a rank's batch."""


@point(EACH)
def on_clear(state: State, rank: int) -> None:
    """Called when the sums of a rank's batch are set to zero."""


@point(FIRST)
def plan_ended(
    state: State, limits: Limits, kv_rules: KvRules, rank: int, position: int, ended_at: int, budget: int
) -> tuple[int, int, int, int]:
    """Plan sequences that the step in flight ends and that come before sequence `position` in the batch.

    Returns the new `position`, the number of ended sequences planned so far, the budget left [tokens], and the number
    of preempted sequences.
    """


@point(EACH)
def on_sums(state: State, limits: Limits, rank: int, done: int) -> None:
    """Called after the sums of a rank's batch are set for its step, `done` steps after it was planned."""


@point(EACH)
def count_ended(state: State, rank: int) -> None:
    """Add the sequences of `plan_ended` to a rank's sums when its batch is summed again."""


@point(EACH)
def on_rank(state: State, rank: int, chunks: int) -> None:
    """Called when a rank's plan is made; the first `chunks` prompt chunks belong to other ranks."""


@point(EACH)
def on_tokens_planned(state: State, index: int, tokens: int) -> None:
    """Called when a plan contains `tokens` tokens of a request."""


@point(EACH)
def on_plan(state: State, rank: int, now: float) -> None:
    """Called after the plan of a rank is made for time `now`."""


# Memory.


@point(EACH)
def before_plan(state: State, kv_rules: KvRules, rank: int) -> None:
    """Called before a rank is planned."""


@point(EACH)
def on_evict(state: State, rank: int, block: int) -> None:
    """Called before a block loses its cached content."""


@point(EACH)
def on_free(state: State, kv_rules: KvRules, rank: int, index: int, noted: int) -> None:
    """Called before a sequence frees its blocks; the content of its first `noted` tokens stays findable."""


@point(EACH)
def on_note(state: State, kv_rules: KvRules, rank: int, index: int) -> None:
    """Called after the content of a sequence's planned tokens has been recorded."""


@point(EACH)
def on_computed(state: State, kv_rules: KvRules, rank: int, index: int, computed: int, now: float) -> None:
    """Called when a batch has left the last stage at `now`, with `computed` tokens of a sequence in its cache."""


@point(FIRST)
def tokens_coming(state: State, index: int) -> int:
    """Return the tokens of a sequence that have timestamps but are unknown to the current plan; default: at most one."""


@point(FIRST)
def found_again(state: State, index: int) -> int:
    """Return the number of a sequence's tokens that it finds in the cache again if it is preempted now."""


@point(FIRST)
def known_at_end(state: State, index: int) -> int:
    """Return the number of a sequence's tokens whose content is known when it ends; default: `found_again`."""


# A request is preempted.


@point(FIRST)
def preempt_until_fits(
    state: State, kv_rules: KvRules, rank: int, position: int, ended_at: int, ended: bool, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """Allocate KV for a running sequence, preempting others; default: `allocation.last_gives_way`."""


@point(FIRST)
def skip(state: State, rank: int, position: int, ended_at: int, ahead: int) -> tuple[int, int]:
    """Return the plan's indices after passing over `ahead` sequences; default: unchanged."""


@point(FIRST)
def put_back(state: State, rank: int, index: int) -> None:
    """Queue a preempted request again; default: at the front of its queue."""


@point(TOTAL)
def undo_ended(state: State, rank: int, ended_at: int) -> int:
    """Remove the planned tokens of a sequence that has ended; return their number."""


@point(EACH)
def on_preempted(state: State, index: int) -> None:
    """Called after a request has been preempted."""


@point(EACH)
def on_undone(state: State, index: int) -> None:
    """Called when the tokens of a request are removed from the plan being made."""


# A step runs.


@point(FIRST)
def run_steps(
    state: State, limits: Limits, most: int, cut: float, decodes: float, chunks: int
) -> tuple[float, float, int]:
    """Run up to `most` steps of one plan; default: `fast_forward.fast_forward`.

    Returns the end times of the first and the last step [s], and the number of steps.
    """


@point(FIRST)
def batch_seconds(state: State, limits: Limits, decodes: float) -> None:
    """Set the seconds of a planned batch on each pipeline stage (`state.costs.stages`); default: one `timed.cost_step`."""


@point(LATEST)
def begins(state: State, start: float) -> float:
    """Return the time at which a step begins that could begin at `start` [s]."""


@point(FEWEST)
def alike(state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Return the number of steps after which a part would change the plan."""


@point(EACH)
def on_time(state: State) -> None:
    """Called after the engine's clock has advanced to `clocks[0].now`."""


@point(EACH)
def after_step(state: State, host_link_s: float, start: float) -> None:
    """Called after a step that began at `start`; experts have used the host link for `host_link_s` in total."""


@point(TOTAL)
def host_link_s(state: State) -> float:
    """Return the seconds for which experts have used the host link so far."""


@point(SOONEST)
def next_event(state: State) -> float:
    """Return the next time at which an event other than an arrival may change a plan [s]; infinity: none is known."""


@point(EACH)
def on_log(state: State) -> None:
    """Called after a row of the log has been written."""


# Tokens are emitted.


@point(FIRST)
def tokens_come(state: State, index: int, tokens: int, steps: int) -> int:
    """Process `tokens` computed tokens of a sequence in each of `steps` steps; return the emitted tokens; default: one per step."""


@point(FIRST)
def send(state: State, index: int, tokens: int, ahead: bool) -> int:
    """Send tokens of a sequence through the stages; return the number of tokens to come, negative if they are verified."""


@point(FIRST)
def tokens_of_batch(state: State, index: int, tokens: int) -> int:
    """Return the number of tokens that a batch sent by `send` has computed for a sequence; default: `tokens`."""


@point(FIRST)
def verified(state: State, index: int, tokens: int) -> int:
    """Accept or reject a sequence's `tokens` drafted tokens; return the number of emitted tokens."""


@point(EACH)
def on_together(state: State, together: int) -> None:
    """Called with the number of tokens that had the same timestamp as the previous token of their sequence."""


@point(EACH)
def on_tokens(state: State, rank: int, index: int, tokens: int) -> None:
    """Called after tokens of a request have been emitted."""


@point(EACH)
def on_finished(state: State, rank: int) -> None:
    """Called after the results of a rank's step have been processed."""


Hooks: Any = by_address(namedtuple("Hooks", tuple(POINTS)))
"""Addresses of the compiled functions, and of their states, that parts provide for each hook point."""

NONE: Any = Hooks(*(np.zeros((0, 2), dtype=np.int64) for _ in POINTS))
"""Hooks of an engine without parts."""


Brought = tuple[Any, Mapping[str, Any]]
"""A part's state and its compiled functions, keyed by hook point."""


def hooks_of(parts: Sequence[Brought], state: State, limits: Limits, kv_rules: KvRules) -> Any:
    """Collect the hooks of an engine's parts."""
    if not parts:
        return NONE
    return gathered(Hooks, parts, {"State": state, "Limits": limits, "KvRules": kv_rules})
