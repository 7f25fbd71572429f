"""State of SGLang's scheduler in addition to the engine's, and its constants.

Options of SGLang's scheduler.

The rules are from SGLang 0.5.9 (sglang/srt/managers/schedule_policy.py, scheduler.py and schedule_batch.py), with the
changes of later versions; `plan` and `cache` apply them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit_address import by_address
from ....workloads.records import Records, named, records
from ...engine.host import LAUNCH_S, OUTSIDE_S, Host
from ...engine.policies import POLICIES, Policy
from ...step.launches import PYTHON, Calls
from .radix import Tree, new_tree

INIT_RATIO, MIN_SHARE, DECAY_STEPS = 0.7, 0.14, 600
"""SGLANG_INIT_NEW_TOKEN_RATIO, _MIN_NEW_TOKEN_RATIO_FACTOR and _NEW_TOKEN_RATIO_DECAY_STEPS (sglang/srt/environ.py)."""
THRESHOLD = 10
"""Default of `priority_scheduling_preemption_threshold` (sglang/srt/server_args.py)."""


@dataclass(frozen=True, slots=True)
class SglangRules:
    """Options of SGLang that its scheduler goes by; the defaults are SGLang's.

    Attributes
    ----------
    max_prefill_tokens : int
        Prompt tokens of a step, unless a single prompt has more.
    chunked_prefill_size : int
        Tokens to which a step's prompts are cut; 0: never.
    mixed : bool
        `enable_mixed_chunk`: decodes run in steps with prompts.
    lpm : bool
        `schedule_policy` lpm, longest prefix first; if not, fcfs.
    radix : bool
        Finished and running requests' pages can be found; not with `disable_radix_cache`.
    overlap : bool
        Results are processed while the next step runs; not with `disable_overlap_schedule`.
    conservativeness : float
        `schedule_conservativeness`, of the estimate of tokens to come.
    priority : bool
        `enable_priority_scheduling`; not with `lpm`.
    low_first : bool
        `schedule_low_priority_values_first`: the smaller a priority, the sooner; if not, the larger.
    threshold : int
        `priority_scheduling_preemption_threshold`: running requests are preempted for waiting ones whose priority is
        better by more than this.
    patch : int
        Version 0.5.`patch`, see `state.ROOMIER` and the constants after it.
    """

    max_prefill_tokens: int = 16_384
    chunked_prefill_size: int = 8192
    mixed: bool = False
    lpm: bool = False
    radix: bool = True
    overlap: bool = True
    conservativeness: float = 1.0
    priority: bool = False
    low_first: bool = False
    threshold: int = THRESHOLD
    patch: int = 9

    @property
    def init_ratio(self) -> float:
        """Share of the tokens to come that running requests are counted with at first."""
        return min(INIT_RATIO * self.conservativeness, 1.0)

    @property
    def min_ratio(self) -> float:
        """The least that it decays to."""
        return min(self.init_ratio * MIN_SHARE, 1.0)

    @property
    def decay(self) -> float:
        """Return the amount by which each decode step reduces the ratio."""
        return (self.init_ratio - self.min_ratio) / DECAY_STEPS

    @property
    def caches(self) -> bool:
        """Return whether computed prompts are cached for later requests (radix cache)."""
        return self.radix

    @property
    def part(self) -> str:
        """Return the name of the part that implements the scheduler."""
        return "sglang"

    @property
    def calls(self) -> Calls:
        """How layers are called from Python."""
        return PYTHON

    @property
    def serial(self) -> bool:
        """A stage's host goes on while its work on a batch runs."""
        return False

    def ordered(self, order: str) -> SglangRules:
        """Return the rules with requests by priority, the smallest number first; SGLang has no other order."""
        return replace(self, priority=True, low_first=True) if order == "priority" else self

    def limited(self, tokens: int) -> SglangRules:
        """Return the same with prompts cut to `tokens` tokens a step."""
        return replace(self, chunked_prefill_size=tokens)

    def decoding(self) -> SglangRules:
        """Return the rules of a decode server: its cache is not a tree (``disaggregation_mode`` decode)."""
        return replace(self, radix=False, lpm=False)

    def verifying(self) -> SglangRules:
        """Return the rules of a server with drafts: results are awaited, and prompts run separately (sglang/srt/server_args.py)."""
        return replace(self, overlap=False, mixed=False)

    def most(self, sequences: int, stages: int) -> int:
        """With stages (``event_loop_pp`` in sglang/srt/managers/scheduler_pp_mixin.py) a cut prompt continues in addition."""
        return sequences + (stages > 1)

    def start(self, ranks: int, sequences: int, pages: int, page: int, stages: int) -> Sglang:
        """Return the state before the first request, with `pages` pages of `page` tokens per rank.

        Of several stages each batch has its share of the sequences (`pp_max_micro_batch_size`), and results are
        waited for.
        """
        numbers = Numbers(
            page, max(sequences // stages, 1), self.max_prefill_tokens, self.chunked_prefill_size, self.mixed,
            self.lpm and self.radix, self.radix, self.init_ratio, self.min_ratio, self.decay, self.patch,
        )  # fmt: skip
        threshold = self.threshold if self.priority else -1
        sign = 1.0 if self.low_first else -1.0
        turns = new_turns(stages, ranks, sequences)
        return new_sglang(numbers, ranks, pages, turns, threshold, sign)

    def widen(self, sglang: Sglang, blocks: int) -> Sglang:
        """Return the state unchanged: its pages are counted, not listed."""
        return sglang

    def spare(self, page: int) -> int:
        """Tokens of room that admission reserves beyond a request's own: a begun page, and in later versions one more."""
        return (2 if self.patch >= ROOMIER else 1) * page + 2


SGLANG = Policy(
    "sglang", 8192, 2048, chunked=True, reserve=False, ahead=True, prompts_alone=True,
    host=Host(launch_s=LAUNCH_S, request_s=OUTSIDE_S), rules=SglangRules(),
)  # fmt: skip
"""SGLang's scheduler (0.5.9) with its defaults on devices of less than 160 GiB (sglang/srt/server_args.py)."""

POLICIES.register("sglang", "SGLang's scheduler: prompts before decodes, radix cache, overlap")(SGLANG)


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


@by_address
class Urgent(NamedTuple):
    """Rules and state of priority scheduling."""

    threshold: int  # a running request makes way for one more urgent by more than this; below 0: for none
    sign: float  # of a priority: 1 where smaller values are sooner, else -1
    marks: Records  # [1] of `MARKS`
    out: I8  # [B] requests that made way in the planned step


@by_address
class BatchTurns(NamedTuple):
    """State of each of P batches in flight while another one is active, for R ranks."""

    running: I8  # [P, R, 3B] see `State.running`
    own: Records  # [P, R] of `SCHEDULE`
    slots: I8  # [R] free places for requests that have memory, of all batches together


@by_address
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
    """Return the turns of batches, all empty; none with one stage."""
    stages *= stages > 1
    running = np.zeros((stages, ranks, 3 * sequences + 3), dtype=np.int64)  # with one that is cut beside them
    return BatchTurns(running, _schedules((stages, ranks)), np.full(ranks * (stages > 1), sequences))
