"""Steps with pipeline parallel: several batches in flight, one behind the other.

As in vLLM (``EngineCore.step_with_batch_queue`` in vllm/v1/engine/core.py), the scheduler plans a new batch as long as
fewer than `pp` are in flight, else it waits for the oldest one. A plan of nothing takes a place among them, and the
oldest is waited for at once. Without asynchronous scheduling a decode is in one batch at a time, because its next input
is the token that comes of it; the next chunk of a prompt may follow the one before it. With it a decode is in every
batch, but the first stage waits for the last one's tokens before its next batch (``sample_tokens`` in
vllm/v1/worker/gpu_model_runner.py), so that batches do not overlap. There are no more than `pp` batches either way
(``max_concurrent_batches`` in vllm/v1/executor/multiproc_executor.py). Each stage runs one batch at a time, in order,
and sends its activations before it takes the next.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ....workloads.jit import compiled_part, int64
from ....workloads.jit_held import held
from ...batching import state as col
from ...batching.clients import complete
from ...batching.holding import drop
from ...batching.host import paced, starting
from ...batching.kv import KvRules
from ...batching.plain import give_way, plan_ranks, planned_tokens, write_log
from ...batching.policies import Limits
from ...batching.state import F8, I8, State
from ...batching.status import AGAIN, GO, STUCK
from ...batching.stretch import record_gap, stamp
from ...batching.uneven import set_uneven
from ...step.books import Books
from ...step.lowering import Plan
from ..classes.queue import count_served, measure_lanes, unqueue
from ..drafts.verify import batch_seconds, known_at_end, log_draft, record_together, send, tokens_of_batch
from ..kv_tiers.hooks import held_until, note_computed
from ..kv_tiers.loads import next_landing

(W_REQUEST, W_TOKENS, W_CACHED, W_LIFE) = range(4)
NUM_WORK = 4
"""Columns of `Pipe.work`: a request of a batch, and the tokens that it brings forth (0 or 1), below 0 those that it
verifies; its tokens in the cache once it is through, and how often it had been preempted."""

(P_FIRST, P_COUNT) = range(2)
"""Entries of `Pipe.ring`: the oldest batch in flight, and how many there are."""


@held
class Pipe(NamedTuple):
    """Batches in flight on P stages, R ranks, of at most B sequences each; a ring of P places."""

    work: I8  # [P, R, B, NUM_WORK]
    sizes: I8  # [P, R] sequences of each batch; 0 once it has landed
    ends: F8  # [P] when each batch leaves the last stage
    free: F8  # [P] when each stage has done all that it was given
    ring: I8  # [2]


def new_pipe(stages: int, ranks: int, sequences: int) -> Pipe:
    """Return an empty pipeline."""
    return Pipe(
        np.zeros((stages, ranks, sequences, NUM_WORK), dtype=np.int64),
        np.zeros((stages, ranks), dtype=np.int64),
        np.zeros(stages),
        np.zeros(stages),
        np.zeros(2, dtype=np.int64),
    )


@compiled_part
def price_stages(plan: Plan, limits: Limits, st: State, books: Books, decodes: float) -> None:
    """Price a planned batch on each stage; the host plans it once."""
    chunks = st.counters[col.C_CHUNKS]
    for r in range(st.ranks.shape[0]):
        set_uneven(plan, limits, st, books, r, int64(0))
    batch_seconds(plan, limits, st, books, decodes)
    books.stages[0] = paced(limits.pace, books.stages[0], (decodes + chunks) / st.ranks.shape[0], chunks)
    for s in range(1, books.stages.size):
        books.stages[s] = max(books.stages[s], starting(limits.pace, chunks))


@compiled_part
def send_through(st: State, seconds: F8, now: float, waits: bool) -> tuple[float, float]:
    """Let a batch planned now run through the stages; when it starts, and when it is through.

    It `waits` where the first stage needs the tokens that the last one has yet to bring.
    """
    pipe = st.pipe
    end = start = held_until(st, max(now, pipe.free[pipe.free.size - 1 if waits else 0]))
    for s in range(seconds.size):
        end = max(end, pipe.free[s]) + seconds[s]
        pipe.free[s] = end
    return float(start), float(end)


@compiled_part
def note_work(st: State, place: int, r: int, ahead: bool) -> None:
    """Keep what a rank's planned batch holds; its tokens count as cached from here on."""
    pipe, size = st.pipe, int64(0)
    for j in range(st.ranks[r, col.R_RUNNING]):
        i, q = st.running[r, j], st.fresh[r, j]
        if q == 0:
            continue
        entry = pipe.work[place, r, size]
        entry[W_REQUEST], entry[W_TOKENS] = i, send(st, i, q, ahead)
        entry[W_CACHED], entry[W_LIFE] = st.ints[i, col.I_CACHED], st.ints[i, col.I_PREEMPTED]
        size += 1
    pipe.sizes[place, r] = size


@compiled_part
def send_nothing(pipe: Pipe, now: float) -> None:
    """Let an empty batch take a place among those in flight."""
    place = (pipe.ring[P_FIRST] + pipe.ring[P_COUNT]) % pipe.ends.size
    pipe.ends[place] = now
    pipe.ring[P_COUNT] += 1


