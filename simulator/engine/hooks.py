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
    """Make a row of a part's state ready for a request by its number; whether there is room."""


@point(ANY)
def refuse(state: State, rank: int, index: int) -> bool:
    """Whether a request that has just come is not let in."""


@point(FIRST)
def queue(state: State, rank: int, index: int) -> None:
    """Queue a request that has just come; else `queues.enqueue`."""


@point(EACH)
def on_arrival(state: State, limits: Limits, kv_rules: KvRules, rank: int, index: int) -> None:
    """A request has been queued."""


# The next request is chosen, and admitted.


@point(EACH)
def find_head(state: State, rank: int) -> None:
    """Choose which waiting request is the head of a rank's queue."""


@point(ANY)
def sooner(state: State, index: int, other: int) -> bool:
    """Whether one waiting request goes before another by priority."""


@point(FIRST)
def choose(state: State, limits: Limits, kv_rules: KvRules, rank: int) -> int:
    """The request that is admitted next, -1: none; else the head of the queue."""


@point(ANY)
def waits_on(state: State, limits: Limits, rank: int, index: int, now: float) -> bool:
    """Whether a prompt waits whose turn has come."""


@point(FIRST)
def lookup(state: State, kv_rules: KvRules, rank: int, index: int, whole: int) -> bool:
    """Give a request its cached blocks, if the rest of `whole` tokens fits; else `allocation.use_prefix`."""


@point(FIRST)
def leave(state: State, rank: int, index: int) -> None:
    """Take an admitted request out of where it waited; else `queues.leave_queue_head`."""


@point(FIRST)
def take_head(state: State, rank: int, index: int) -> None:
    """Remove the head of a rank's queue."""


@point(EACH)
def on_left(state: State, index: int) -> None:
    """A request waits no more."""


@point(FIRST)
def unqueue(state: State, rank: int, index: int) -> None:
    """Take a request that ends as it waits out of its queue."""


# The tokens of a sequence in a step.


@point(TOTAL)
def drafts_of(state: State) -> int:
    """Draft tokens of every decode."""


@point(FIRST)
def want(state: State, index: int) -> int:
    """Tokens of a running sequence that a step may have; else those that are known (`queues.next_tokens`)."""


@point(ANY)
def in_flight(state: State, index: int) -> bool:
    """Whether a waiting request cannot be admitted, as tokens of it are in flight."""


@point(FIRST)
def reach(state: State, limits: Limits, index: int) -> int:
    """Slots that a sequence needs before its new tokens; default: its cached tokens."""


@point(FIRST)
def count_tokens(state: State, moments: F8, windows: I8, context: int, tokens: int) -> None:
    """Add a decode of `tokens` tokens to the sums of a batch; else of one."""


@point(EACH)
def on_count(state: State, rank: int, context: int, tokens: int, chunk: bool) -> None:
    """Called when a sequence has been added to the sums of a rank's batch."""


@point(EACH)
def on_clear(state: State, rank: int) -> None:
    """The sums of a rank's batch are emptied."""


@point(FIRST)
def plan_ended(
    state: State, limits: Limits, kv_rules: KvRules, rank: int, position: int, ended_at: int, budget: int
) -> tuple[int, int, int, int]:
    """Plan sequences that the step in flight ends, where they stood before sequence `position`.

    The place of `position`, how many ended ones have been looked at, the budget, and how many sequences were preempted.
    """


@point(EACH)
def on_sums(state: State, limits: Limits, rank: int, done: int) -> None:
    """Called after the sums of a rank's batch are set for its step, `done` steps after it was planned."""


@point(EACH)
def count_ended(state: State, rank: int) -> None:
    """Add the result of `plan_ended` when a batch is summed again."""


@point(EACH)
def on_rank(state: State, rank: int, chunks: int) -> None:
    """A rank's plan is made; `chunks` prompt chunks were other ranks'."""


@point(EACH)
def on_tokens_planned(state: State, index: int, tokens: int) -> None:
    """Called when a plan contains `tokens` tokens of a request."""


@point(EACH)
def on_plan(state: State, rank: int, now: float) -> None:
    """The plan of a rank is made."""


# Memory.


@point(EACH)
def before_plan(state: State, kv_rules: KvRules, rank: int) -> None:
    """A rank is about to be planned."""


@point(EACH)
def on_evict(state: State, rank: int, block: int) -> None:
    """The content of a block is about to be lost."""


@point(EACH)
def on_free(state: State, kv_rules: KvRules, rank: int, index: int, noted: int) -> None:
    """A sequence is about to give back its blocks; the content of its first `noted` tokens is known."""


@point(EACH)
def on_note(state: State, kv_rules: KvRules, rank: int, index: int) -> None:
    """The content of planned tokens has been noted."""


