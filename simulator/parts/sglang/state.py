"""State of SGLang's scheduler in addition to the engine's, and its constants."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit_held import held
from ....workloads.records import Records, named, records
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


SCHEDULE = named("decoding full chunked extended last_chunk in_flight flight_chunk running", "")
"""Of a rank: how many of the running ones are in SGLang's running batch (the others are the prompts of the latest step);
whether that batch is full; the request whose prompt is being cut (-1: none); whether the latest step had prompts, and
which of them was cut then; requests of the step whose results are not processed, and which of them brings no token; of a
batch in flight, how many run."""

ADDER = named("input chunk taken pages added cut states", "")
"""Remaining prompt tokens of a step, in all and before one is cut; its tokens; pages, including its decodes; added
requests, and which one was cut (-1: none); entries of `keys` for requests without an end (-1: not computed)."""

MARKS = named("came out", "")
"""Entries to queues so far, and requests that made way in the planned step."""


@held
class Urgent(NamedTuple):
    """What priority scheduling goes by and keeps."""

    threshold: int  # a running request makes way for one more urgent by more than this; below 0: for none
    sign: float  # of a priority: 1 where smaller values are sooner, else -1
    marks: Records  # [1] of `MARKS`
    out: I8  # [B] requests that made way in the planned step


@held
class BatchTurns(NamedTuple):
    """State of each of P batches in flight while another one is active, for R ranks."""

    running: I8  # [P, R, 3B] see `State.running`
    own: Records  # [P, R] of `SCHEDULE`
    slots: I8  # [R] free places for requests that have memory, of all batches together


@held
class Sglang(NamedTuple):
    """State of SGLang's scheduler, in addition to the engine's, for R ranks."""

    rules: Numbers
    tree: Tree
    ranks: Records  # [R] of `SCHEDULE`
    ratio: F8  # [R] share of tokens to come
    adder: Records  # [1] of `ADDER`
    offset: F8  # [1] tokens that admission counts as taken
    keys: F8  # [2, B] scratch
    order: I8  # [2, B] scratch
    urgent: Urgent
    turns: BatchTurns  # of no batches with one stage


def _schedules(room: int | tuple[int, ...]) -> Records:
    rows = records(room, SCHEDULE)
    rows.chunked = rows.last_chunk = rows.flight_chunk = -1
    return rows


def new_sglang(
    numbers: Numbers, ranks: int, pages: int, turns: BatchTurns, threshold: int = -1, sign: float = 1.0
) -> Sglang:
    """The state before the first request; a threshold below 0: without priority scheduling."""
    scratch = max(2 * numbers.sequences, LPM_QUEUE) + 1
    return Sglang(
        numbers,
        new_tree(ranks, pages),
        _schedules(ranks),
        np.full(ranks, numbers.init_ratio),
        records(1, ADDER),
        np.zeros(1),
        np.zeros((2, scratch)),
        np.zeros((2, scratch), dtype=np.int64),
        Urgent(threshold, sign, records(1, MARKS), np.zeros(scratch, dtype=np.int64)),
        turns,
    )


def new_turns(stages: int, ranks: int, sequences: int) -> BatchTurns:
    """Of batches that hold nothing; of none with one stage."""
    stages *= stages > 1
    running = np.zeros((stages, ranks, 3 * sequences + 3), dtype=np.int64)  # with one that is cut beside them
    return BatchTurns(running, _schedules((stages, ranks)), np.full(ranks * (stages > 1), sequences))
