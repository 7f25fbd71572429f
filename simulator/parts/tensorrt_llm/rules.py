"""Options and state of TensorRT-LLM's executor, in addition to the engine's state.

The rules are from the PyTorch backend of 1.2 (tensorrt_llm/_torch/pyexecutor/py_executor.py) and its C++ code
(capacityScheduler.cpp, microBatchScheduler.cpp and kvCacheManager.cpp in cpp/tensorrt_llm/batch_manager); `plan` and
`blocks` apply them.
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
from ...step.launches import TRTLLM_CALLS, Calls

I8 = npt.NDArray[np.int64]


class TrtNumbers(NamedTuple):
    """`TrtllmRules`, block size, requests of a step, active requests, and steps of memory look-ahead; for the compiled path."""

    block: int
    requests: int
    active: int
    looks: int
    tokens: int
    chunked: bool
    evicts: bool
    reuse: bool
    wait_steps: int
    wait_tokens: int
    even: bool
    even_steps: int
    even_batches: int
    serial: bool


BLOCK = named("users key parent child next before mark", "")
"""Fields of a block.

`users` counts the sequences that have it. `key` is the key of its content in the tree (0: not in it), `parent` the block
before it there, `child` its first child, `next` and `before` its siblings (-1: none). `mark` counts the sequences with it
that the present plan will pause.
"""

WAITED = named("waited batched", "")
"""Plans in which prompts waited, and plans in which they then waited for more prompts on every rank."""

SCHEDULE = named("free slots in_flight", "")
"""Fields of a rank: free blocks; free rows of `held`; requests of the step whose results are not processed."""

LINK = named("next previous", "")
"""Fields of a free block: the block freed after it and the block freed before it."""


@by_address
class Flights(NamedTuple):
    """Saved requests of each of P batches in flight while another batch is active, for R ranks."""

    running: I8  # [P, R, 3B] see `State.running`; only the last two lists are used
    sizes: I8  # [P, R] number of requests of each batch


@by_address
class Trtllm(NamedTuple):
    """State of TensorRT-LLM's executor: R ranks with N blocks, B requests with at most W blocks each."""

    rules: TrtNumbers
    blocks: Records  # [R, N] of `BLOCK`
    links: Records  # [R, N+1] of `LINK`: free blocks, the one freed longest ago first; the last row is head and tail
    table: I8  # [R, T, 3] key, parent, block + 1
    held: I8  # [R, B, W+1] blocks of each row; the last column is the stack of free rows
    ranks: Records  # [R] of `SCHEDULE`
    told: I8  # [2, B] scratch: contents that prompts of the present plan will insert into the tree
    wanted: I8  # [R, B] scratch: whether memory suffices for each request
    waited: Records  # [1] of `WAITED`
    flights: Flights  # empty with one stage


def new_trtllm(numbers: TrtNumbers, ranks: int, blocks: int, stages: int) -> Trtllm:
    """Build the state before the first request."""
    rows, ring = numbers.active, np.arange(blocks + 1)
    stages *= stages > 1
    running, sizes = np.zeros((stages, ranks, 3 * rows), dtype=np.int64), np.zeros((stages, ranks), dtype=np.int64)
    links = records((ranks, blocks + 1), LINK)
    links.next, links.previous = (ring + 1) % (blocks + 1), (ring - 1) % (blocks + 1)
    schedule = records(ranks, SCHEDULE)
    schedule.free, schedule.slots = blocks, rows
    table = np.zeros((ranks, 1 << int(2 * blocks).bit_length(), 3), dtype=np.int64)
    content = records((ranks, blocks), BLOCK)
    content.parent = content.child = content.next = content.before = -1
    blocks_of = np.zeros((ranks, rows, 1), dtype=np.int64)
    blocks_of[:, :, -1] = np.arange(rows)[::-1]
    return Trtllm(
        numbers, content, links, table, blocks_of, schedule, np.zeros((2, rows + 1), dtype=np.int64),
        np.zeros((ranks, rows), dtype=np.int64), records(1, WAITED),
        Flights(running, sizes),
    )  # fmt: skip


def widened(trtllm: Trtllm, width: int) -> Trtllm:
    """Return the state with rows for requests of `width` blocks."""
    ranks, rows, have = trtllm.held.shape
    if width < have:
        return trtllm
    blocks_of = np.zeros((ranks, rows, width + 1), dtype=np.int64)
    blocks_of[:, :, : have - 1], blocks_of[:, :, -1] = trtllm.held[:, :, :-1], trtllm.held[:, :, -1]
    return trtllm._replace(held=blocks_of)


