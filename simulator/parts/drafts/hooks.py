"""What drafts change in the plan of a step: every decode runs with K of them behind its token.

Rules of vLLM's scheduler (``Scheduler.schedule`` and ``AsyncScheduler`` in vllm/v1/core/sched), beside those of
`planning`: drafts take tokens of the budget, which may cut them; a sequence holds slots for them and for those that
drafting will fill; only tokens that are known can be found by their content. Planned ahead, a sequence holds what it
would take were all drafts in flight accepted, and one whose end is not known runs in one more step.
"""

from __future__ import annotations

from ....workloads.jit import compiled_given, compiled_part, int64
from ...batching.counting import count_draft, count_several, most_of_one
from ...batching.kv import KvRules
from ...batching.policies import Limits
from ...batching.preempting import make_room, pass_over
from ...batching.state import I8, I_CACHED, I_FLIGHT, I_GENERATED, I_INPUT, I_OUTPUT, I_TARGET, R_LATE, State
from .state import N_WASTED, S_CAME, S_FAR


@compiled_given("st.spec", otherwise=lambda st: int64(0))
def drafts_of(st: State) -> int:
    """Drafts behind the token of every decode."""
    return int64(st.spec.tokens)


@compiled_part
def next_known(st: State, i: int) -> int:
    """`next_tokens` without drafts; with some in flight, those that are sure to come count.

    None while its next input is in flight and is waited for (`I_FLIGHT` 0), nor when those in
    flight are sure to be its last: the scheduler goes by the tokens it has.
    """
    request = st.ints[i]
    flight = request[I_FLIGHT]
    if flight > 0:
        over = request[I_CACHED] + 2 - flight >= request[I_INPUT] + request[I_OUTPUT]
        if over:
            return 0
    return int(request[I_INPUT] + request[I_GENERATED] + flight - request[I_CACHED])


@compiled_given("st.spec", otherwise=next_known)
def next_tokens(st: State, i: int) -> int:
    """Tokens of a running sequence that are known and not computed, with drafts behind its latest."""
    request = st.ints[i]
    if request[I_FLIGHT] > 0:
        return 0  # its tokens are being verified
    left = request[I_INPUT] + request[I_GENERATED] - request[I_CACHED]
    if left > 0 and request[I_CACHED] >= request[I_TARGET]:
        left += st.spec.tokens
    return max(int(left), 0)


@compiled_given("st.spec", otherwise=lambda st, i: False)
def verifies(st: State, i: int) -> bool:
    """Whether drafts of a request are in flight, which was preempted meanwhile: it waits for them."""
    return bool(st.ints[i, I_FLIGHT] > 0)


@compiled_given("st.spec", otherwise=lambda st, limits, i: st.ints[i, I_CACHED])
def reach(st: State, limits: Limits, i: int) -> int:
    """Slots that a sequence needs before its new tokens: for those that a plan takes it to have, and drafting."""
    x, cached = st.spec, st.ints[i, I_CACHED]
    if limits.ahead and cached >= st.ints[i, I_TARGET]:
        cached = x.rows[i, S_FAR]
    return int(cached + x.lookahead)


@compiled_part
def none_ended(
    st: State, limits: Limits, kv: KvRules, windows: I8, r: int, j: int, g: int, budget: int
) -> tuple[int, int, int, int]:
    """`plan_ended` without drafts: what ends is known."""
    return j, g, budget, int64(0)


@compiled_given("st.spec", otherwise=none_ended)
def plan_ended(
    st: State, limits: Limits, kv: KvRules, windows: I8, r: int, j: int, g: int, budget: int
) -> tuple[int, int, int, int]:
    """Plan sequences that the step in flight ends, if the plan cannot know, where they stood before sequence `j`.

    They are known to end where any outcome ends them: one token was left. Returns the place of `j`, how many
    ended ones have been looked at, the budget, and how many sequences were preempted.
    """
    x, rank, lost = st.spec, st.ranks[r], int64(0)
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
            fits, j, g, budget, more, ahead = make_room(st, kv, r, j, g, True, budget, need)
            lost += more
            if not fits:
                continue  # it is no longer there
            count_one_ended(st, windows, r, i, want)
            st.fresh[r, size - 1 - g] = want
            x.counts[N_WASTED] += 1
            budget -= want
            j, g = pass_over(st, r, j, g + 1, ahead)
            continue
        g += 1
    return j, g, budget, lost


@compiled_part
def count_one_ended(st: State, windows: I8, r: int, i: int, want: int) -> None:
    """Add a verification of a sequence that has ended to the sums of its rank's batch."""
    context = st.ints[i, I_CACHED]
    count_several(st.moments[r], windows, context, want, want)
    count_draft(st, r, context, want, False)


@compiled_given("st.spec", otherwise=lambda st, windows, r: None)
def count_ended(st: State, windows: I8, r: int) -> None:
    """Add the planned verifications of sequences that have ended, where a batch is summed anew."""
    size = st.running.shape[1] // 3
    for g in range(st.ranks[r, R_LATE]):
        want = st.fresh[r, size - 1 - g]
        if want > 0:
            count_one_ended(st, windows, r, st.running[r, size + g], want)
