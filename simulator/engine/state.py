"""State of one engine as arrays: requests, queues and running sets of its ranks.

All fields of a request are in one row of an array of records. So the inner loop reads one or two CPU cache lines per
request, and compiled functions have few array arguments; each argument costs compile time in every function that passes it on.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError
from ...workloads.jit import compiled_part
from ...workloads.jit_address import by_address
from ...workloads.pages import new_rows, runs
from ...workloads.records import Records, named, records
from ...workloads.requests import RequestBlock
from ..step.timed import Costs, costs_of
from .host import NO_FRONT, idle_front
from .kv import KvRules
from .prefix import ALL_TOKENS, Pool, new_pool, session_key

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

Status = IntEnum("Status", "AGAIN REACHED LOG_FULL STUCK GOAL", start=-1)
"""Why a step or `advance` stopped.

`AGAIN`: it has not stopped. `REACHED`: the requested time is reached. `LOG_FULL`: the log must be emptied. `STUCK`: no
sequence can run, which is a bug. `GOAL`: the requested number of completions is reached.
"""

RESTS, RESTING = 17, -2
"""`RESTS`: status if all submitted requests have arrived and the run will submit more (`fleet.growing`). `RESTING`:
value of `goal` with which the engine stops at that point.
"""

GO = -2
"""Status after a scheduler's preparations: the next step can run."""

REQUEST = named(
    "target cached generated output covered next input order preempted in_flight noted done row",
    "arrival scheduled first last kv_bytes key",
)
"""Fields of a request; lengths in tokens.

`input`, `output`: tokens of its prompt, and tokens to generate. `generated`: tokens generated so far. `target`: tokens
to prefill (the input, plus the tokens generated before a preemption). `cached`: tokens in the KV cache. `covered`:
longest sequence for which `kv_bytes` suffices. `next`: next request in its queue (-1: none). `order`: place among
completions (-1: not completed). `preempted`: number of preemptions.

With asynchronous scheduling: `in_flight`, tokens that its batches in flight on several stages will bring; `noted`, its
tokens with known content at its latest plan. `done` does not describe this request: row k has the k-th request to
complete. `row`: its row k in the run's table; -1 - k once the events of its completion have been processed.

`arrival`, `scheduled`, `first`, `last`: times [s], NaN before they happen; `last` is the time of its latest token.
`kv_bytes`: its KV cache on one device [B]. `key`: sort key of the policy's order.
"""

CONTENT = named("slot blocks keyed hashes hashed hits", "")
"""Fields of a request with prefix caching.

`slot`: its row of `Pool.held`. `blocks`: number of blocks in this row. `keyed`: number of leading blocks whose content
is noted.
`hashes`: its start in `Pool.hashes`, or its session (`prefix.session_key`). `hashed`: tokens that its hashes cover.
`hits`: prompt tokens found in the cache when it was first admitted, which engines report to its client.
"""

RANK = named("running waiting head tail least_left late blocks slots", "")
"""Fields of a rank.

`running`, `waiting`: number of sequences. `head`, `tail`: first and last request of the queue (-1 if empty).
`least_left`: fewest tokens that any running sequence still has to generate. `late`: number of finished sequences that
the next plan does not know of yet. `blocks`, `slots`: number of free blocks and free slots of the pool.
"""

COUNTERS = named(
    "submitted released completed steps preemptions emitted prompt_tokens logged chunks hits poll waited walk "
    "fast_forward low refused",
    "",
)
"""Counters of an engine.

`submitted`, `released`, `completed`: requests submitted, queued on arrival, and completed. `steps`, `preemptions`: their
numbers.
`emitted`: output tokens. `prompt_tokens`: processed prompt tokens. `logged`: rows in the log. `chunks`: planned prompt
chunks. `hits`: prompt tokens found in the prefix cache. `poll`: decode-only steps since the last poll. `waited`: plans
that let waiting prompts wait. `walk`: row of the next arrival. `fast_forward`: steps of the latest fast-forward. `low`:
all requests in rows below it are finished. `refused`: rejected requests.
"""

CLOCKS = named("", "now gap_sum gap_count kv_peak busy known calm")
"""Clocks and sums of an engine [s].

`now`: time that the engine has reached. `gap_sum`, `gap_count`: sum and number of gaps between tokens. `kv_peak`: most KV
bytes in use on one rank [B]. `busy`: time spent in steps. `known`: the next plan knows the arrivals up to this time.
`calm`: until this time the engine only decodes, unless a request arrives (0: unknown).
"""

