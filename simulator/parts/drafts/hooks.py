"""Drafts in the plan of a step: every decode runs with K draft tokens.

Rules of vLLM's scheduler (``Scheduler.schedule`` and ``AsyncScheduler`` in vllm/v1/core/sched), in addition to
`planning`: drafts use the token budget, which may cut them; a sequence allocates slots for them and for the next
drafts; only known tokens can be found by content. Planned ahead, a sequence allocates as if all drafts in flight were
accepted, and one with an unknown end runs in one more step.
"""

from __future__ import annotations

from ....workloads.jit import compiled_code, compiled_part, int64
from ...engine.allocation import coming, preempt_until_fits, skip
from ...engine.counting import count_chunk, count_several, most_of_one
from ...engine.kv import KvRules
from ...engine.policies import Limits
from ...engine.state import F8, I8, State
from .state import DraftState


@compiled_part
def count_draft(drafts: DraftState, state: State, rank: int, context: int, tokens: int, chunk: bool) -> None:
    """Add a planned sequence to the batches of the drafting passes; see `drafts.explicit.draft_batches`."""
    if drafts.costs.model == 0:
        return
    windows = drafts.costs.windows
    if chunk:
        count_chunk(drafts.first[rank], windows, context, tokens)
    else:
        count_several(drafts.first[rank], windows, context, tokens, 1)
    for j in range(drafts.later.shape[0]):
        count_several(drafts.later[j, rank], windows, context + tokens + j, 1, 1)


@compiled_code
def count_drafts(drafts: DraftState, state: State, rank: int, context: int, tokens: int, chunk: bool) -> None:
    """Hook for `count_draft`."""
    count_draft(drafts, state, rank, context, tokens, chunk)


@compiled_code
def clear_draft(drafts: DraftState, state: State, rank: int) -> None:
    """Set the sums of a rank's drafting passes to zero, and clear the plans of ended sequences."""
    size = state.running.shape[1] // 3
    for g in range(state.ranks[rank].late):
        state.fresh[rank, size - 1 - g] = 0
    for w in range(drafts.first.shape[1]):
        drafts.first[rank, w] = 0.0
        for j in range(drafts.later.shape[0]):
            drafts.later[j, rank, w] = 0.0


@compiled_code
def count_tokens(drafts: DraftState, state: State, moments: F8, windows: I8, context: int, tokens: int) -> None:
    """Add a decode with its draft tokens to the sums of a batch."""
    count_several(moments, windows, context, tokens, tokens)


@compiled_code
def tokens_coming(drafts: DraftState, state: State, index: int) -> int:
    """Return the tokens of a sequence that have timestamps but are unknown to the current plan."""
    return int(drafts.rows[index].came if coming(state, index) else 0)


@compiled_code
def found_again(drafts: DraftState, state: State, index: int) -> int:
    """Return a sequence's tokens that it finds in the cache if preempted now: those known when it was planned."""
    return int(state.requests[index].noted)


@compiled_code
def one_step(drafts: DraftState, state: State, limits: Limits, kv_rules: KvRules) -> int:
    """Return the steps of one plan: one, because the emitted tokens of a verification are sampled."""
    return 1


@compiled_code
def undo_ended(drafts: DraftState, state: State, rank: int, ended_at: int) -> int:
    """Remove the planned tokens of a sequence that has ended; return their number."""
    size = state.running.shape[1] // 3
    back = state.fresh[rank, size - 1 - ended_at]
    for k in range(ended_at, state.ranks[rank].late - 1):
        state.fresh[rank, size - 1 - k] = state.fresh[rank, size - 2 - k]
    if back > 0:
        drafts.counts[0].wasted -= 1
    return int(back)


@compiled_code
def new_row(drafts: DraftState, state: State, index: int, number: int) -> bool:
    """Initialise the row of one request (`drafts.state.with_requests`); return whether there is a free row."""
    if index >= drafts.rows.shape[0]:
        return False
    drafted = drafts.rows[index]
    drafted.id, drafted.came, drafted.far = number, 0, 0
    return True


