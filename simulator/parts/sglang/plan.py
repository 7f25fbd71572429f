"""SGLang's next step of one rank: prompts if any can run, else decodes, or both in mixed chunks.

(`get_next_batch_to_run`, `get_new_batch_prefill` and `update_running_batch` in
sglang/srt/managers/scheduler.py, `retract_decode` in schedule_batch.py, 0.5.9 to 0.5.23.)
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_inside, compiled_part, int64
from ...batching import hooks
from ...batching import state as col
from ...batching.counting import clear_sums, count_chunk, count_decodes, count_tokens, unbounded
from ...batching.kv import blocks_of
from ...batching.radix import K_FREE, make_room
from ...batching.state import I8, State
from . import state as sched
from .adder import GO_ON, NO_TOKEN, OTHER, cut_again, open_budgets, sort_queue, state_of, try_next
from .cache import count_slots, keep_prompt, retract, take_tokens
from .priority import look_again, preempt_for, preempts, queue_by_priority, queue_preempted
from .state import A_CUT, RETRACT_STEPS, S_CHUNKED, S_EXTENDED, S_FULL, S_LAST_CHUNK, S_LIST, Sglang

RESERVED_DECODE = 512
"""Tokens that each running request of a server that only decodes keeps free (`num_reserved_decode_tokens` in
sglang/srt/server_args.py)."""


@compiled_inside
def merge(st: State, x: Sglang, r: int) -> None:
    """Let the prompts of the latest step join the running batch, but for one that is being cut."""
    rank_state, rank = x.ranks[r], st.ranks[r]
    if rank_state[S_EXTENDED] == 0:
        return
    running = rank_state[S_LIST]
    for j in range(rank_state[S_LIST], rank[col.R_RUNNING]):
        i = st.running[r, j]
        if st.ints[i, col.I_ORDER] < 0 and i != rank_state[S_CHUNKED] and i != rank_state[S_LAST_CHUNK]:
            st.running[r, running] = i
            running += 1
    if running < rank[col.R_RUNNING] or (rank_state[S_LIST] == 0 and running > 0):
        rank_state[S_FULL] = 0
    rank_state[S_LIST] = rank[col.R_RUNNING] = running


@compiled_inside
def brought(st: State, r: int) -> bool:
    """Whether the head of a queue comes with its cache from the engine that took its prompt."""
    i = st.ranks[r, col.R_HEAD]
    return bool(i >= 0 and st.ints[i, col.I_ROOM] == 0 and st.ints[i, col.I_CACHED] > 0)


@compiled_part
def join_brought(st: State, x: Sglang, r: int, known: float) -> None:
    """Start requests with transferred caches at once, while memory is left for their outputs.

    (`_allocatable_tokens` and `pop_preallocated` of ``DecodePreallocQueue`` in sglang/srt/disaggregation/decode.py.)
    """
    rank_state, rank, page = x.ranks[r], st.ranks[r], x.rules.page
    while brought(st, r) and rank_state[S_LIST] < x.rules.sequences and slots_of(x, r) > 0:
        i = rank[col.R_HEAD]
        request = st.ints[i]
        need = blocks_of(request[col.I_TARGET], page) * page
        reserved = RESERVED_DECODE * (rank_state[S_LIST] + 1)
        if rank_state[S_LIST] > 0 and need + reserved > x.tree.tops[r, K_FREE] * page:
            return
        rank[col.R_HEAD] = request[col.I_NEXT]
        if rank[col.R_HEAD] < 0:
            rank[col.R_TAIL] = -1
        rank[col.R_WAITING] -= 1
        st.floats[i, col.F_SCHEDULED] = known
        request[col.I_BLOCKS] = request[col.I_KEYED] = request[col.I_SLOT] = 0
        take_tokens(st, x, r, i, request[col.I_TARGET])
        count_slots(x, r, -1)
        st.running[r, rank_state[S_LIST]] = i
        rank_state[S_LIST] += 1
        rank[col.R_RUNNING] = rank_state[S_LIST]


@compiled_inside
def ends_in_flight(st: State, x: Sglang, i: int) -> bool:
    """Whether a running request's last token is in flight, and known to be the last (`_reqs_finishing_inflight`)."""
    request = st.ints[i]
    last = x.rules.patch >= sched.LENGTHS and request[col.I_GENERATED] + 1 >= request[col.I_OUTPUT]
    return bool(last and request[col.I_ROOM] >= request[col.I_INPUT] + request[col.I_GENERATED])


