"""Chunks of a step: the tokens of each chunk, and the sums of each half or micro-batch.

The explicit path calls these functions in Python; simulations compile them. The larger chunks come first, so that the
chunks of a step have at most two sizes.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ....workloads import batch as sums

F8 = npt.NDArray[np.float64]

ChunkSize = IntEnum("ChunkSize", "BIG SMALL WHOLE", start=0)
"""Sizes of a batch's chunks: the larger chunk, the smaller chunk, and the uncut batch."""

MOST_CHUNKS = 16
"""Maximum number of chunks of a step."""


def chunk_tokens(tokens: float, chunks: int, place: int) -> float:
    """Return the tokens of one of `chunks` chunks of a batch; the first chunks get the remainder.

    Examples
    --------
    >>> [chunk_tokens(10.0, 4, i) for i in range(4)]
    [3.0, 3.0, 2.0, 2.0]
    """
    even_share = float(math.floor(tokens / chunks))
    return even_share + 1.0 if place < tokens - even_share * chunks else even_share


def even_halves(moments: F8, windows: int) -> bool:
    """Return whether both halves of a batch have the same sums."""
    even = (
        moments[sums.DECODES] % 2.0 == 0.0
        and moments[sums.PREFILL_TOKENS] % 2.0 == 0.0
        and moments[sums.TOKENS] % 2.0 == 0.0
    )
    for w in range(windows):
        even = even and moments[sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * w + sums.PREFILL_KV] % 2.0 == 0.0
    return bool(even)


def half_moments(moments: F8, windows: int, size: int, out: F8) -> None:
    """Compute the sums of one half of a batch, as if all its sequences had mean length.

    Decodes are split evenly, with their keys in proportion. An odd prompt is cut along its tokens: each half has half
    of its queries and pairs, and reads all of its keys.

    Parameters
    ----------
    moments, out : float64 array, shape (moments,)
        Sums of the batch, and of the half. Any sums after the sums of `windows` attention windows are scaled with the
        decodes.
    size : int
        `ChunkSize.BIG` for the half with the remainder.
    """
    decodes, prompts, tokens = moments[sums.DECODES], moments[sums.PREFILLS], moments[sums.PREFILL_TOKENS]
    first = 1.0 if size == ChunkSize.BIG else 0.0
    even = math.floor(decodes / 2.0) * 2.0 == decodes
    half_decodes = math.floor((decodes + first) / 2.0)
    new = math.floor((tokens + (first if even else 1.0 - first)) / 2.0)
    cut = min(math.floor((prompts + 1.0) / 2.0), new)
    out[sums.TOKENS] = math.floor((moments[sums.TOKENS] + first) / 2.0)
    out[sums.DECODES], out[sums.PREFILL_TOKENS], out[sums.PREFILLS] = half_decodes, new, cut
    out[sums.SEQUENCES] = half_decodes + cut
    of_decodes = half_decodes / decodes if decodes > 0.0 else 0.0
    of_tokens = new / tokens if tokens > 0.0 else 0.0
    of_prompts = cut / prompts if prompts > 0.0 else 0.0
    for w in range(windows):
        at = sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * w
        out[at + sums.DECODE_KV] = moments[at + sums.DECODE_KV] * of_decodes
        out[at + sums.PREFILL_PAIRS] = moments[at + sums.PREFILL_PAIRS] * of_tokens
        out[at + sums.PREFILL_RECT] = moments[at + sums.PREFILL_RECT] * of_tokens
        kv = moments[at + sums.PREFILL_KV] * of_prompts  # kernels take whole keys, of which none is lost
        out[at + sums.PREFILL_KV] = math.floor(kv + 0.5) if size == ChunkSize.BIG else math.ceil(kv - 0.5)
    for j in range(sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * windows, moments.size):
        out[j] = moments[j] * of_decodes


def micro_moments(moments: F8, windows: int, chunks: int, place: int, out: F8) -> None:
    """Compute the sums of one of `chunks` micro-batches of a batch.

    Sequences have mean length, as in `half_moments`. The first micro-batches get the remaining decodes. Prompts are cut
    along their tokens if they are fewer than micro-batches, and the last ones get the remaining tokens. A cut prompt
    has in each its share of the queries and pairs, and reads all of its keys.

    Parameters
    ----------
    moments, out : float64 array, shape (moments,)
        Sums of the batch, and of the micro-batch.
    """
    decodes, prompts, tokens = moments[sums.DECODES], moments[sums.PREFILLS], moments[sums.PREFILL_TOKENS]
    micro_decodes = math.floor(decodes / chunks)
    micro_decodes += 1 if place < decodes - micro_decodes * chunks else 0
    new = math.floor(tokens / chunks)
    new += 1 if chunks - 1 - place < tokens - new * chunks else 0
    behind = sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * windows
    several = moments.size - behind > 1  # decodes that bring drafts; they too are of mean length
    most = moments[behind] if several else decodes
    brought = math.floor(most / chunks)
    brought += 1 if place < most - brought * chunks else 0
    padding = moments[sums.TOKENS] - most - tokens
    more = math.floor(padding / chunks)
    more += 1 if place < padding - more * chunks else 0
    cut = min(math.ceil(prompts / chunks), new)
    out[sums.TOKENS] = brought + new + more
    out[sums.DECODES], out[sums.PREFILL_TOKENS], out[sums.PREFILLS] = micro_decodes, new, cut
    out[sums.SEQUENCES] = micro_decodes + cut
    of_decodes = micro_decodes / decodes if decodes > 0.0 else 0.0
    of_tokens = new / tokens if tokens > 0.0 else 0.0
    of_prompts = cut / prompts if prompts > 0.0 else 0.0
    for w in range(windows):
        at = sums.BASE_MOMENTS + sums.WINDOW_MOMENTS * w
        out[at + sums.DECODE_KV] = moments[at + sums.DECODE_KV] * of_decodes
        out[at + sums.PREFILL_PAIRS] = moments[at + sums.PREFILL_PAIRS] * of_tokens
        out[at + sums.PREFILL_RECT] = moments[at + sums.PREFILL_RECT] * of_tokens
        kv = moments[at + sums.PREFILL_KV] * of_prompts
        out[at + sums.PREFILL_KV] = math.floor(kv + 0.5)  # kernels take whole ones
    for j in range(behind, moments.size):
        out[j] = moments[j] * of_decodes
    if several:
        out[behind] = brought
