"""SGLang's plan of the next step of a rank: prompts if any can run, otherwise decodes; both with mixed chunks.

(`get_next_batch_to_run`, `get_new_batch_prefill` and `update_running_batch` in
sglang/srt/managers/scheduler.py, `retract_decode` in schedule_batch.py, 0.5.9 to 0.5.23.)
"""

from __future__ import annotations

import numpy as np

from ....workloads.jit import compiled_inside, compiled_part, int64
from ...engine import hooks
from ...engine.counting import clear_sums, count_decodes, count_prompt, count_tokens, unbounded
from ...engine.kv import blocks_of
from ...engine.state import I8, State, count_hits
from . import state as sched
from .adder import Attempt, cut_again, open_budgets, sort_queue, state_of, try_next
from .cache import count_slots, keep_prompt, retract, take_tokens
from .priority import look_again, preempt_for, preempts, queue_by_priority, queue_preempted
from .radix import evict_until_fits
from .state import RETRACT_STEPS, Sglang

RESERVED_DECODE = 512
"""Free tokens that a decode-only server reserves for each running request (`num_reserved_decode_tokens` in
sglang/srt/server_args.py).
"""


@compiled_inside
def merge(state: State, sglang: Sglang, rank_index: int) -> None:
    """Add the prompts of the latest step to the running batch, except a prompt that is still being cut."""
    rank_state, rank = sglang.ranks[rank_index], state.ranks[rank_index]
    if rank_state.extended == 0:
        return
    running = rank_state.decoding
    for j in range(rank_state.decoding, rank.running):
        i = state.running[rank_index, j]
        if state.requests[i].order < 0 and i != rank_state.chunked and i != rank_state.last_chunk:
            state.running[rank_index, running] = i
            running += 1
    if running < rank.running or (rank_state.decoding == 0 and running > 0):
        rank_state.full = 0
    rank_state.decoding = rank.running = running


@compiled_inside
def brought(state: State, rank: int) -> bool:
    """Return whether the head of a queue has a KV cache that was transferred from a prefill engine."""
    i = state.ranks[rank].head
    return bool(i >= 0 and state.requests[i].covered == 0 and state.requests[i].cached > 0)


@compiled_part
def join_brought(state: State, sglang: Sglang, rank_index: int, known: float) -> None:
    """Start requests with transferred caches at once, while memory for their outputs is left.

    (`_allocatable_tokens` and `pop_preallocated` of ``DecodePreallocQueue`` in sglang/srt/disaggregation/decode.py.)
    """
    rank_state, rank, page = sglang.ranks[rank_index], state.ranks[rank_index], sglang.rules.page
    while (
        brought(state, rank_index) and rank_state.decoding < sglang.rules.sequences and slots_of(sglang, rank_index) > 0
    ):
        i = rank.head
        request, content = state.requests[i], state.contents[i]
        need = blocks_of(request.target, page) * page
        reserved = RESERVED_DECODE * (rank_state.decoding + 1)
        if rank_state.decoding > 0 and need + reserved > sglang.tree.tops[rank_index].free * page:
            return
        rank.head = request.next
        if rank.head < 0:
            rank.tail = -1
        rank.waiting -= 1
        state.requests[i].scheduled = known
        content.blocks = content.keyed = content.slot = 0
        take_tokens(state, sglang, rank_index, i, request.target)
        count_slots(sglang, rank_index, -1)
        state.running[rank_index, rank_state.decoding] = i
        rank_state.decoding += 1
        rank.running = rank_state.decoding


@compiled_inside
def ends_in_flight(state: State, sglang: Sglang, index: int) -> bool:
    """Return whether a running request's last token is in flight and known to be the last (`_reqs_finishing_inflight`)."""
    request = state.requests[index]
    last = sglang.rules.patch >= sched.LENGTHS and request.generated + 1 >= request.output
    return bool(last and request.covered >= request.input + request.generated)


@compiled_inside
def drop_finished(state: State, sglang: Sglang, rank: int, flying: bool) -> int:
    """Remove finished requests from the running batch; return the number of removed requests with their last token in flight.

    The latter are removed only if `flying` is set.
    """
    rank_state, remaining, last = sglang.ranks[rank], int64(0), int64(0)
    for j in range(rank_state.decoding):
        i = state.running[rank, j]
        ended = state.requests[i].order >= 0
        if flying and not ended and ends_in_flight(state, sglang, i):
            last += 1
        elif not ended:
            state.running[rank, remaining] = i
            remaining += 1
    if remaining < rank_state.decoding:
        rank_state.full = 0
    rank_state.decoding = state.ranks[rank].running = remaining
    return int(last)


@compiled_part
def plan_chunk(state: State, windows: I8, rank_index: int, index: int, tokens: int) -> None:
    """Append `tokens` tokens of a prompt to the rank's step."""
    rank = state.ranks[rank_index]
    state.running[rank_index, rank.running], state.fresh[rank_index, rank.running] = index, tokens
    rank.running += 1
    hooks.on_tokens_planned(state, index, tokens)
    count_prompt(state, windows, rank_index, index, tokens)