@compiled_inside
def drop_finished(st: State, x: Sglang, r: int, flying: bool) -> int:
    """Take requests out of the running batch that have ended, and, if `flying`, whose last token is in flight: how many of these."""
    rank_state, remaining, last = x.ranks[r], int64(0), int64(0)
    for j in range(rank_state[S_LIST]):
        i = st.running[r, j]
        ended = st.ints[i, col.I_ORDER] >= 0
        if flying and not ended and ends_in_flight(st, x, i):
            last += 1
        elif not ended:
            st.running[r, remaining] = i
            remaining += 1
    if remaining < rank_state[S_LIST]:
        rank_state[S_FULL] = 0
    rank_state[S_LIST] = st.ranks[r, col.R_RUNNING] = remaining
    return int(last)


@compiled_part
def plan_chunk(st: State, windows: I8, r: int, i: int, tokens: int) -> None:
    """Put tokens of a prompt behind what runs."""
    rank = st.ranks[r]
    st.running[r, rank[col.R_RUNNING]], st.fresh[r, rank[col.R_RUNNING]] = i, tokens
    rank[col.R_RUNNING] += 1
    hooks.on_tokens_planned(st, i, tokens)
    count_chunk(st.moments[r], windows, st.ints[i, col.I_CACHED], tokens)
    hooks.on_count(st, r, st.ints[i, col.I_CACHED], tokens, True)
    c = st.counters[col.C_CHUNKS]
    st.chunks[0, c], st.chunks[1, c] = tokens, i
    st.counters[col.C_CHUNKS] += 1


@compiled_inside
def slots_of(x: Sglang, r: int) -> int:
    """Return requests that may have memory, in addition to all batches."""
    return int(x.turns.slots[r]) if x.turns.slots.size > 0 else 1 << 40


@compiled_inside
def most_running(x: Sglang) -> int:
    """Return the maximum of running requests with which a cut prompt continues: any, if it began in another batch."""
    return 1 << 40 if x.turns.slots.size > 0 else int(x.rules.sequences)


@compiled_part
def admit_waiting(st: State, x: Sglang, windows: I8, r: int, known: float) -> None:
    """Add waiting requests to a step as long as there is room."""
    rank_state, rank = x.ranks[r], st.ranks[r]
    while rank[col.R_HEAD] >= 0:
        i = rank[col.R_HEAD]
        if x.rules.patch >= sched.LEAVERS and state_of(x, r) == OTHER:
            return
        if rank[col.R_RUNNING] >= x.rules.sequences or rank[col.R_RUNNING] - rank_state[S_LIST] >= slots_of(x, r):
            rank_state[S_FULL] = 1
        if rank_state[S_FULL] == 1 and not preempt_for(st, x, r, i):
            return
        tokens, after = try_next(st, x, r, rank_state[S_LIST])
        if tokens > 0:
            rank[col.R_HEAD] = st.ints[i, col.I_NEXT]
            if rank[col.R_HEAD] < 0:
                rank[col.R_TAIL] = -1
            rank[col.R_WAITING] -= 1
            if np.isnan(st.floats[i, col.F_SCHEDULED]):
                st.floats[i, col.F_SCHEDULED] = known
            st.counters[col.C_HITS] += st.ints[i, col.I_CACHED]
            plan_chunk(st, windows, r, i, tokens)
        if after == NO_TOKEN:
            rank_state[S_FULL] = 1
        if after != GO_ON:
            return


