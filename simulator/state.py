"""State of one engine as arrays: requests, queues and running sets of its ranks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

(C_SUBMITTED, C_OPENED, C_RELEASED, C_COMPLETED, C_STEPS, C_PREEMPTIONS, C_EMITTED, C_PROMPT,
 C_LOG) = range(9)  # fmt: skip
NUM_COUNTERS = 9
"""Requests submitted, given an arrival time (closed loop), arrived and completed; steps run;
preemptions; tokens emitted; prompt tokens processed; rows in the log."""

(T_NOW, T_TBT_SUM, T_TBT_COUNT, T_WARM_TIME, T_WARM_EMITTED, T_WARM_PROMPT, T_KV_PEAK, T_BUSY,
 T_WARM_STEPS, T_WARM_PREEMPTIONS) = range(10)  # fmt: skip
NUM_CLOCKS = 10
"""Now; sum and count of token gaps; end of warm-up and the counters then; peak KV bytes held by
one rank; seconds spent in steps."""

(L_START, L_END, L_STEPS, L_DECODES, L_PREFILL, L_PROMPTS, L_RUNNING, L_WAITING, L_KV) = range(9)
LOG_COLUMNS = (
    "start_s", "end_s", "steps", "decodes", "prefill_tokens", "prompts", "running", "waiting",
    "kv_bytes",
)  # fmt: skip
LOG_ROWS = 65_536

HIST_MIN_S, HIST_RATIO, HIST_BINS = 1e-9, 1.001, 36_864
"""Log histogram of token gaps: 0.1 % bins from 1 ns to over 10^6 s."""


class State(NamedTuple):
    """N requests in order of arrival, R ranks, B sequences a rank at most.

    A request's prompt is `target` tokens (its input, plus what it had generated when it was
    preempted); `cached` of them are in the KV cache. It is in prefill while cached < target.
    Queues are linked lists through `next`.
    """

    arrival: F8  # [N]
    input: I8  # [N]
    output: I8  # [N]
    target: I8  # [N]
    cached: I8  # [N]
    generated: I8  # [N]
    held: F8  # [N] KV bytes on one device
    scheduled: F8  # [N] NaN until it happens, like the next three
    first: F8  # [N]
    last: F8  # [N] latest token
    finished: F8  # [N]
    order: I8  # [N] place among completions, -1 before
    preempted: I8  # [N]
    next: I8  # [N]
    running: I8  # [R, B]
    q: I8  # [R, B]
    n_running: I8  # [R]
    head: I8  # [R]
    tail: I8  # [R]
    n_waiting: I8  # [R]
    free: F8  # [R]
    moments: F8  # [R, M]
    chunk_tokens: I8  # [R * B]
    chunk_seq: I8  # [R * B]
    counters: I8  # [NUM_COUNTERS]
    clocks: F8  # [NUM_CLOCKS]
    hist: I8  # [HIST_BINS]
    log: F8  # [LOG_ROWS, columns]


REQUEST_FIELDS = State._fields[: State._fields.index("running")]
_FILL = {"scheduled": np.nan, "first": np.nan, "last": np.nan, "finished": np.nan, "order": -1,
         "next": -1}  # fmt: skip


def new_state(ranks: int, sequences: int, moments: int, kv_capacity: float) -> State:
    """An engine's state without requests."""
    integers = ("input", "output", "target", "cached", "generated", "order", "preempted", "next")
    requests = {
        name: np.zeros(0, dtype=np.int64 if name in integers else np.float64)
        for name in REQUEST_FIELDS
    }
    return State(
        **requests,
        running=np.zeros((ranks, sequences), dtype=np.int64),
        q=np.zeros((ranks, sequences), dtype=np.int64),
        n_running=np.zeros(ranks, dtype=np.int64),
        head=np.full(ranks, -1, dtype=np.int64),
        tail=np.full(ranks, -1, dtype=np.int64),
        n_waiting=np.zeros(ranks, dtype=np.int64),
        free=np.full(ranks, kv_capacity),
        moments=np.zeros((ranks, moments)),
        chunk_tokens=np.zeros(ranks * sequences, dtype=np.int64),
        chunk_seq=np.zeros(ranks * sequences, dtype=np.int64),
        counters=np.zeros(NUM_COUNTERS, dtype=np.int64),
        clocks=np.zeros(NUM_CLOCKS),
        hist=np.zeros(HIST_BINS, dtype=np.int64),
        log=np.zeros((LOG_ROWS, len(LOG_COLUMNS))),
    )


def grown(st: State, arrival: F8, inputs: I8, outputs: I8) -> State:
    """The state with requests appended; array capacity doubles, so appending is linear."""
    have, new = int(st.counters[C_SUBMITTED]), len(arrival)
    if have + new > len(st.arrival):
        size = max(have + new, 2 * len(st.arrival), 1024)
        bigger = {}
        for name in REQUEST_FIELDS:
            old = getattr(st, name)
            fresh = np.full(size, _FILL.get(name, 0), dtype=old.dtype)
            fresh[:have] = old[:have]
            bigger[name] = fresh
        st = st._replace(**bigger)
    at = slice(have, have + new)
    st.arrival[at], st.input[at], st.output[at], st.target[at] = arrival, inputs, outputs, inputs
    st.counters[C_SUBMITTED] += new
    return st