@dataclass(frozen=True, slots=True)
class TrtllmRules:
    """Options of TensorRT-LLM's executor; the defaults are its own.

    Attributes
    ----------
    max_num_tokens : int
        Maximum tokens of a step.
    chunked : bool
        `enable_chunked_prefill`: prompts are cut to the remaining tokens of a step, at whole blocks, in order of arrival.
    evicts : bool
        `capacity_scheduler_policy` MAX_UTILIZATION; otherwise GUARANTEED_NO_EVICT.
    reuse : bool
        `enable_block_reuse`.
    overlap : bool
        Results are processed while the next step runs; False with `disable_overlap_scheduler`.
    wait_steps, wait_tokens : int
        `batch_wait_timeout_iters`, and `batch_wait_max_tokens_ratio` times a step's tokens: prompts wait for this many
        steps or tokens while other requests decode. With 0 steps they never wait.
    even : bool
        `attention_dp_config.enable_balance`: prompts wait until every rank has one.
    even_steps, even_batches : int
        `timeout_iters` of this option, and `batching_wait_iters`: steps that prompts then wait for more prompts.
    serial : bool
        With pipeline stages, a stage's host waits for its work on a batch before it continues, so that neither hides the
        other: `sampler_event` in `_forward_step_inter_pp` up to 1.1. Otherwise it waits for the work on the batch before.
    """

    max_num_tokens: int = 8192
    chunked: bool = False
    evicts: bool = False
    reuse: bool = True
    overlap: bool = True
    wait_steps: int = 0
    wait_tokens: int = 0
    even: bool = False
    even_steps: int = 50
    even_batches: int = 10
    serial: bool = False

    @property
    def caches(self) -> bool:
        """Whether computed prompts are cached for later requests."""
        return self.reuse

    @property
    def part(self) -> str:
        """Name of the part that implements the executor."""
        return "tensorrt-llm"

    @property
    def calls(self) -> Calls:
        """How layers are called from Python."""
        return TRTLLM_CALLS

    def ordered(self, order: str) -> TrtllmRules:
        """Return the rules unchanged: TensorRT-LLM has no other order."""
        return self

    def limited(self, tokens: int) -> TrtllmRules:
        """Return the rules with at most `tokens` tokens in a step."""
        return replace(self, max_num_tokens=tokens)

    def decoding(self) -> TrtllmRules:
        """Return the rules of a decode server: it has no prompts to reuse blocks for."""
        return replace(self, reuse=False)

    def verifying(self) -> TrtllmRules:
        """Return the rules of a server with drafts, which waits for results."""
        return replace(self, overlap=False)

    def most(self, sequences: int, stages: int) -> int:
        """Return the maximum of active requests: those of every batch in flight (`max_num_active_requests`)."""
        return sequences * stages

    def start(self, ranks: int, sequences: int, pages: int, page: int, stages: int) -> Trtllm:
        """Return the state before the first request, with `pages` blocks of `page` tokens per rank.

        With several stages the executor waits for results, and checks memory for two steps (`two_step_lookahead`).
        """
        numbers = TrtNumbers(
            page, sequences, self.most(sequences, stages), min(stages, 2),
            self.max_num_tokens, self.chunked, self.evicts, self.reuse,
            self.wait_steps if ranks == 1 else 0, self.wait_tokens, self.even and ranks > 1,
            self.even_steps, self.even_batches, self.serial,
        )  # fmt: skip
        return new_trtllm(numbers, ranks, pages, stages)

    def widen(self, trtllm: Trtllm, blocks: int) -> Trtllm:
        """Return the state with rows for requests of up to `blocks` blocks."""
        return widened(trtllm, blocks + 1)

    def spare(self, page: int) -> int:
        """Return the tokens that admission reserves beyond those of a request: one, because the last token needs memory too."""
        return 1


TRTLLM = Policy(
    "tensorrt-llm", 8192, 2048, chunked=False, reserve=True, ahead=True,
    host=Host(launch_s=LAUNCH_S, request_s=OUTSIDE_S), rules=TrtllmRules(),
)  # fmt: skip
"""TensorRT-LLM's executor (PyTorch backend, 1.2) with its defaults (tensorrt_llm/llmapi/llm_args.py)."""

POLICIES.register("tensorrt-llm", "TensorRT-LLM's executor: whole prompts, block reuse, overlap")(TRTLLM)


def of_trtllm(rules: TrtllmRules, sequences: int, host: Host = TRTLLM.host) -> Policy:
    """Return a policy for TensorRT-LLM's executor with these rules; equivalent fields have the same values."""
    return replace(
        TRTLLM, token_budget=rules.max_num_tokens, max_sequences=sequences, chunked=rules.chunked,
        reserve=not rules.evicts, ahead=rules.overlap, gather_steps=rules.wait_steps, gather_tokens=rules.wait_tokens,
        even_steps=rules.even_steps if rules.even else 0, rules=rules, host=host,
    )  # fmt: skip
