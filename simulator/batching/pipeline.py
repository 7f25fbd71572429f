"""The inner loop with pipeline parallel: several batches in flight, one behind the other.

As in vLLM (``EngineCore.step_with_batch_queue`` in vllm/v1/engine/core.py), the scheduler plans a
new batch as long as fewer than `pp` are in flight and there is something to plan, else it waits
for the oldest one. A decode is in one batch at a time, because its next input is the token that
comes of it; the next chunk of a prompt may follow the one before it. Asynchronous scheduling adds
nothing: there are no more than `pp` batches (``max_concurrent_batches`` in vllm/config/vllm.py,
of its V1 model runner). Each stage runs one batch at a time, in order, and sends its activations
before it takes the next.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...workloads.batch import DECODES, TOKENS
from ...workloads.jit import compiled, compiled_part, int64
from ..step.compiled import Books, step_seconds
from ..step.lowering import Plan
from .clients import complete, release
from .holding import drop
from .host import paced
from .kv import KvRules
from .loop import (
    GOAL,
    LOG_FULL,
    REACHED,
    STUCK,
    record_gap,
    set_uneven,
    write_log,
)
from .planning import plan_rank
from .policies import Limits
from .state import (
    C_CHUNKS,
    C_COMPLETED,
    C_EMITTED,
    C_LOG,
    C_PREEMPTIONS,
    C_PROMPT,
    C_RELEASED,
    C_STEPS,
    F8,
    F_FIRST,
    F_LAST,
    I8,
    I_CACHED,
    I_FLIGHT,
    I_GENERATED,
    I_OUTPUT,
    I_TARGET,
    R_RUNNING,
    T_BUSY,
    T_KNOWN,
    T_KV_PEAK,
    T_NOW,
    State,
)

(W_REQUEST, W_TOKENS) = range(2)
"""Columns of `Pipe.work`: a request of a batch, and the tokens that it brings forth (0 or 1)."""

(P_FIRST, P_COUNT) = range(2)
"""Entries of `Pipe.ring`: the oldest batch in flight, and how many there are."""


class Pipe(NamedTuple):
    """Batches in flight on P stages, R ranks, of at most B sequences each; a ring of P places."""

    work: I8  # [P, R, B, 2]
    sizes: I8  # [P, R] sequences of each batch
    ends: F8  # [P] when each batch leaves the last stage
    free: F8  # [P] when each stage has done all that it was given
    ring: I8  # [2]


def new_pipe(stages: int, ranks: int, sequences: int) -> Pipe:
    """Return an empty pipeline."""
    return Pipe(
        np.zeros((stages, ranks, sequences, 2), dtype=np.int64),
        np.zeros((stages, ranks), dtype=np.int64),
        np.zeros(stages),
        np.zeros(stages),
        np.zeros(2, dtype=np.int64),
    )


@compiled_part
def send_through(pipe: Pipe, seconds: F8, now: float) -> float:
    """Let a batch planned now run through the stages; when it starts, its end goes to the ring."""
    start = max(now, pipe.free[0])
    end = start
    for s in range(seconds.size):
        end = max(end, pipe.free[s]) + seconds[s]
        pipe.free[s] = end
    place = (pipe.ring[P_FIRST] + pipe.ring[P_COUNT]) % pipe.ends.size
    pipe.ends[place] = end
    pipe.ring[P_COUNT] += 1
    return float(start)


@compiled_part
def note_work(st: State, pipe: Pipe, place: int, r: int) -> None:
    """Keep what a rank's planned batch holds; its tokens count as cached from here on."""
    size = int64(0)
    for j in range(st.ranks[r, R_RUNNING]):
        i, q = st.running[r, j], st.fresh[r, j]
        if q == 0:
            continue
        request = st.ints[i]
        request[I_CACHED] += q
        request[I_FLIGHT] += 1
        entry = pipe.work[place, r, size]
        entry[W_REQUEST], entry[W_TOKENS] = i, request[I_CACHED] >= request[I_TARGET]
        size += 1
    pipe.sizes[place, r] = size