@compiled_inside
def slots_of(sglang: Sglang, rank: int) -> int:
    """Return the number of requests that may still get memory; unlimited without pipeline stages."""
    return int(sglang.turns.slots[rank]) if sglang.turns.slots.size > 0 else 1 << 40


@compiled_inside
def most_running(sglang: Sglang) -> int:
    """Return the maximum of running requests with which a cut prompt continues; unlimited with pipeline stages."""
    return 1 << 40 if sglang.turns.slots.size > 0 else int(sglang.rules.sequences)


@compiled_part
def admit_waiting(state: State, sglang: Sglang, windows: I8, rank_index: int, known: float) -> None:
    """Add waiting requests to a step until a budget, memory or the limit of running requests is reached."""
    rank_state, rank = sglang.ranks[rank_index], state.ranks[rank_index]
    while rank.head >= 0:
        i = rank.head
        if sglang.rules.patch >= sched.LEAVERS and state_of(sglang, rank_index) == Attempt.OTHER:
            return
        if rank.running >= sglang.rules.sequences or rank.running - rank_state.decoding >= slots_of(sglang, rank_index):
            rank_state.full = 1
        if rank_state.full == 1 and not preempt_for(state, sglang, rank_index, i):
            return
        tokens, after = try_next(state, sglang, rank_index, rank_state.decoding)
        if tokens > 0:
            rank.head = state.requests[i].next
            if rank.head < 0:
                rank.tail = -1
            rank.waiting -= 1
            if np.isnan(state.requests[i].scheduled):
                state.requests[i].scheduled = known
            count_hits(state, i)
            plan_chunk(state, windows, rank_index, i, tokens)
        if after == Attempt.NO_TOKEN:
            rank_state.full = 1
        if after != Attempt.GO_ON:
            return


@compiled_part
def hold_prompts(state: State, sglang: Sglang, rank: int, first: int) -> None:
    """Allocate memory for the prompts of a step (`alloc_for_extend`)."""
    tokens, size, page = int64(0), state.ranks[rank].running, sglang.rules.page
    for j in range(first, size):
        tokens += state.fresh[rank, j]
    if page > 1:
        tokens += (size - first) * page
    evict_until_fits(sglang.tree, state, rank, tokens, page)
    for j in range(first, size):
        i = state.running[rank, j]
        state.requests[i].covered = state.requests[i].cached
        take_tokens(state, sglang, rank, i, state.fresh[rank, j])


@compiled_part
def plan_prompts(state: State, sglang: Sglang, windows: I8, rank_index: int, known: float) -> int:
    """Plan the prompts of a rank's step; return their number."""
    rank_state, rank = sglang.ranks[rank_index], state.ranks[rank_index]
    cut = rank_state.chunked
    look_again(sglang, rank_index)
    if sglang.rules.patch >= sched.LENGTHS and rank_state.decoding == 0:
        rank_state.full = 0
    if cut < 0 and (rank_state.full == 1 or rank.waiting == 0):
        return 0
    first = rank_state.decoding
    if cut >= 0 and first >= most_running(sglang) and not preempts(sglang):
        rank_state.full = 1
        return 0
    if rank.waiting > 0:
        sort_queue(state, sglang, rank_index)
    open_budgets(state, sglang, rank_index)
    if cut >= 0:
        tokens = cut_again(state, sglang, rank_index, cut)
        if tokens == 0:
            return 0
        plan_chunk(state, windows, rank_index, cut, tokens)
    for j in range(first):
        state.fresh[rank_index, j] = 0
    admit_waiting(state, sglang, windows, rank_index, known)
    queue_preempted(state, sglang, rank_index)
    first = rank_state.decoding
    if rank.running == first:
        return 0
    rank_state.chunked = sglang.adder[0].cut
    count_slots(sglang, rank_index, first - rank.running + (1 if cut >= 0 else 0))
    hold_prompts(state, sglang, rank_index, first)
    return int(rank.running - first)


@compiled_part
def hold_decodes(state: State, sglang: Sglang, windows: I8, rank: int, first: int) -> None:
    """Plan one token and the drafts of each running request from index `first` on (`prepare_for_decode`)."""
    size, page, drafts = state.ranks[rank].running - first, sglang.rules.page, hooks.drafts_of(state)
    evict_until_fits(sglang.tree, state, rank, size * (page + drafts), page)
    plain, context = unbounded(windows) and drafts == 0, int64(0)
    for j in range(first, first + size):
        i = state.running[rank, j]
        take_tokens(state, sglang, rank, i, 1 + drafts)
        state.fresh[rank, j] = 1 + drafts
        hooks.on_tokens_planned(state, i, 1 + drafts)
        if plain:
            context += state.requests[i].cached + 1
        else:
            count_tokens(state, state.moments[rank], windows, state.requests[i].cached, 1 + drafts)
            hooks.on_count(state, rank, state.requests[i].cached, 1 + drafts, False)
    if plain:
        count_decodes(state.moments[rank], size, context)