@compiled_part
def launch(plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books) -> bool:
    """Plan one more batch and send it off; False, and an empty one, where there is nothing to run."""
    counters, clocks, pipe = st.counters, st.clocks, st.pipe
    planned, _ = plan_ranks(plan, limits, kv, st, clocks[col.T_NOW], False)
    if planned_tokens(st) == 0.0:
        send_nothing(pipe, clocks[col.T_NOW])
        return False
    place = (pipe.ring[P_FIRST] + pipe.ring[P_COUNT]) % pipe.ends.size
    for r in range(st.ranks.shape[0]):
        note_work(st, place, r, limits.ahead)
    price_stages(plan, limits, st, books, planned.decodes)
    start, end = send_through(st, books.stages, clocks[col.T_NOW], limits.ahead)
    pipe.ends[place] = end
    pipe.ring[P_COUNT] += 1
    give_way(st, books, start)
    counters[col.C_STEPS] += 1
    counters[col.C_PROMPT] += int(planned.prompts)
    write_log(plan, st, books, start, end, int64(1), planned)
    log_draft(st)
    return True


@compiled_part
def tokens_landed(st: State, i: int, count: int) -> None:
    """What tokens of a request change that has been stamped, but for its end."""
    request = st.ints[i]
    if request[col.I_CACHED] < request[col.I_TARGET]:
        request[col.I_TARGET] += count  # computed again with the others
    if request[col.I_FLIGHT] > 0:
        request[col.I_FLIGHT] -= 1
        if request[col.I_CACHED] > 0:
            request[col.I_NOTED] = max(request[col.I_NOTED], request[col.I_CACHED] - request[col.I_FLIGHT])


@compiled_part
def end_request(st: State, kv: KvRules, r: int, i: int) -> None:
    """Free what a request that has its last token holds, or its place in the queue."""
    if st.ints[i, col.I_CACHED] == 0:  # preempted while its token was in flight
        unqueue(st, r, i)
    else:
        drop(st, kv, r, i, known_at_end(st, i))
    st.ints[i, col.I_FLIGHT] = 0  # what was planned beyond its end brings nothing
    complete(st, i)


@compiled_part
def stamp_batch(st: State, kv: KvRules, r: int, work: I8, size: int, now: float) -> None:
    """Stamp the tokens of one rank's part of a batch that ended at `now`."""
    gap, gaps, together = 0.0, int64(0), int64(0)
    for j in range(size):
        i, tokens = work[j, W_REQUEST], work[j, W_TOKENS]
        if st.ints[i, col.I_GENERATED] == st.ints[i, col.I_OUTPUT]:
            continue  # beyond the end
        same = work[j, W_LIFE] == st.ints[i, col.I_PREEMPTED]
        if same and tokens >= 0:
            note_computed(st, kv, r, i, work[j, W_CACHED], now)
        if tokens == 0:
            continue  # a prompt that goes on
        count = tokens_of_batch(st, i, tokens)
        if same and tokens < 0:
            note_computed(st, kv, r, i, st.ints[i, col.I_CACHED], now)
        count_served(st, r, i, count)
        together += count - 1
        gap, gaps = stamp(st, i, count, now, now, gap, gaps)
        tokens_landed(st, i, count)
        if st.ints[i, col.I_GENERATED] == st.ints[i, col.I_OUTPUT]:
            end_request(st, kv, r, i)
    if gaps > 0:
        record_gap(st.hist, st.clocks, gap, gaps)
    record_together(st, together)
    measure_lanes(st, r)


@compiled_part
def land(st: State, kv: KvRules) -> float:
    """Wait for the oldest batch: stamp its tokens, retire what is done; when it ended."""
    pipe = st.pipe
    place = pipe.ring[P_FIRST]
    now = max(pipe.ends[place], st.clocks[col.T_NOW])
    completed = st.counters[col.C_COMPLETED]
    for r in range(st.ranks.shape[0]):
        stamp_batch(st, kv, r, pipe.work[place, r], pipe.sizes[place, r], now)
        pipe.sizes[place, r] = 0
    pipe.ring[P_FIRST] = (place + 1) % pipe.ends.size
    pipe.ring[P_COUNT] -= 1
    if st.counters[col.C_COMPLETED] == completed:
        return float(now)
    for r in range(st.ranks.shape[0]):
        kept = 0
        for j in range(st.ranks[r, col.R_RUNNING]):
            i = st.running[r, j]
            if st.ints[i, col.I_GENERATED] < st.ints[i, col.I_OUTPUT]:
                st.running[r, kept] = i
                kept += 1
        st.ranks[r, col.R_RUNNING] = kept
    return float(now)


@compiled_part
def flies(st: State) -> bool:
    """Whether any batch is in flight, be it an empty one."""
    return bool(st.pipe.ring[P_COUNT] > 0)


@compiled_part
def prepare(plan: Plan, limits: Limits, kv: KvRules, st: State) -> int:
    """Wait for what is in flight if all that has come is done: it is beyond an end."""
    if st.counters[col.C_RELEASED] > st.counters[col.C_COMPLETED]:
        return GO
    st.clocks[col.T_NOW] = land(st, kv)
    return AGAIN


@compiled_part
def take_step(plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, arrival: float, until: float) -> int:
    """Plan as many batches as go into the stages, and wait for the oldest, even beyond `until`."""
    counters, clocks, pipe, now = st.counters, st.clocks, st.pipe, st.clocks[col.T_NOW]
    more, preempted = True, counters[col.C_PREEMPTIONS]
    while more and pipe.ring[P_COUNT] < plan.stages:
        more = launch(plan, limits, kv, st, books)
        more = more and pipe.ends[pipe.ring[P_FIRST]] > now
    if counters[col.C_PREEMPTIONS] == preempted and not pipe.sizes.any():
        soonest = next_landing(st)
        if soonest == np.inf:
            return STUCK
        clocks[col.T_NOW] = max(land(st, kv), min(soonest, arrival, until))
        return AGAIN
    clocks[col.T_NOW] = land(st, kv)
    clocks[col.T_BUSY] += clocks[col.T_NOW] - now
    return AGAIN