@compiled_part
def launch(
    plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, pipe: Pipe
) -> bool:  # fmt: skip
    """Plan one more batch and send it off; False where there is nothing to plan."""
    counters, clocks, moments = st.counters, st.clocks, st.moments
    tokens, decodes, used = 0.0, 0.0, 0.0
    counters[C_CHUNKS] = 0
    for r in range(st.ranks.shape[0]):
        counters[C_PREEMPTIONS] += plan_rank(
            st, limits, kv, plan.windows, r, clocks[T_NOW], False
        )  # fmt: skip
        tokens += moments[r, TOKENS]
        decodes += moments[r, DECODES]
        used += kv.capacity - st.free[r]
        clocks[T_KV_PEAK] = max(clocks[T_KV_PEAK], kv.capacity - st.free[r])
    if tokens == 0.0:
        return False
    place = (pipe.ring[P_FIRST] + pipe.ring[P_COUNT]) % pipe.ends.size
    for r in range(st.ranks.shape[0]):
        set_uneven(plan, limits, st, books, r, int64(0))
        note_work(st, pipe, place, r)
    step_seconds(
        plan, moments, counters[C_STEPS], int(decodes), st.chunks, counters[C_CHUNKS], True, books
    )
    sequences = (decodes + counters[C_CHUNKS]) / st.ranks.shape[0]
    books.stages[0] = paced(limits.pace, books.stages[0], sequences)
    for s in range(1, books.stages.size):  # the batch is planned once
        books.stages[s] = max(books.stages[s], limits.pace.launching_s)
    start = send_through(pipe, books.stages, clocks[T_NOW])
    counters[C_STEPS] += 1
    counters[C_PROMPT] += int(tokens - decodes)
    end = pipe.ends[place]
    write_log(st, books.busy, start, end, int64(1), decodes, tokens - decodes, used)
    return True


@compiled_part
def stamp(st: State, work: I8, size: int, now: float, closed_loop: bool) -> None:
    """Stamp the tokens of one rank's part of a batch that ended at `now`."""
    counters = st.counters
    gap, gaps = 0.0, int64(0)
    for j in range(size):
        i = work[j, W_REQUEST]
        request, stamps = st.ints[i], st.floats[i]
        request[I_FLIGHT] -= 1
        if work[j, W_TOKENS] == 0:
            continue  # a prompt that goes on
        counters[C_EMITTED] += 1
        if request[I_GENERATED] == 0:
            stamps[F_FIRST] = now
        else:  # most sequences share their gap: count equal ones together
            own = now - stamps[F_LAST]
            if own != gap and gaps > 0:
                record_gap(st.hist, st.clocks, gap, gaps)
                gaps = int64(0)
            gap = own
            gaps += 1
        stamps[F_LAST] = now
        request[I_GENERATED] += 1
        if request[I_GENERATED] == request[I_OUTPUT]:
            complete(st, i, now, closed_loop)
    if gaps > 0:
        record_gap(st.hist, st.clocks, gap, gaps)


@compiled_part
def land(st: State, kv: KvRules, pipe: Pipe, closed_loop: bool) -> float:
    """Wait for the oldest batch: stamp its tokens, retire what is done; when it ended."""
    place = pipe.ring[P_FIRST]
    now = pipe.ends[place]
    completed = st.counters[C_COMPLETED]
    for r in range(st.ranks.shape[0]):
        stamp(st, pipe.work[place, r], pipe.sizes[place, r], now, closed_loop)
    pipe.ring[P_FIRST] = (place + 1) % pipe.ends.size
    pipe.ring[P_COUNT] -= 1
    if st.counters[C_COMPLETED] == completed:
        return float(now)
    for r in range(st.ranks.shape[0]):
        kept = 0
        for j in range(st.ranks[r, R_RUNNING]):
            i = st.running[r, j]
            if st.ints[i, I_GENERATED] < st.ints[i, I_OUTPUT]:
                st.running[r, kept] = i
                kept += 1
            else:
                drop(st, kv, r, i)
        st.ranks[r, R_RUNNING] = kept
    return float(now)


@compiled
def advance_pipeline(
    plan: Plan, limits: Limits, kv: KvRules, st: State, books: Books, pipe: Pipe, until: float,
    closed_loop: bool, goal: int,
) -> int:  # fmt: skip
    """`loop.advance` with pipeline parallel: a wait that starts before `until` is waited out."""
    counters, clocks = st.counters, st.clocks
    while True:
        now = clocks[T_NOW]
        clocks[T_KNOWN] = now
        arrival = release(st, closed_loop, now, limits.waiting_load)
        if counters[C_RELEASED] == counters[C_COMPLETED]:  # idle: nothing is in flight
            if not arrival < until:
                return REACHED
            clocks[T_NOW] = max(arrival, now)
            continue
        if now >= until:
            return REACHED
        if counters[C_LOG] + plan.stages > st.log.shape[0]:
            return LOG_FULL
        more = True
        while more and pipe.ring[P_COUNT] < plan.stages:
            more = launch(plan, limits, kv, st, books, pipe)
        if pipe.ring[P_COUNT] == 0:
            return STUCK
        completed = counters[C_COMPLETED]
        clocks[T_NOW] = land(st, kv, pipe, closed_loop)
        clocks[T_BUSY] += clocks[T_NOW] - now
        if completed < goal and counters[C_COMPLETED] >= goal:
            return GOAL