@compiled_code
def drafts_of(drafts: DraftState, state: State) -> int:
    """Return the number of draft tokens of every decode."""
    return int64(drafts.tokens)


@compiled_code
def next_tokens(drafts: DraftState, state: State, index: int) -> int:
    """Return the known but uncomputed tokens of a running sequence, plus drafts after its latest token."""
    request = state.requests[index]
    if request.in_flight > 0:
        return 0  # its tokens are being verified
    left = request.input + request.generated - request.cached
    if left > 0 and request.cached >= request.target:
        left += drafts.tokens
    return max(int(left), 0)


@compiled_code
def verifies(drafts: DraftState, state: State, index: int) -> bool:
    """Return whether drafts are in flight of a request that was preempted since; the request waits for them."""
    return bool(state.requests[index].in_flight > 0)


@compiled_code
def reach(drafts: DraftState, state: State, limits: Limits, index: int) -> int:
    """Return the KV slots that a sequence needs before its new tokens, including rejected drafts and drafting."""
    cached = state.requests[index].cached
    if limits.ahead and cached >= state.requests[index].target:
        cached = drafts.rows[index].far
    return int(cached + drafts.lookahead)


@compiled_code
def plan_ended(
    drafts: DraftState,
    state: State,
    limits: Limits,
    kv_rules: KvRules,
    rank_index: int,
    position: int,
    ended_at: int,
    budget: int,
) -> tuple[int, int, int, int]:
    """Plan sequences before `position` that the step in flight ends, if the plan cannot know that they end.

    They are known to end where any outcome ends them: one token was left. Returns the place of `position`, how many
    ended ones have been looked at, the budget, and how many sequences were preempted.
    """
    rank, lost = state.ranks[rank_index], int64(0)
    size = state.running.shape[1] // 3
    while limits.ahead and ended_at < rank.late and state.running[rank_index, 2 * size + ended_at] <= position:
        i, want = state.running[rank_index, size + ended_at], min(drafts.tokens + 1, budget)
        if drafts.rows[i].came < 2:
            want = int64(0)
        most = most_of_one(state, limits, rank_index)
        if most > 0:
            want = min(want, most)
        if want > 0:
            need = drafts.rows[i].far + want + drafts.lookahead
            fits, position, ended_at, back, more, ahead = preempt_until_fits(
                state, kv_rules, rank_index, position, ended_at, True, need
            )
            lost += more
            budget += back
            if not fits:
                continue  # it is no longer there
            count_one_ended(drafts, state, rank_index, i, want)
            state.fresh[rank_index, size - 1 - ended_at] = want
            drafts.counts[0].wasted += 1
            budget -= want
            position, ended_at = skip(state, rank_index, position, ended_at + 1, ahead)
            continue
        ended_at += 1
    return position, ended_at, budget, lost


@compiled_part
def count_one_ended(drafts: DraftState, state: State, rank: int, index: int, want: int) -> None:
    """Add the verification of an ended sequence to the sums of its rank's batch."""
    context = state.requests[index].cached
    count_several(state.moments[rank], state.costs.windows, context, want, want)
    count_draft(drafts, state, rank, context, want, False)


@compiled_code
def count_ended(drafts: DraftState, state: State, rank: int) -> None:
    """Add the planned verifications of ended sequences when a batch is summed again."""
    size = state.running.shape[1] // 3
    for g in range(state.ranks[rank].late):
        want = state.fresh[rank, size - 1 - g]
        if want > 0:
            count_one_ended(drafts, state, rank, state.running[rank, size + g], want)


HOOKS = {
    "on_submit": new_row, "drafts_of": drafts_of, "want": next_tokens, "in_flight": verifies, "reach": reach,
     "count_tokens": count_tokens, "on_count": count_drafts, "on_clear": clear_draft,
    "plan_ended": plan_ended, "count_ended": count_ended, "tokens_coming": tokens_coming, "found_again": found_again,
    "undo_ended": undo_ended, "alike": one_step,
}  # fmt: skip
