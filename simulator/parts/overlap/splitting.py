"""Expert loads of a step's chunks, sampled from the loads of the whole step; compiled.

Every token is in one chunk, independent of the experts that it chose. Therefore each expert's tokens are halved by fair
coin tosses, repeatedly. Single tokens are then moved, expert by expert, until every chunk has the tokens that it
exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ....workloads.draws import GOLDEN, MIX_2, count_ones, layer_key, mix, step_key
from ....workloads.jit import compiled, compiled_part, int64
from ....workloads.ops import Loads
from ...deploy.expert_parts import ExpertPart

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

ONE = np.uint64(1)
WORD = 64
S16, FOUR_HEX, CHANCES = np.uint64(16), np.uint64(0xFFFF), 65536.0


@compiled_part
def even_out(state: np.uint64, chunk: I8, rest: I8, experts: int, chunk_tokens: int, want: int) -> np.uint64:
    """Move single tokens between `chunk`, which has `chunk_tokens`, and `rest` until `chunk` has `want`."""
    state += GOLDEN
    e = int(np.int64(mix(state) % np.uint64(experts)))
    while chunk_tokens != want:
        if chunk_tokens > want and chunk[e] > 0:
            chunk[e] -= 1
            rest[e] += 1
            chunk_tokens -= 1
        elif chunk_tokens < want and rest[e] > 0:
            chunk[e] += 1
            rest[e] -= 1
            chunk_tokens += 1
        e = (e + 1) % experts
    return state


@compiled_part
def halve(state: np.uint64, left: I8, right: I8, experts: int, want: int) -> np.uint64:
    """Move about half of the tokens of `left` to `right`, which is empty; then move single tokens until `left` has `want`."""
    moved = int64(0)
    for e in range(experts):
        tokens, heads = left[e], int64(0)
        rest = tokens
        while rest > 0:
            state += GOLDEN
            bits = mix(state)
            if rest < WORD:
                bits &= (ONE << np.uint64(rest)) - ONE
            heads += count_ones(bits)
            rest -= WORD
        left[e], right[e] = heads, tokens - heads
        moved += heads
    return even_out(state, left, right, experts, moved, want)


@compiled_part
def split_loads(key: np.uint64, layer: int, loads: I8, experts: int, routed: F8, chunks: int, out: I8) -> None:
    """Split the loads of one layer.

    Parameters
    ----------
    key : uint64
        `step_key` of the step.
    layer : int
        As in `draws.draw_loads`.
    loads : int64 array
        Tokens of each of the first `experts` entries.
    routed : float64 array
        Token-expert pairs of each chunk; their sum is the sum of `loads`.
    chunks : int
        A power of two.
    out : int64 array, shape (chunks, experts) at least
    """
    state = mix(layer_key(key, layer) ^ MIX_2)
    for e in range(experts):
        out[0, e] = loads[e]
    width = chunks
    while width > 1:
        half = width // 2
        for first in range(0, chunks, width):
            want, moved = 0.0, int64(0)
            for c in range(first, first + half):
                want += routed[c]
            for e in range(experts):
                moved += out[first, e]
            state = halve(state, out[first], out[first + half], experts, min(int64(int(want)), moved))
        width = half


@compiled
def _split(seed: int, replica: int, step: int, layer: int, loads: I8, routed: F8, out: I8) -> None:
    """`split_loads` for callers outside compiled code."""
    split_loads(step_key(seed, replica, step), layer, loads, loads.size, routed, routed.size, out)


@compiled_part
def deal_out(state: np.uint64, rest: I8, chunk: I8, experts: int, share: float, want: int) -> np.uint64:
    """Move about a `share` of the tokens of `rest` to `chunk`, which is empty; then move single tokens until it has `want`."""
    most, moved = np.uint64(int(share * CHANCES)), int64(0)
    bits, left = np.uint64(0), int64(0)
    for e in range(experts):
        taken = int64(0)
        for _ in range(rest[e]):
            if left == 0:  # each 64-bit output serves four tokens
                state += GOLDEN
                bits, left = mix(state), int64(4)
            if bits & FOUR_HEX < most:
                taken += 1
            bits >>= S16
            left -= 1
        rest[e] -= taken
        chunk[e] = taken
        moved += taken
    return even_out(state, chunk, rest, experts, moved, want)


@compiled_part
def deal_loads(key: np.uint64, layer: int, loads: I8, experts: int, routed: F8, chunks: int, out: I8) -> None:
    """Split loads as `split_loads` does, but into any number of micro-batches, which take their tokens one after another."""
    state = mix(layer_key(key, layer) ^ MIX_2)
    moved, wanted, last = int64(0), 0.0, chunks - 1
    for e in range(experts):
        out[last, e] = loads[e]
        moved += loads[e]
    for c in range(chunks):
        wanted += routed[c]
    for c in range(last):
        want = min(int64(int(routed[c])), moved)
        state = deal_out(state, out[last], out[c], experts, routed[c] / max(wanted, 1.0), want)
        moved -= want
        wanted -= routed[c]


@compiled
def _deal(seed: int, replica: int, step: int, layer: int, loads: I8, routed: F8, out: I8) -> None:
    """`deal_loads` for callers outside compiled code."""
    deal_loads(step_key(seed, replica, step), layer, loads, loads.size, routed, routed.size, out)


def deal_draw(part: ExpertPart, loads: Loads, tokens: Sequence[float], step: int, replica: int) -> list[Loads]:
    """Return the loads as `split_draw` does, but for any number of micro-batches."""
    counts = loads.tokens.astype(np.int64)
    out = np.zeros((len(tokens), len(counts)), dtype=np.int64)
    router = part.router
    routed = np.array(tokens) * router.top_k
    _deal(router.seed, replica, step, router.keys[part.row], counts, routed, out)
    return [Loads.drawn(row) for row in out]


def split_draw(part: ExpertPart, loads: Loads, tokens: Sequence[float], step: int, replica: int) -> list[Loads]:
    """Return the loads of every chunk of a step, split from the sampled loads of the step.

    Parameters
    ----------
    tokens : sequence of float
        Tokens of each chunk, over all ranks; the number of chunks is a power of two.
    step, replica : int
        Counters of the sample.
    """
    counts = loads.tokens.astype(np.int64)
    out = np.zeros((len(tokens), len(counts)), dtype=np.int64)
    routed = np.array(tokens) * part.router.top_k
    router = part.router
    _split(router.seed, replica, step, router.keys[part.row], counts, routed, out)
    return [Loads.drawn(row) for row in out]