@compiled_part
def hold_prompts(st: State, x: Sglang, r: int, first: int) -> None:
    """Give the prompts of a step their memory (`alloc_for_extend`)."""
    tokens, size, page = int64(0), st.ranks[r, col.R_RUNNING], x.rules.page
    for j in range(first, size):
        tokens += st.fresh[r, j]
    if page > 1:
        tokens += (size - first) * page
    make_room(x.tree, st, r, tokens, page)
    for j in range(first, size):
        i = st.running[r, j]
        st.ints[i, col.I_ROOM] = st.ints[i, col.I_CACHED]
        take_tokens(st, x, r, i, st.fresh[r, j])


@compiled_part
def plan_prompts(st: State, x: Sglang, windows: I8, r: int, known: float) -> int:
    """Plan a step's prompts; how many there are."""
    rank_state, rank = x.ranks[r], st.ranks[r]
    cut = rank_state[S_CHUNKED]
    look_again(x, r)
    if x.rules.patch >= sched.LENGTHS and rank_state[S_LIST] == 0:
        rank_state[S_FULL] = 0
    if cut < 0 and (rank_state[S_FULL] == 1 or rank[col.R_WAITING] == 0):
        return 0
    first = rank_state[S_LIST]
    if cut >= 0 and first >= most_running(x) and not preempts(x):
        rank_state[S_FULL] = 1
        return 0
    if rank[col.R_WAITING] > 0:
        sort_queue(st, x, r)
    open_budgets(st, x, r)
    if cut >= 0:
        tokens = cut_again(st, x, r, cut)
        if tokens == 0:
            return 0
        plan_chunk(st, windows, r, cut, tokens)
    for j in range(first):
        st.fresh[r, j] = 0
    admit_waiting(st, x, windows, r, known)
    queue_preempted(st, x, r)
    first = rank_state[S_LIST]
    if rank[col.R_RUNNING] == first:
        return 0
    rank_state[S_CHUNKED] = x.adder[A_CUT]
    count_slots(x, r, first - rank[col.R_RUNNING] + (1 if cut >= 0 else 0))
    hold_prompts(st, x, r, first)
    return int(rank[col.R_RUNNING] - first)


@compiled_part
def hold_decodes(st: State, x: Sglang, windows: I8, r: int, first: int) -> None:
    """Plan a token of everything that runs from a place on, with its drafts (`prepare_for_decode`)."""
    size, page, drafts = st.ranks[r, col.R_RUNNING] - first, x.rules.page, hooks.drafts_of(st)
    make_room(x.tree, st, r, size * (page + drafts), page)
    plain, context = unbounded(windows) and drafts == 0, int64(0)
    for j in range(first, first + size):
        i = st.running[r, j]
        take_tokens(st, x, r, i, 1 + drafts)
        st.fresh[r, j] = 1 + drafts
        hooks.on_tokens_planned(st, i, 1 + drafts)
        if plain:
            context += st.ints[i, col.I_CACHED] + 1
        else:
            count_tokens(st, st.moments[r], windows, st.ints[i, col.I_CACHED], 1 + drafts)
            hooks.on_count(st, r, st.ints[i, col.I_CACHED], 1 + drafts, False)
    if plain:
        count_decodes(st.moments[r], size, context)