LogColumn = IntEnum("LogColumn", "START END STEPS DECODES PREFILL PROMPTS RUNNING WAITING KV EMITTED JOULES", start=0)
NUM_LOG = 11
LOG_COLUMNS = (
    "start_s", "end_s", "steps", "decodes", "prefill_tokens", "prompts", "running", "waiting",
    "kv_bytes", "output_tokens", "joules",
)  # fmt: skip
"""Columns of `State.log`, followed by the busy device-seconds of each processor and of links.

`output_tokens` and `joules` are running totals of the engine at the end of the fast-forwarded steps; with several
pipeline stages, `output_tokens` at their start. `joules` is for the nominal clock.
"""

FEWEST_ROWS = 64
"""Number of request rows that an engine allocates at first."""

LOG_ROWS = 128
"""Rows of the log, one for each fast-forward; a pipeline writes one per stage (`layout.MOST_STAGES`).

When the log is full, compiled code returns to Python, which handles signals and progress. The size is a compromise
between quick interrupts and cheap returns.
"""

HIST_MIN_S, HIST_RATIO, HIST_BINS = 1e-9, 1.001, 36_864
"""Log histogram of token gaps: 0.1 % bins from 1 ns to over 10^6 s."""


@by_address
class State(NamedTuple):
    """N requests in order of arrival, R ranks, B sequences a rank at most.

    A request is in prefill while fewer than its target tokens are cached. Queues are linked lists through `next`.
    """

    requests: Records  # [N] of `REQUEST`
    contents: Records  # [N] of `CONTENT`; none without prefix caching
    running: I8  # [R, 3B] running requests in order of admission; from B on, the finished ones (`late`); from 2B on,
    # for each finished one the number of running requests that were admitted before it
    fresh: I8  # [R, B] new tokens of each in the planned step
    ranks: Records  # [R] of `RANK`
    free: F8  # [R] KV bytes of one device
    moments: F8  # [R, M] of the planned batch
    chunks: I8  # [2, R * B] tokens and request of every prompt chunk of the step
    counters: Records  # [1] of `COUNTERS`
    clocks: Records  # [1] of `CLOCKS`
    hist: I8  # [HIST_BINS]
    log: F8  # [LOG_ROWS, columns]
    pool: Pool  # without prefix caching it has no blocks
    front: npt.NDArray[Any]  # [1] of `host.FRONT`
    costs: Costs = costs_of(None)
    hooks: Any = None  # `hooks.Hooks`, set by the engine


def new_state(
    ranks: int, sequences: int, moments: int, kv_capacity: float, blocks: int = 0, processors: int = 1
) -> State:
    """Return an engine's state without requests; `blocks` free blocks per rank for prefix caching (`prefix.stocked` allocates them)."""
    rank_rows = records(ranks, RANK)
    rank_rows.head = rank_rows.tail = -1
    rank_rows.blocks, rank_rows.slots = blocks, sequences
    return State(
        requests=records(0, REQUEST),
        contents=records(FEWEST_ROWS if blocks else 0, CONTENT),
        running=np.zeros((ranks, 3 * sequences), dtype=np.int64),
        fresh=np.zeros((ranks, sequences), dtype=np.int64),
        ranks=rank_rows,
        free=np.full(ranks, kv_capacity),
        moments=np.zeros((ranks, moments)),
        chunks=np.zeros((2, ranks * sequences), dtype=np.int64),
        counters=records(1, COUNTERS),
        clocks=records(1, CLOCKS),
        hist=np.zeros(HIST_BINS, dtype=np.int64),
        log=np.zeros((LOG_ROWS, NUM_LOG + processors + 1)),
        pool=new_pool(ranks, 0, sequences if blocks else 1),
        front=idle_front(NO_FRONT),
    )


LASTING = ["emitted", "hits", "preemptions", "prompt_tokens", "steps"]
"""Counters of an engine's work that a failure does not reset."""


def outlasting(old: State, new: State, now: float) -> State:
    """Return an empty state that continues the counters and the clock of an engine that failed at `now`."""
    new.counters[LASTING] = old.counters[LASTING]
    clocks = old.clocks[0]
    clocks.now = clocks.known = now
    clocks.calm = 0.0
    return new._replace(clocks=old.clocks, hist=old.hist, log=old.log)


def roomier(state: State, size: int) -> State:
    """Return a state enlarged to `size` requests; rows of finished requests (`pages`) use no memory."""
    low, have = int(state.counters[0].low), int(state.counters[0].submitted)
    rows = [new_rows(size, old.dtype, low > 0).view(np.recarray) for old in (state.requests, state.contents)]
    if not len(state.contents):
        rows[1] = state.contents
    for first, last in runs(state.requests.output[low:have] > 0):
        used_rows = slice(low + first, low + last)
        for new, old in zip(rows, state[:2], strict=True):
            new[used_rows] = old[used_rows]
    return state._replace(requests=rows[0], contents=rows[1])


