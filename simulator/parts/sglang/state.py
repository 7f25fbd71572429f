"""State of SGLang's scheduler in addition to the engine's, and its constants."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit_held import held
from ...batching.radix import Tree, new_tree

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

CLIP = 4096
"""Maximum output tokens that admission counts (CLIP_MAX_NEW_TOKENS in schedule_policy.py)."""

RETRACT_STEPS = 20
"""SGLANG_RETRACT_DECODE_STEPS (sglang/srt/environ.py)."""

LPM_QUEUE, IN_BATCH = 128, 32
"""Longest queue that is sorted by prefix, and tokens in common with an earlier one of the queue from
which a request waits for it (schedule_policy.py)."""


ROOMIER, UNCAPPED, ROOMY_ENDLESS, LENGTHS, LEAVERS = 11, 13, 21, 22, 23
"""First versions 0.5.x of a rule: every prompt is counted with a page more (without a tree from the third on);
`max_prefill_tokens` does not stop prompts if they are cut; known output lengths are counted completely, and requests
with their last token in flight do not run again; ended requests leave before prompts are planned, and a full step
stops. From the wheels of 0.5.9 to 0.5.23."""


class Numbers(NamedTuple):
    """`SglangRules` and what they run with, for the compiled path."""

    page: int
    sequences: int
    max_prefill: int
    chunk: int
    mixed: bool
    lpm: bool
    radix: bool
    init_ratio: float
    min_ratio: float
    decay: float
    patch: int


(S_LIST, S_FULL, S_CHUNKED, S_EXTENDED, S_LAST_CHUNK, S_FLIGHT, S_FLIGHT_CHUNK) = range(7)
NUM_SCHEDULE = 7
"""Columns of `Sglang.ranks`: how many of the running ones are in SGLang's running batch (the others are
the prompts of the latest step); whether that batch is full; the request whose prompt is being cut (-1:
none); whether the latest step had prompts, and which of them was cut then; requests of the step whose
results are not processed, and which of them brings no token."""


(A_INPUT, A_CHUNK, A_TAKEN, A_PAGES, A_ADDED, A_CUT, A_STATES) = range(7)
NUM_ADDER = 7
"""Entries of `Sglang.adder`: remaining prompt tokens of a step, in all and before one is cut; its tokens; pages,
including its decodes; added requests, and which one was cut (-1: none); entries of `keys` for requests without an
end (-1: not computed)."""


(U_CAME, U_OUT) = range(2)
"""Entries of `Urgent.marks`: entries to queues so far, and requests that made way in the planned step."""


@held
class Urgent(NamedTuple):
    """What priority scheduling goes by and keeps."""

    threshold: int  # a running request makes way for one more urgent by more than this; below 0: for none
    sign: float  # of a priority: 1 where smaller values are sooner, else -1
    marks: I8  # [2]
    out: I8  # [B] requests that made way in the planned step


@held
class BatchTurns(NamedTuple):
    """State of each of P batches in flight while another one is active, for R ranks."""

    running: I8  # [P, R, 3B] see `State.running`
    own: I8  # [P, R, NUM_SCHEDULE + 1] see `Sglang.ranks`; then how many run
    slots: I8  # [R] free places for requests that have memory, of all batches together


@held
class Sglang(NamedTuple):
    """State of SGLang's scheduler, in addition to the engine's, for R ranks."""

    rules: Numbers
    tree: Tree
    ranks: I8  # [R, NUM_SCHEDULE]
    ratio: F8  # [R] share of tokens to come
    adder: I8  # [NUM_ADDER] see `adder`
    offset: F8  # [1] tokens that admission counts as taken
    keys: F8  # [2, B] scratch
    order: I8  # [2, B] scratch
    urgent: Urgent
    turns: BatchTurns  # of no batches with one stage


def new_sglang(
    numbers: Numbers, ranks: int, pages: int, turns: BatchTurns, threshold: int = -1, sign: float = 1.0
) -> Sglang:
    """The state before the first request; a threshold below 0: without priority scheduling."""
    schedule = np.zeros((ranks, NUM_SCHEDULE), dtype=np.int64)
    schedule[:, [S_CHUNKED, S_LAST_CHUNK, S_FLIGHT_CHUNK]] = -1
    scratch = max(2 * numbers.sequences, LPM_QUEUE) + 1
    return Sglang(
        numbers,
        new_tree(ranks, pages),
        schedule,
        np.full(ranks, numbers.init_ratio),
        np.zeros(NUM_ADDER, dtype=np.int64),
        np.zeros(1),
        np.zeros((2, scratch)),
        np.zeros((2, scratch), dtype=np.int64),
        Urgent(threshold, sign, np.zeros(2, dtype=np.int64), np.zeros(scratch, dtype=np.int64)),
        turns,
    )


def new_turns(stages: int, ranks: int, sequences: int) -> BatchTurns:
    """Of batches that hold nothing; of none with one stage."""
    stages *= stages > 1
    schedule = np.zeros((stages, ranks, NUM_SCHEDULE + 1), dtype=np.int64)
    schedule[:, :, [S_CHUNKED, S_LAST_CHUNK, S_FLIGHT_CHUNK]] = -1
    running = np.zeros((stages, ranks, 3 * sequences + 3), dtype=np.int64)  # with one that is cut beside them
    return BatchTurns(running, schedule, np.full(ranks * (stages > 1), sequences))
