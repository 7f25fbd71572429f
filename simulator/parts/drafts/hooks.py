"""Drafts in the plan of a step: every decode runs with K draft tokens.

Rules of vLLM's scheduler (``Scheduler.schedule`` and ``AsyncScheduler`` in vllm/v1/core/sched), in addition to
`planning`: drafts use the token budget, which may cut them; a sequence allocates slots for them and for the next
drafts; only known tokens can be found by content. Planned ahead, a sequence allocates as if all drafts in flight were
accepted, and one with an unknown end runs in one more step.
"""

from __future__ import annotations

from ....workloads.jit import compiled_code, compiled_part, int64
from ...batching.counting import count_chunk, count_several, most_of_one
from ...batching.holding import coming
from ...batching.kv import KvRules
from ...batching.policies import Limits
from ...batching.preempting import make_room, pass_over
from ...batching.state import F8, I8, I_CACHED, I_FLIGHT, I_GENERATED, I_INPUT, I_NOTED, I_TARGET, R_LATE, State
from .state import N_WASTED, NUM_OWN, S_CAME, S_FAR, S_ID, DraftState


@compiled_part
def count_draft(x: DraftState, st: State, r: int, context: int, q: int, chunk: bool) -> None:
    """Add a planned sequence to the batches of what drafts; see `drafts.explicit.draft_batches`."""
    if x.costs.model == 0:
        return
    windows = x.costs.windows
    if chunk:
        count_chunk(x.first[r], windows, context, q)
    else:
        count_several(x.first[r], windows, context, q, 1)
    for j in range(x.later.shape[0]):
        count_several(x.later[j, r], windows, context + q + j, 1, 1)


@compiled_code
def count_drafts(x: DraftState, st: State, r: int, context: int, q: int, chunk: bool) -> None:
    """`count_draft` of what a plan has."""
    count_draft(x, st, r, context, q, chunk)


@compiled_code
def clear_draft(x: DraftState, st: State, r: int) -> None:
    """Empty the sums of a rank's drafts, and plans of sequences that have ended."""
    size = st.running.shape[1] // 3
    for g in range(st.ranks[r, R_LATE]):
        st.fresh[r, size - 1 - g] = 0
    for w in range(x.first.shape[1]):
        x.first[r, w] = 0.0
        for j in range(x.later.shape[0]):
            x.later[j, r, w] = 0.0


@compiled_code
def count_tokens(x: DraftState, st: State, m: F8, windows: I8, context: int, q: int) -> None:
    """Add a decode, with the drafts behind its token."""
    count_several(m, windows, context, q, q)


@compiled_code
def tokens_coming(x: DraftState, st: State, i: int) -> int:
    """Return the tokens of a sequence that have timestamps but are unknown to the current plan."""
    return int(x.rows[i, S_CAME] if coming(st, i) else 0)


@compiled_code
def found_again(x: DraftState, st: State, i: int) -> int:
    """Tokens of a sequence whose content is known if it is preempted: as several may come, those known when it was planned."""
    return int(st.ints[i, I_NOTED])


@compiled_code
def one_step(x: DraftState, st: State, limits: Limits, kv: KvRules) -> int:
    """Return the steps of one plan: one, because the emitted tokens of a verification are sampled."""
    return 1


@compiled_code
def undo_ended(x: DraftState, st: State, r: int, g: int) -> int:
    """Take back the tokens that a plan has for a sequence that has ended; how many."""
    size = st.running.shape[1] // 3
    back = st.fresh[r, size - 1 - g]
    for k in range(g, st.ranks[r, R_LATE] - 1):
        st.fresh[r, size - 1 - k] = st.fresh[r, size - 2 - k]
    if back > 0:
        x.counts[N_WASTED] -= 1
    return int(back)


@compiled_code
def new_row(x: DraftState, st: State, i: int, number: int) -> bool:
    """`drafts.state.with_requests` of one request by its number, if there is room."""
    if i >= x.rows.shape[0]:
        return False
    for c in range(NUM_OWN):
        x.rows[i, c] = 0
    x.rows[i, S_ID] = number
    return True


