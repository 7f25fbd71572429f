"""Options and state of SGLang's scheduler, in addition to the engine's state, and its constants.

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
    """Options of SGLang's scheduler; the defaults are SGLang's.

    Attributes
    ----------
    max_prefill_tokens : int
        Maximum prompt tokens of a step, except for a single longer prompt.
    chunked_prefill_size : int
        Prompt tokens of a step at which prompts are cut; 0: prompts are never cut.
    mixed : bool
        `enable_mixed_chunk`: decodes run in steps with prompts.
    lpm : bool
        `schedule_policy` lpm (longest prefix first); otherwise fcfs.
    radix : bool
        Pages of finished and running requests are cached; False with `disable_radix_cache`.
    overlap : bool
        Results are processed while the next step runs; False with `disable_overlap_schedule`.
    conservativeness : float
        `schedule_conservativeness`, a factor of the estimate of future output tokens.
    priority : bool
        `enable_priority_scheduling`; cannot be combined with `lpm`.
    low_first : bool
        `schedule_low_priority_values_first`: smaller priority values are first; otherwise larger ones.
    threshold : int
        `priority_scheduling_preemption_threshold`: a running request is preempted for a waiting request whose priority
        is better by more than this.
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
        """Initial share of the remaining output tokens of running requests that admission counts."""
        return min(INIT_RATIO * self.conservativeness, 1.0)

    @property
    def min_ratio(self) -> float:
        """Minimum to which this share decays."""
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
        """Whether a stage's host waits for its work on a batch: False, it continues."""
        return False

    def ordered(self, order: str) -> SglangRules:
        """Return the rules with requests by priority, the smallest number first; SGLang has no other order."""
        return replace(self, priority=True, low_first=True) if order == "priority" else self

    def limited(self, tokens: int) -> SglangRules:
        """Return the rules with prompts cut at `tokens` tokens per step."""
        return replace(self, chunked_prefill_size=tokens)

    def decoding(self) -> SglangRules:
        """Return the rules of a decode server: its cache is not a tree (``disaggregation_mode`` decode)."""
        return replace(self, radix=False, lpm=False)

    def verifying(self) -> SglangRules:
        """Return the rules of a server with drafts: it waits for results, and prompts run in separate steps (server_args.py)."""
        return replace(self, overlap=False, mixed=False)

    def most(self, sequences: int, stages: int) -> int:
        """Return the maximum of running requests; with pipeline stages a cut prompt runs in addition (``event_loop_pp``)."""
        return sequences + (stages > 1)

    def start(self, ranks: int, sequences: int, pages: int, page: int, stages: int) -> Sglang:
        """Return the state before the first request, with `pages` pages of `page` tokens per rank.

        With several stages each batch has its share of the sequences (`pp_max_micro_batch_size`), and the scheduler waits for
        results.
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
        """Return the extra tokens that admission reserves: an incomplete page, and another page in later versions."""
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
"""Longest queue that is sorted by prefix, and the number of tokens shared with an earlier request of the queue from which a
request waits for it (schedule_policy.py).
"""


ROOMIER, UNCAPPED, ROOMY_ENDLESS, LENGTHS, LEAVERS = 11, 13, 21, 22, 23
"""First versions 0.5.x of a rule.

`ROOMIER`: admission adds a page to every prompt; `ROOMY_ENDLESS`: also without a tree. `UNCAPPED`: `max_prefill_tokens`
does not stop prompts if they are cut. `LENGTHS`: known output lengths are counted completely, and requests with their last
token in flight do not run again. `LEAVERS`: finished requests are removed before prompts are planned, and a full step stops
admission. From the wheels of 0.5.9 to 0.5.23.
"""


class Numbers(NamedTuple):
    """`SglangRules` with page size and maximum sequences, for the compiled path."""

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
"""Fields of a rank.

`decoding` counts the requests in SGLang's running batch; the other running requests are the prompts of the latest step.
`full` says whether that batch is full, and `chunked` which request's prompt is being cut (-1: none). `extended` says whether
the latest step had prompts, and `last_chunk` which of them was cut. `in_flight` counts the requests of the step whose results
are not processed; `flight_chunk` is the one among them without a token. `running` counts a batch in flight.
"""

ADDER = named("input chunk taken pages added cut states", "")
"""Fields of a step's budgets: remaining prompt tokens, in total and until a prompt is cut; its tokens; its pages, including
decodes; added requests, and the request that was cut (-1: none); entries of `keys` without a tree (-1: not computed).
"""

MARKS = named("came out", "")
"""Entries to queues so far, and the number of requests preempted in the planned step."""


@by_address
class Urgent(NamedTuple):
    """Options and state of priority scheduling."""

    threshold: int  # minimum difference of keys for a preemption (exclusive); below 0: no preemption
    sign: float  # factor of a priority in its key: 1 if smaller values are first, else -1
    marks: Records  # [1] of `MARKS`
    out: I8  # [B] requests preempted in the planned step


@by_address
class BatchTurns(NamedTuple):
    """Saved state of each of P batches in flight while another batch is active, for R ranks."""

    running: I8  # [P, R, 3B] see `State.running`
    own: Records  # [P, R] of `SCHEDULE`
    slots: I8  # [R] request slots with memory that are free, over all batches


@by_address
class Sglang(NamedTuple):
    """State of SGLang's scheduler for R ranks, in addition to the engine's state."""

    rules: Numbers
    tree: Tree
    ranks: Records  # [R] of `SCHEDULE`
    ratio: F8  # [R] share of the remaining output tokens that admission counts
    adder: Records  # [1] of `ADDER`
    offset: F8  # [1] tokens that admission counts as used
    keys: F8  # [2, B] scratch
    order: I8  # [2, B] scratch
    urgent: Urgent
    turns: BatchTurns  # empty with one stage


def _schedules(room: int | tuple[int, ...]) -> Records:
    rows = records(room, SCHEDULE)
    rows.chunked = rows.last_chunk = rows.flight_chunk = -1
    return rows


def new_sglang(
    numbers: Numbers, ranks: int, pages: int, turns: BatchTurns, threshold: int = -1, sign: float = 1.0
) -> Sglang:
    """Build the state before the first request; a threshold below 0 means no priority scheduling."""
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
    """Return empty batches for each stage; no batches with one stage."""
    stages *= stages > 1
    running = np.zeros((stages, ranks, 3 * sequences + 3), dtype=np.int64)  # with one prompt that is cut in addition
    return BatchTurns(running, _schedules((stages, ranks)), np.full(ranks * (stages > 1), sequences))
