"""State of one engine as arrays: requests, queues and running sets of its ranks.

What belongs together lies together, one row a request: the inner loop then touches one or two cache lines of a request,
and compiled functions take few arrays (each one more costs compile time in every function that it passes through).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from ...workloads.jit_held import held
from ..step.timed import Costs, costs_of
from .host import NO_FRONT, idle_front
from .pages import new_rows, runs
from .prefix import Pool, new_pool

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

(I_TARGET, I_CACHED, I_GENERATED, I_OUTPUT, I_ROOM, I_NEXT, I_INPUT, I_ORDER, I_PREEMPTED, I_FLIGHT,
 I_NOTED, I_DONE, I_ROW, I_SLOT, I_BLOCKS, I_KEYED, I_HASHES, I_HASHED) = range(18)  # fmt: skip
NUM_PLAIN, NUM_INTS = 13, 18
"""Columns of `State.ints`: prompt to process (the input, plus what had been generated when the request was preempted)
and how many of its tokens are in the KV cache; tokens generated, and to generate; longest sequence that the held KV
bytes cover; next in its queue; input; place among completions (-1 before); preemptions. With asynchronous scheduling:
tokens that its batches in flight on several stages will bring; tokens of it whose content was known at its latest plan.
Then, not of the row's own request: in row k, the k-th request to complete. Its number k in the run's table, -1 - k once
its completion had its effects. Behind `NUM_PLAIN`, there with prefix caching only: row of `Pool.held`, blocks in it,
leading ones whose content is noted; start in `Pool.hashes` or the session (`prefix.named`), and tokens that hashes
cover."""

(F_ARRIVAL, F_SCHEDULED, F_FIRST, F_LAST, F_HELD, F_KEY) = range(6)
NUM_FLOATS = 6
"""Columns of `State.floats`: times [s], NaN until they happen, `F_LAST` being the latest token's;
KV bytes held on one device; key of the policy's order."""

(R_RUNNING, R_WAITING, R_HEAD, R_TAIL, R_LEFT, R_LATE, R_BLOCKS, R_SLOTS) = range(8)
NUM_RANK = 8
"""Columns of `State.ranks`: sequences running and waiting; first and last of the queue (-1 if
empty); fewest tokens that any running sequence still has to generate; finished ones that the next plan
does not know of yet; free blocks and slots of the pool."""

(C_SUBMITTED, C_RELEASED, C_COMPLETED, C_STEPS, C_PREEMPTIONS, C_EMITTED, C_PROMPT,
 C_LOG, C_CHUNKS, C_HITS, C_POLL, C_WAITED, C_WALK, C_STRETCH, C_LOW, C_REFUSED) = range(16)  # fmt: skip
NUM_COUNTERS = 16
"""Requests submitted, arrived and completed; steps; preemptions; emitted tokens; processed prompt tokens; rows in
the log; planned prompt chunks; prompt tokens found in the prefix cache; decode-only steps since the last poll; plans
that let waiting prompts wait; last arrived row; steps of the latest fast-forward; rows below which all are finished;
rejected requests."""

(T_NOW, T_TBT_SUM, T_TBT_COUNT, T_KV_PEAK, T_BUSY, T_KNOWN, T_CALM) = range(7)
NUM_CLOCKS = 7
"""Now; sum and count of token gaps; peak KV bytes held by one rank; seconds spent in steps; up to when
arrivals are known to the next plan; before when nothing but decoding happens unless a request comes (0: unknown)."""

(L_START, L_END, L_STEPS, L_DECODES, L_PREFILL, L_PROMPTS, L_RUNNING, L_WAITING, L_KV, L_EMITTED, L_JOULES) = range(11)
NUM_LOG = 11
LOG_COLUMNS = (
    "start_s", "end_s", "steps", "decodes", "prefill_tokens", "prompts", "running", "waiting",
    "kv_bytes", "output_tokens", "joules",
)  # fmt: skip
"""Columns of `State.log`, followed by the busy device-seconds of each processor and of links. Emitted tokens and
joules are running totals of the engine at the end of the fast-forwarded steps, joules at the nominal clock; for a
pipeline, tokens at their start."""

FEWEST_ROWS = 64
"""Requests that an engine has room for at first."""

LOG_ROWS = 128
"""Fast-forwards between two returns to Python, which handles signals and progress: few enough for quick interrupts,
many enough that returning is cheap. A pipeline logs one per stage (`layout.MOST_STAGES`)."""

HIST_MIN_S, HIST_RATIO, HIST_BINS = 1e-9, 1.001, 36_864
"""Log histogram of token gaps: 0.1 % bins from 1 ns to over 10^6 s."""


