"""State of TensorRT-LLM's executor in addition to the engine's, and its constants."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.jit_held import held

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


(B_USERS, B_KEY, B_PARENT, B_CHILD, B_NEXT, B_BEFORE, B_MARK) = range(7)
NUM_BLOCK = 7
"""Columns of `Trtllm.blocks`: sequences that hold it; key of its content where it can be found (0: it
cannot), the block before it there (-1: none), its first child, the next and the previous child of its
parent (-1: none); sequences of the plan being made that will be paused and hold it."""

(W_WAITED, W_BATCHED) = range(2)
"""Entries of `Trtllm.waited`: plans that have let prompts wait, and of them those that waited for more
prompts on every rank."""

(T_FREE, T_SLOTS, T_FLIGHT) = range(3)
NUM_RANK = 3
"""Columns of `Trtllm.ranks`: free blocks; free rows of `held`; requests of the step whose results are not processed."""


@held
class Flights(NamedTuple):
    """Each of P batches in flight while another one is looked at, of R ranks."""

    running: I8  # [P, R, 3B] see `State.running`, of which the last two lists are used
    sizes: I8  # [P, R] requests of each


@held
class Trtllm(NamedTuple):
    """R ranks of N blocks, B requests of at most W blocks each."""

    rules: TrtNumbers
    blocks: I8  # [R, N, NUM_BLOCK]
    links: I8  # [R, N+1, 2] free blocks, the one freed longest ago first; the last row is head and tail
    table: I8  # [R, T, 3] key, parent, block + 1
    held: I8  # [R, B, W+1] blocks of each row; the last column is the stack of free rows
    ranks: I8  # [R, NUM_RANK]
    told: I8  # [2, B] scratch: what prompts of the plan being made will let others find
    wanted: I8  # [R, B] scratch: whether memory suffices for each request
    waited: I8  # [2]
    flights: Flights  # of no batches with one stage


def new_trtllm(numbers: TrtNumbers, ranks: int, blocks: int, stages: int) -> Trtllm:
    """The state before the first request."""
    rows, ring = numbers.active, np.arange(blocks + 1)
    stages *= stages > 1
    running, sizes = np.zeros((stages, ranks, 3 * rows), dtype=np.int64), np.zeros((stages, ranks), dtype=np.int64)
    links = np.zeros((ranks, blocks + 1, 2), dtype=np.int64)
    links[:, :, 0], links[:, :, 1] = (ring + 1) % (blocks + 1), (ring - 1) % (blocks + 1)
    schedule = np.zeros((ranks, NUM_RANK), dtype=np.int64)
    schedule[:, T_FREE], schedule[:, T_SLOTS] = blocks, rows
    table = np.zeros((ranks, 1 << int(2 * blocks).bit_length(), 3), dtype=np.int64)
    content = np.full((ranks, blocks, NUM_BLOCK), -1, dtype=np.int64)
    content[:, :, [B_USERS, B_KEY, B_MARK]] = 0
    blocks_of = np.zeros((ranks, rows, 1), dtype=np.int64)
    blocks_of[:, :, -1] = np.arange(rows)[::-1]
    return Trtllm(
        numbers, content, links, table, blocks_of, schedule, np.zeros((2, rows + 1), dtype=np.int64),
        np.zeros((ranks, rows), dtype=np.int64), np.zeros(2, dtype=np.int64),
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