@compiled_part
def mix(state: State, sglang: Sglang, windows: I8, rank_index: int, prompts: int) -> None:
    """Append the decodes of the running batch to the prompts of a step (`mix_with_running`)."""
    rank_state, rank, room = sglang.ranks[rank_index], state.ranks[rank_index], 2 * (state.running.shape[1] // 3)
    running = int64(0)
    for j in range(rank_state.decoding):
        i = state.running[rank_index, j]
        if ends_in_flight(state, sglang, i):
            rank_state.full = 0
        elif state.requests[i].order < 0:
            state.running[rank_index, room + running] = i
            running += 1
    for j in range(prompts):
        state.running[rank_index, j] = state.running[rank_index, rank_state.decoding + j]
        state.fresh[rank_index, j] = state.fresh[rank_index, rank_state.decoding + j]
    for j in range(running):
        state.running[rank_index, prompts + j] = state.running[rank_index, room + j]
    rank_state.decoding, rank.running = 0, prompts + running
    if running > 0:
        hold_decodes(state, sglang, windows, rank_index, prompts)


@compiled_part
def decode_fits(state: State, sglang: Sglang, rank: int) -> bool:
    """Return whether memory suffices for the next tokens of the running batch, after eviction (`check_decode_mem`)."""
    need, page, more = int64(0), sglang.rules.page, 1 + hooks.drafts_of(state)
    for j in range(sglang.ranks[rank].decoding):
        room = state.requests[state.running[rank, j]].covered
        need += blocks_of(room + more, page) - blocks_of(room, page)
    evict_until_fits(sglang.tree, state, rank, need * page, page)
    return bool(sglang.tree.tops[rank].free >= need)


@compiled_inside
def later_out(state: State, index: int, position: int) -> bool:
    """Return whether a request is retracted later than another.

    It has generated more tokens, or as many from a shorter prompt.
    """
    one, other = state.requests[index], state.requests[position]
    if one.generated != other.generated:
        return bool(one.generated > other.generated)
    return bool(one.input < other.input)


@compiled_inside
def fewest(sglang: Sglang) -> int:
    """Return the minimum number of running requests that retraction keeps.

    It is 1 with one batch, because a single request always has memory. With several batches it is 0: SGLang would abort the
    request; here it is requeued.
    """
    return 0 if sglang.turns.slots.size > 0 else 1


@compiled_part
def retract_some(state: State, sglang: Sglang, rank_index: int) -> None:
    """Retract the requests with the shortest outputs (ties: the longest prompts) until the others fit."""
    rank_state, rank = sglang.ranks[rank_index], state.ranks[rank_index]
    for k in range(1, rank_state.decoding):
        i, at = state.running[rank_index, k], k
        while at > 0 and later_out(state, i, state.running[rank_index, at - 1]):
            state.running[rank_index, at] = state.running[rank_index, at - 1]
            at -= 1
        state.running[rank_index, at] = i
    least = fewest(sglang)
    more = rank_state.decoding > least
    while more:
        rank_state.decoding -= 1
        i = state.running[rank_index, rank_state.decoding]
        retract(state, sglang, rank_index, i, rank_state.decoding)
        queue_by_priority(state, sglang, rank_index, i)
        more = not decode_fits(state, sglang, rank_index) and rank_state.decoding > least
    rank.running = rank_state.decoding
    came, most = int64(0), int64(0)
    for j in range(rank_state.decoding):
        request = state.requests[state.running[rank_index, j]]
        came += request.generated
        most += request.output
    sglang.ratio[rank_index] = min(1.0, (came + RETRACT_STEPS * rank_state.decoding) / (most + 1))


@compiled_part
def plan_decodes(state: State, sglang: Sglang, windows: I8, rank: int) -> None:
    """Plan a token of each running request; retract some if memory does not suffice."""
    rank_state = sglang.ranks[rank]
    ending = drop_finished(state, sglang, rank, True)
    if rank_state.decoding == 0:
        return
    if decode_fits(state, sglang, rank):
        sglang.ratio[rank] = max(sglang.ratio[rank] - sglang.rules.decay, sglang.rules.min_ratio)
    else:
        rank_state.full = 0  # finished requests free memory
        if ending > 0:
            return
        retract_some(state, sglang, rank)
    hold_decodes(state, sglang, windows, rank, int64(0))


@compiled_part
def plan_step(state: State, sglang: Sglang, windows: I8, rank: int, known: float) -> None:
    """Plan a rank's next step with the results known at time `known` [s]."""
    rank_state = sglang.ranks[rank]
    clear_sums(state, rank)
    if rank_state.chunked >= 0:
        keep_prompt(state, sglang, rank, rank_state.chunked, state.requests[rank_state.chunked].covered)
    merge(state, sglang, rank)
    if sglang.rules.patch >= sched.LEAVERS:
        drop_finished(state, sglang, rank, False)
    join_brought(state, sglang, rank, known)
    prompts = 0 if brought(state, rank) else plan_prompts(state, sglang, windows, rank, known)
    rank_state.extended, rank_state.last_chunk = prompts > 0, rank_state.chunked
    if prompts == 0:
        plan_decodes(state, sglang, windows, rank)
    elif sglang.rules.mixed and rank_state.decoding > 0:
        mix(state, sglang, windows, rank, prompts)
