"""Expert loads of a step's chunks, out of the loads of the whole step; compiled.

Every token goes to one chunk, whichever experts it chose: so each expert's tokens are halved by fair
coins, again and again. What the coins leave over or lack of the chunks' tokens is moved, expert by
expert, so that every chunk has the tokens that it exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...workloads.draws import GOLDEN, MIX_2, layer_key, mix, step_key
from ...workloads.jit import compiled, compiled_part, int64
from ...workloads.ops import Loads
from ..deploy.expert_parts import ExpertPart

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

ONE = np.uint64(1)
PAIRS, FOURS, BYTES, SUM = (
    np.uint64(n)
    for n in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
)
S1, S2, S4, S56 = (np.uint64(n) for n in (1, 2, 4, 56))
WORD = 64


@compiled_part
def count_ones(x: np.uint64) -> int:
    """Bits that are set (Hacker's Delight, section 5-1)."""
    x -= (x >> S1) & PAIRS
    x = (x & FOURS) + ((x >> S2) & FOURS)
    x = (x + (x >> S4)) & BYTES
    return int(np.int64((x * SUM) >> S56))


@compiled_part
def halve(state: np.uint64, left: I8, right: I8, experts: int, want: int) -> np.uint64:
    """Move about half of the tokens of `left` to `right`, which is empty, and keep `want` of them."""
    kept = int64(0)
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
        kept += heads
    state += GOLDEN
    e = int(np.int64(mix(state) % np.uint64(experts)))
    while kept != want:
        if kept > want and left[e] > 0:
            left[e] -= 1
            right[e] += 1
            kept -= 1
        elif kept < want and right[e] > 0:
            left[e] += 1
            right[e] -= 1
            kept += 1
        e = (e + 1) % experts
    return state


@compiled_part
def split_loads(
    key: np.uint64, layer: int, loads: I8, experts: int, routed: F8, chunks: int, out: I8
) -> None:
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
        Token-expert pairs of each chunk, which add up to those of `loads`.
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
            want, held = 0.0, int64(0)
            for c in range(first, first + half):
                want += routed[c]
            for e in range(experts):
                held += out[first, e]
            state = halve(
                state, out[first], out[first + half], experts, min(int64(int(want)), held)
            )  # fmt: skip
        width = half


@compiled
def _split(seed: int, replica: int, step: int, layer: int, loads: I8, routed: F8, out: I8) -> None:
    """`split_loads` for callers outside compiled code."""
    split_loads(
        step_key(seed, replica, step), layer, loads, loads.size, routed, routed.size, out
    )  # fmt: skip


def split_draw(
    part: ExpertPart, loads: Loads, tokens: Sequence[float], step: int, replica: int
) -> list[Loads]:
    """Loads of every chunk of a step, out of those drawn for all of it.

    Parameters
    ----------
    tokens : sequence of float
        Of each chunk, over all ranks; as many as a power of two.
    step, replica : int
        Counters of the draw.
    """
    own = loads.tokens.astype(np.int64)
    out = np.zeros((len(tokens), len(own)), dtype=np.int64)
    routed = np.array(tokens) * part.router.top_k
    router = part.router
    _split(router.seed, replica, step, router.keys[part.row], own, routed, out)
    return [Loads.drawn(row) for row in out]