@compiled_code
def drafts_of(x: DraftState, st: State) -> int:
    """Drafts behind the token of every decode."""
    return int64(x.tokens)


@compiled_code
def next_tokens(x: DraftState, st: State, i: int) -> int:
    """Tokens of a running sequence that are known and not computed, with drafts behind its latest."""
    request = st.ints[i]
    if request[I_FLIGHT] > 0:
        return 0  # its tokens are being verified
    left = request[I_INPUT] + request[I_GENERATED] - request[I_CACHED]
    if left > 0 and request[I_CACHED] >= request[I_TARGET]:
        left += x.tokens
    return max(int(left), 0)


@compiled_code
def verifies(x: DraftState, st: State, i: int) -> bool:
    """Return whether drafts of a request are in flight that was preempted since: it waits for them."""
    return bool(st.ints[i, I_FLIGHT] > 0)


@compiled_code
def reach(x: DraftState, st: State, limits: Limits, i: int) -> int:
    """Slots that a sequence needs before its new tokens: for those that a plan takes it to have, and drafting."""
    cached = st.ints[i, I_CACHED]
    if limits.ahead and cached >= st.ints[i, I_TARGET]:
        cached = x.rows[i, S_FAR]
    return int(cached + x.lookahead)


@compiled_code
def plan_ended(
    x: DraftState, st: State, limits: Limits, kv: KvRules, r: int, j: int, g: int, budget: int
) -> tuple[int, int, int, int]:
    """Plan sequences that the step in flight ends, if the plan cannot know, where they stood before sequence `j`.

    They are known to end where any outcome ends them: one token was left. Returns the place of `j`, how many
    ended ones have been looked at, the budget, and how many sequences were preempted.
    """
    rank, lost = st.ranks[r], int64(0)
    size = st.running.shape[1] // 3
    while limits.ahead and g < rank[R_LATE] and st.running[r, 2 * size + g] <= j:
        i, want = st.running[r, size + g], min(x.tokens + 1, budget)
        if x.rows[i, S_CAME] < 2:
            want = int64(0)
        most = most_of_one(st, limits, r)
        if most > 0:
            want = min(want, most)
        if want > 0:
            need = x.rows[i, S_FAR] + want + x.lookahead
            fits, j, g, back, more, ahead = make_room(st, kv, r, j, g, True, need)
            lost += more
            budget += back
            if not fits:
                continue  # it is no longer there
            count_one_ended(x, st, r, i, want)
            st.fresh[r, size - 1 - g] = want
            x.counts[N_WASTED] += 1
            budget -= want
            j, g = pass_over(st, r, j, g + 1, ahead)
            continue
        g += 1
    return j, g, budget, lost


@compiled_part
def count_one_ended(x: DraftState, st: State, r: int, i: int, want: int) -> None:
    """Add a verification of a sequence that has ended to the sums of its rank's batch."""
    context = st.ints[i, I_CACHED]
    count_several(st.moments[r], st.costs.windows, context, want, want)
    count_draft(x, st, r, context, want, False)


@compiled_code
def count_ended(x: DraftState, st: State, r: int) -> None:
    """Add the planned verifications of ended sequences when a batch is summed again."""
    size = st.running.shape[1] // 3
    for g in range(st.ranks[r, R_LATE]):
        want = st.fresh[r, size - 1 - g]
        if want > 0:
            count_one_ended(x, st, r, st.running[r, size + g], want)


HOOKS = {
    "on_submit": new_row, "drafts_of": drafts_of, "want": next_tokens, "in_flight": verifies, "reach": reach,
     "count_tokens": count_tokens, "on_count": count_drafts, "on_clear": clear_draft,
    "plan_ended": plan_ended, "count_ended": count_ended, "tokens_coming": tokens_coming, "found_again": found_again,
    "undo_ended": undo_ended, "alike": one_step,
}  # fmt: skip