@point(EACH)
def on_computed(state: State, kv_rules: KvRules, rank: int, index: int, computed: int, now: float) -> None:
    """Called when a batch has left the last stage at `now`, with `computed` tokens of a sequence in its cache."""


@point(FIRST)
def tokens_coming(state: State, index: int) -> int:
    """Tokens of a sequence that have timestamps but are unknown to the current plan; default: at most one."""


@point(FIRST)
def found_again(state: State, index: int) -> int:
    """Tokens of a sequence whose content is known if it is preempted now."""


@point(FIRST)
def known_at_end(state: State, index: int) -> int:
    """Tokens of a sequence whose content is known as it ends; else `found_again`."""


# A request is preempted.


@point(FIRST)
def preempt_until_fits(
    state: State, kv_rules: KvRules, rank: int, position: int, ended_at: int, ended: bool, tokens: int
) -> tuple[bool, int, int, int, int, int]:
    """Hold tokens of a running sequence, preempting others; else the latest admitted (`preempting.preempt_until_fits`)."""


@point(FIRST)
def skip(state: State, rank: int, position: int, ended_at: int, ahead: int) -> tuple[int, int]:
    """Where a plan stands that passes `ahead` sequences over; else where it was."""


@point(FIRST)
def put_back(state: State, rank: int, index: int) -> None:
    """Put a preempted request back where it waited; else to the front of its queue."""


@point(TOTAL)
def undo_ended(state: State, rank: int, ended_at: int) -> int:
    """Take back the tokens that a plan has for a sequence that has ended; how many."""


@point(EACH)
def on_preempted(state: State, index: int) -> None:
    """A request has been preempted."""


@point(EACH)
def on_undone(state: State, index: int) -> None:
    """A plan has no tokens for a request after all."""


# A step runs.


@point(FIRST)
def run_steps(
    state: State, limits: Limits, most: int, cut: float, decodes: float, chunks: int
) -> tuple[float, float, int]:
    """Run up to `most` steps of one plan; when the first and the last ended, and how many; else `fast.fast_forward`."""


@point(FIRST)
def batch_seconds(state: State, limits: Limits, decodes: float) -> None:
    """Cost a planned batch stage by stage; else `costs.step_seconds`."""


@point(LATEST)
def begins(state: State, start: float) -> float:
    """When a step begins that could at `start`."""


@point(FEWEST)
def alike(state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Steps until a part would have the plan be another."""


@point(EACH)
def on_time(state: State) -> None:
    """The engine's time has become `clocks[0].now`."""


@point(EACH)
def after_step(state: State, host_link_s: float, start: float) -> None:
    """Called after a step that began at `start`; experts have used the host link for `host_link_s` in total."""


@point(TOTAL)
def host_link_s(state: State) -> float:
    """Seconds that experts have had the host's link so far."""


@point(SOONEST)
def next_event(state: State) -> float:
    """When something ends that a plan may go by; infinity: nothing is known to."""


@point(EACH)
def on_log(state: State) -> None:
    """A row of the log has been written."""


# Tokens come.


@point(FIRST)
def tokens_come(state: State, index: int, tokens: int, steps: int) -> int:
    """Process `tokens` computed tokens of a sequence in each of `steps` steps; return the emitted tokens; default: one per step."""


@point(FIRST)
def send(state: State, index: int, tokens: int, ahead: bool) -> int:
    """Send tokens of a sequence through the stages; how many they bring, below 0 those that they verify."""


@point(FIRST)
def tokens_of_batch(state: State, index: int, tokens: int) -> int:
    """How many tokens of a sequence a batch has brought that `send` sent; else those."""


@point(FIRST)
def verified(state: State, index: int, tokens: int) -> int:
    """Let a sequence have what of its `tokens` tokens is accepted; how many tokens come."""


@point(EACH)
def on_together(state: State, together: int) -> None:
    """Called with the number of tokens that were emitted together with another of their sequence."""


@point(EACH)
def on_tokens(state: State, rank: int, index: int, tokens: int) -> None:
    """Tokens of a request have come."""


@point(EACH)
def on_finished(state: State, rank: int) -> None:
    """The results of a rank's step have been processed."""


Hooks: Any = by_address(namedtuple("Hooks", tuple(POINTS)))
"""Of each point what parts bring: addresses of code, and of the state that it gets."""

NONE: Any = Hooks(*(np.zeros((0, 2), dtype=np.int64) for _ in POINTS))
"""No part brings anything."""


Brought = tuple[Any, Mapping[str, Any]]
"""A part's state, and what it brings: compiled functions by hook point."""


def hooks_of(parts: Sequence[Brought], state: State, limits: Limits, kv_rules: KvRules) -> Any:
    """Collect the hooks of an engine's parts."""
    if not parts:
        return NONE
    return gathered(Hooks, parts, {"State": state, "Limits": limits, "KvRules": kv_rules})