def grown(state: State, arrival: F8, inputs: I8, outputs: I8, keys: F8) -> State:
    """Append requests, with keys of the policy's order; the arrays' capacity doubles, so that appending is linear.

    Unused rows are not written, so they use address space but no memory.
    """
    have, new = int(state.counters[0].submitted), len(arrival)
    if have + new > len(state.requests):
        state = roomier(state, max(have + new, 2 * len(state.requests), FEWEST_ROWS))
    rows = state.requests[have : have + new]
    contents = state.contents[have : have + new]
    rows[:] = contents[:] = 0
    contents.slot = rows.order = rows.next = -1
    rows.scheduled = rows.first = rows.last = np.nan
    rows.input = rows.target = inputs
    rows.output = outputs
    rows.arrival, rows.key = arrival, keys
    state.counters[0].submitted += new
    return state


@compiled_part
def count_hits(state: State, index: int) -> None:
    """Count the tokens that an admitted request has in the KV cache as found in the prefix cache."""
    request = state.requests[index]
    state.counters[0].hits += request.cached
    if request.preempted == 0:
        state.contents[index].hits = request.cached


@compiled_part
def append_request(state: State, arrival: float, tokens: int, output: int) -> int:
    """Append one request without a key to arrays with a free row; return its row."""
    i = state.counters[0].submitted
    state.counters[0].submitted += 1
    request = state.requests[i]
    request.cached = request.generated = request.covered = request.preempted = 0
    request.in_flight = request.noted = request.done = request.row = 0
    request.order = request.next = -1
    request.scheduled = request.first = request.last = np.nan
    if state.contents.size > 0:
        content = state.contents[i]
        content.slot = -1
        content.blocks = content.keyed = content.hashes = content.hashed = content.hits = 0
    request.input = request.target = tokens
    request.output = output
    request.arrival, request.kv_bytes, request.key = arrival, 0.0, 0.0
    return int(i)


@by_address
class Face(NamedTuple):
    """View of an engine for code outside it, the same for all kinds of engines."""

    requests: Records
    ranks: Records
    counters: Records
    clocks: Records
    log: F8
    links: F8  # [R, L, 2] `TierState.free_s`; zeros without KV tiers
    exchanged: F8  # `Aside.busy`; zeros without disaggregated experts


def check_hashes(kv_rules: KvRules, block: RequestBlock) -> None:
    """Refuse prefix hashes whose token count is not a multiple of the KV block.

    Raises
    ------
    InputError
    """
    known = block.hash_ids is not None or block.turns is not None
    if kv_rules.cached and known and block.hash_tokens % kv_rules.block:
        raise InputError(
            "block_size", f"must divide the {block.hash_tokens} tokens of a prefix hash, not be {kv_rules.block}"
        )


@dataclass(slots=True)
class Contents:
    """Integer for each prefix hash of a trace, numbered in order of first use."""

    numbers: dict[Hashable, int] = field(default_factory=dict)
    used: int = 0  # entries of `Pool.hashes` that are taken

    def name(self, block: RequestBlock, state: State, pool: Pool) -> State:
        """Set the content keys of requests just added, from a trace's hashes or their session; return the new state."""
        ids, counters = block.hash_ids, state.counters[0]
        rows = state.contents[int(counters.submitted) - len(block) : counters.submitted]
        if ids is None:
            if block.turns is not None:
                rows.hashes = session_key(block.turns.session)
                rows.hashed = block.input_tokens + block.output_tokens
            return state
        numbers = [self.numbers.setdefault(h, len(self.numbers)) for own in ids for h in own]
        counts = np.array([len(own) for own in ids], dtype=np.int64)
        first, last = self.used, self.used + len(numbers)
        rows.hashes = first + np.cumsum(counts) - counts
        shared = ALL_TOKENS if block.shared_tokens is None else block.shared_tokens
        rows.hashed = np.minimum(np.minimum(counts * block.hash_tokens, block.input_tokens), shared)
        if block.shared_tokens is not None and block.turns is not None:
            rows.hashed = block.input_tokens + block.output_tokens
        pool = pool._replace(piece=block.hash_tokens, shared=shared)
        if last > len(pool.hashes):  # doubled, so that adding is linear
            pool = pool._replace(hashes=np.resize(pool.hashes, 2 * last))
        pool.hashes[first:last] = numbers
        self.used = last
        return state._replace(pool=pool)
