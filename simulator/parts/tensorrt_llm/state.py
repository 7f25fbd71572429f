"""State of TensorRT-LLM's executor in addition to the engine's, and its constants."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit_held import held
from ....workloads.records import Records, named, records

I8 = npt.NDArray[np.int64]


class TrtNumbers(NamedTuple):
    """`TrtllmRules` and what they run with: requests of a step, active ones, and steps that memory is looked for."""

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
"""Sequences that hold it; key of its content where it can be found (0: it cannot), the block before it there (-1: none),
its first child, the next and the previous child of its parent (-1: none); sequences of the plan being made that will be
paused and hold it."""

WAITED = named("waited batched", "")
"""Plans that have let prompts wait, and of them those that waited for more prompts on every rank."""

SCHEDULE = named("free slots in_flight", "")
"""Of a rank: free blocks; free rows of `held`; requests of the step whose results are not processed."""

LINK = named("next previous", "")
"""Of a free block: the one freed after it and the one before it."""


@held
class Flights(NamedTuple):
    """Each of P batches in flight while another one is looked at, of R ranks."""

    running: I8  # [P, R, 3B] see `State.running`, of which the last two lists are used
    sizes: I8  # [P, R] requests of each


@held
class Trtllm(NamedTuple):
    """R ranks of N blocks, B requests of at most W blocks each."""

    rules: TrtNumbers
    blocks: Records  # [R, N] of `BLOCK`
    links: Records  # [R, N+1] of `LINK`: free blocks, the one freed longest ago first; the last row is head and tail
    table: I8  # [R, T, 3] key, parent, block + 1
    held: I8  # [R, B, W+1] blocks of each row; the last column is the stack of free rows
    ranks: Records  # [R] of `SCHEDULE`
    told: I8  # [2, B] scratch: what prompts of the plan being made will let others find
    wanted: I8  # [R, B] scratch: whether memory suffices for each request
    waited: Records  # [1] of `WAITED`
    flights: Flights  # of no batches with one stage


def new_trtllm(numbers: TrtNumbers, ranks: int, blocks: int, stages: int) -> Trtllm:
    """The state before the first request."""
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
    """The same with room for requests of `width` blocks."""
    ranks, rows, have = trtllm.held.shape
    if width < have:
        return trtllm
    blocks_of = np.zeros((ranks, rows, width + 1), dtype=np.int64)
    blocks_of[:, :, : have - 1], blocks_of[:, :, -1] = trtllm.held[:, :, :-1], trtllm.held[:, :, -1]
    return trtllm._replace(held=blocks_of)