@held
class State(NamedTuple):
    """N requests in order of arrival, R ranks, B sequences a rank at most.

    A request is in prefill while fewer than its target tokens are cached. Queues are linked lists through `I_NEXT`.
    """

    ints: I8  # [N, NUM_INTS or NUM_PLAIN]
    floats: F8  # [N, NUM_FLOATS]
    running: I8  # [R, 3B] requests in order of admission; from B on, finished ones (`R_LATE`), and
    # from 2B on how many of the running ones were admitted before each of those
    fresh: I8  # [R, B] new tokens of each in the planned step
    ranks: I8  # [R, NUM_RANK]
    free: F8  # [R] KV bytes of one device
    moments: F8  # [R, M] of the planned batch
    chunks: I8  # [2, R * B] tokens and request of every prompt chunk of the step
    counters: I8  # [NUM_COUNTERS]
    clocks: F8  # [NUM_CLOCKS]
    hist: I8  # [HIST_BINS]
    log: F8  # [LOG_ROWS, columns]
    pool: Pool  # of no blocks without prefix caching
    front: npt.NDArray[Any]  # [1] of `host.FRONT`
    costs: Costs = costs_of(None)
    hooks: Any = None  # of `hooks.Hooks`, which an engine sets


def new_state(
    ranks: int, sequences: int, moments: int, kv_capacity: float, blocks: int = 0, processors: int = 1
) -> State:
    """Return an engine's state without requests; `blocks` of a pool with prefix caching, which is yet to be stocked."""
    rank_rows = np.zeros((ranks, NUM_RANK), dtype=np.int64)
    rank_rows[:, [R_HEAD, R_TAIL]] = -1
    rank_rows[:, R_BLOCKS], rank_rows[:, R_SLOTS] = blocks, sequences
    return State(
        ints=np.zeros((0, NUM_INTS if blocks else NUM_PLAIN), dtype=np.int64),
        floats=np.zeros((0, NUM_FLOATS)),
        running=np.zeros((ranks, 3 * sequences), dtype=np.int64),
        fresh=np.zeros((ranks, sequences), dtype=np.int64),
        ranks=rank_rows,
        free=np.full(ranks, kv_capacity),
        moments=np.zeros((ranks, moments)),
        chunks=np.zeros((2, ranks * sequences), dtype=np.int64),
        counters=np.zeros(NUM_COUNTERS, dtype=np.int64),
        clocks=np.zeros(NUM_CLOCKS),
        hist=np.zeros(HIST_BINS, dtype=np.int64),
        log=np.zeros((LOG_ROWS, NUM_LOG + processors + 1)),
        pool=new_pool(ranks, 0, sequences if blocks else 1),
        front=idle_front(NO_FRONT),
    )


LASTING = [C_EMITTED, C_HITS, C_PREEMPTIONS, C_PROMPT, C_STEPS]
"""Counters of what an engine has done, which outlast its failures."""


def outlasting(old: State, new: State, now: float) -> State:
    """A state without requests that goes on from one that failed at a time: its books and its clock."""
    new.counters[LASTING] = old.counters[LASTING]
    old.clocks[[T_NOW, T_KNOWN]], old.clocks[T_CALM] = now, 0.0
    return new._replace(clocks=old.clocks, hist=old.hist, log=old.log)


def roomier(state: State, size: int) -> State:
    """Return a state with room for `size` requests; freed rows (`pages`) stay without memory."""
    low, have = int(state.counters[C_LOW]), int(state.counters[C_SUBMITTED])
    ints, floats = (
        new_rows((size, state.ints.shape[1]), np.int64, low > 0),
        new_rows((size, NUM_FLOATS), np.float64, low > 0),
    )
    for first, last in runs(state.ints[low:have, I_OUTPUT] > 0):
        used_rows = slice(low + first, low + last)
        ints[used_rows], floats[used_rows] = state.ints[used_rows], state.floats[used_rows]
    return state._replace(ints=ints, floats=floats)


def grown(state: State, arrival: F8, inputs: I8, outputs: I8, keys: F8) -> State:
    """Append requests, with keys of the policy's order; the arrays' capacity doubles, so that appending is linear.

    Rows are written only when they are taken: what is spare costs addresses, not memory.
    """
    have, new = int(state.counters[C_SUBMITTED]), len(arrival)
    if have + new > len(state.ints):
        state = roomier(state, max(have + new, 2 * len(state.ints), FEWEST_ROWS))
    rows, stamps = state.ints[have : have + new], state.floats[have : have + new]
    rows[:], stamps[:] = 0, np.nan
    rows[:, I_ORDER] = rows[:, I_NEXT] = -1
    rows[:, I_SLOT : I_SLOT + 1] = -1  # where there is one
    rows[:, I_INPUT] = rows[:, I_TARGET] = inputs
    rows[:, I_OUTPUT] = outputs
    stamps[:, F_ARRIVAL], stamps[:, F_HELD], stamps[:, F_KEY] = arrival, 0.0, keys
    state.counters[C_SUBMITTED] += new
    return state


@compiled_part
def append_request(state: State, arrival: float, tokens: int, output: int) -> int:
    """`grown` by one request without a key, where there is room; its row."""
    i = state.counters[C_SUBMITTED]
    state.counters[C_SUBMITTED] += 1
    request, stamps = state.ints[i], state.floats[i]
    for c in range(request.size):
        request[c] = 0
    for c in range(stamps.size):
        stamps[c] = np.nan
    request[I_ORDER] = request[I_NEXT] = -1
    if request.size > NUM_PLAIN:
        request[I_SLOT] = -1
    request[I_INPUT] = request[I_TARGET] = tokens
    request[I_OUTPUT] = output
    stamps[F_ARRIVAL], stamps[F_HELD], stamps[F_KEY] = arrival, 0.0, 0.0
    return int(i)