@compiled_part
def mix(st: State, x: Sglang, windows: I8, r: int, prompts: int) -> None:
    """Let the running batch decode behind the prompts of a step (`mix_with_running`)."""
    rank_state, rank, room = x.ranks[r], st.ranks[r], 2 * (st.running.shape[1] // 3)
    running = int64(0)
    for j in range(rank_state[S_LIST]):
        i = st.running[r, j]
        if ends_in_flight(st, x, i):
            rank_state[S_FULL] = 0
        elif st.ints[i, col.I_ORDER] < 0:
            st.running[r, room + running] = i
            running += 1
    for j in range(prompts):
        st.running[r, j] = st.running[r, rank_state[S_LIST] + j]
        st.fresh[r, j] = st.fresh[r, rank_state[S_LIST] + j]
    for j in range(running):
        st.running[r, prompts + j] = st.running[r, room + j]
    rank_state[S_LIST], rank[col.R_RUNNING] = 0, prompts + running
    if running > 0:
        hold_decodes(st, x, windows, r, prompts)


@compiled_part
def decode_fits(st: State, x: Sglang, r: int) -> bool:
    """Whether the running batch's next tokens have memory, after evicting (`check_decode_mem`)."""
    need, page, more = int64(0), x.rules.page, 1 + hooks.drafts_of(st)
    for j in range(x.ranks[r, S_LIST]):
        room = st.ints[st.running[r, j], col.I_ROOM]
        need += blocks_of(room + more, page) - blocks_of(room, page)
    make_room(x.tree, st, r, need * page, page)
    return bool(x.tree.tops[r, K_FREE] >= need)


@compiled_inside
def later_out(st: State, i: int, j: int) -> bool:
    """Whether a request has generated more than another, or as much of a shorter prompt."""
    one, other = st.ints[i], st.ints[j]
    if one[col.I_GENERATED] != other[col.I_GENERATED]:
        return bool(one[col.I_GENERATED] > other[col.I_GENERATED])
    return bool(one[col.I_INPUT] < other[col.I_INPUT])


@compiled_inside
def fewest(x: Sglang) -> int:
    """Return the minimum of running requests: a single one always has memory, except with other batches.

    SGLang would abort it; here it is requeued.
    """
    return 0 if x.turns.slots.size > 0 else 1


@compiled_part
def retract_some(st: State, x: Sglang, r: int) -> None:
    """Retract the requests with the shortest outputs (ties: the longest prompts) until the others fit."""
    rank_state, rank = x.ranks[r], st.ranks[r]
    for k in range(1, rank_state[S_LIST]):
        i, at = st.running[r, k], k
        while at > 0 and later_out(st, i, st.running[r, at - 1]):
            st.running[r, at] = st.running[r, at - 1]
            at -= 1
        st.running[r, at] = i
    least = fewest(x)
    more = rank_state[S_LIST] > least
    while more:
        rank_state[S_LIST] -= 1
        i = st.running[r, rank_state[S_LIST]]
        retract(st, x, r, i, rank_state[S_LIST])
        queue_by_priority(st, x, r, i)
        more = not decode_fits(st, x, r) and rank_state[S_LIST] > least
    rank[col.R_RUNNING] = rank_state[S_LIST]
    came, most = int64(0), int64(0)
    for j in range(rank_state[S_LIST]):
        request = st.ints[st.running[r, j]]
        came += request[col.I_GENERATED]
        most += request[col.I_OUTPUT]
    x.ratio[r] = min(1.0, (came + RETRACT_STEPS * rank_state[S_LIST]) / (most + 1))


@compiled_part
def plan_decodes(st: State, x: Sglang, windows: I8, r: int) -> None:
    """Plan a token of each running request; retract some if memory does not suffice."""
    rank_state = x.ranks[r]
    ending = drop_finished(st, x, r, True)
    if rank_state[S_LIST] == 0:
        return
    if decode_fits(st, x, r):
        x.ratio[r] = max(x.ratio[r] - x.rules.decay, x.rules.min_ratio)
    else:
        rank_state[S_FULL] = 0  # what leaves makes room
        if ending > 0:
            return
        retract_some(st, x, r)
    hold_decodes(st, x, windows, r, int64(0))


@compiled_part
def plan_step(st: State, x: Sglang, windows: I8, r: int, known: float) -> None:
    """Plan a rank's next step by what is known at a time."""
    rank_state = x.ranks[r]
    clear_sums(st, r)
    if rank_state[S_CHUNKED] >= 0:
        keep_prompt(st, x, r, rank_state[S_CHUNKED], st.ints[rank_state[S_CHUNKED], col.I_ROOM])
    merge(st, x, r)
    if x.rules.patch >= sched.LEAVERS:
        drop_finished(st, x, r, False)
    join_brought(st, x, r, known)
    prompts = 0 if brought(st, r) else plan_prompts(st, x, windows, r, known)
    rank_state[S_EXTENDED], rank_state[S_LAST_CHUNK] = prompts > 0, rank_state[S_CHUNKED]
    if prompts == 0:
        plan_decodes(st, x, windows, r)
    elif x.rules.mixed and rank_state[S_LIST] > 0:
        mix(st, x, windows, r, prompts)
