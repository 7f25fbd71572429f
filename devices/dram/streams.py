"""Compiled address streams that give the next request's block, with random numbers that need no state."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...workloads.jit import compiled_inside, compiled_part

if TYPE_CHECKING:
    from .pattern import PatternRun
    from .spec import DramSpec

Pattern = IntEnum("Pattern", "SEQ RAND STRIDE MULTI", start=0)
KINDS = {
    "seq": Pattern.SEQ,
    "mix": Pattern.SEQ,
    "rand": Pattern.RAND,
    "stride": Pattern.STRIDE,
    "multistream": Pattern.MULTI,
}

STREAM = np.dtype(
    [(name, np.int64) for name in (
        "kind", "other_kind", "blocks", "atom", "chunk", "chunks", "stride", "touched", "many",
        "turn", "bases", "first", "second", "unit", "other_writes", "other_offset", "period",
        "read", "wrote", "key", "other_key", "next", "left", "other_next", "other_left",
    )]
)  # fmt: skip
"""A stream and its other half (writes, or the random chunks of ``mix``); addresses are counted in blocks of an atom.

`first`, `second`: requests of each half in a period; `period`: position in it; `read`, `wrote`:
requests of each half so far; `key`, `other_key`: what is mixed into the random numbers; `next`,
`left` and their others: the block that comes next, and how many more follow it in sequence.
"""

_MASK = (1 << 64) - 1
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31 = np.uint64(30), np.uint64(27), np.uint64(31)


@compiled_inside
def mix(x: Any) -> Any:
    """Return SplitMix64 of an unsigned integer."""
    z = x + GOLDEN
    z = (z ^ (z >> S30)) * MIX1
    z = (z ^ (z >> S27)) * MIX2
    return z ^ (z >> S31)


def mix_whole(x: int) -> int:
    """Return SplitMix64, computed with plain Python integers."""
    z = (x + int(GOLDEN)) & _MASK
    z = ((z ^ (z >> 30)) * int(MIX1)) & _MASK
    z = ((z ^ (z >> 27)) * int(MIX2)) & _MASK
    return z ^ (z >> 31)


def _key(salt: int, channel: int, seed: int = 1) -> int:
    """Return the key of a stream's random numbers as a signed 64-bit integer."""
    key = mix_whole(1000003 * seed + 7919 * salt + channel)
    return key - (1 << 64) if key >> 63 else key


def new_streams(memory: DramSpec, run: PatternRun, channel: int) -> NDArray[Any]:
    """Return the streams of one channel before its first request.

    Raises
    ------
    InputError
        A pattern's size is no multiple of an atom, or the pattern does not fit into a channel.
    """
    from ...workloads.errors import InputError

    p, org = run.pattern, memory.organisation
    atom = org.atom_bytes
    blocks = org.channel_bytes // atom
    out = np.zeros(1, STREAM)
    for name, size in (("S", p.S), ("X", p.X), ("G", p.G)):
        if size % atom:
            raise InputError(f"pattern {p.name}", f"{name} must be a multiple of {atom} bytes, not {size}")
        if size > org.channel_bytes:
            raise InputError(f"pattern {p.name}", f"{name} is larger than a channel")
    if p.kind == "stride" and p.X > p.S:
        raise InputError(f"pattern {p.name}", f"X ({p.X}) is larger than S ({p.S})")
    if p.kind == "multistream" and blocks < p.K * 128:
        raise InputError(f"pattern {p.name}", f"{p.K} streams do not fit into a channel")
    unit = p.X // atom
    out["kind"] = KINDS[p.kind]
    out["other_kind"] = Pattern.RAND if p.kind == "mix" else out["kind"][0]
    # Addresses and sizes are counted in atoms, the smallest accesses of the memory.
    out["blocks"], out["atom"], out["stride"] = blocks, atom, p.S
    out["chunk"] = max(p.S // atom, 1)
    out["chunks"] = blocks // max(p.S // atom, 1)
    out["touched"], out["many"], out["turn"] = max(unit, 1), p.K, max(p.G // atom, 1)
    out["bases"] = blocks // 128
    first, second = (p.a, p.b) if p.kind == "mix" else (p.reads, p.writes)
    out["first"], out["second"], out["unit"] = first * unit, second * unit, unit
    out["other_writes"] = p.kind != "mix"
    # The other half of a random stream has random numbers of its own instead of an offset.
    apart = out["other_kind"][0] == Pattern.RAND
    out["other_offset"] = 0 if apart or p.in_place else blocks // 2
    out["key"] = _key(0, channel)
    out["other_key"] = _key(1 if p.kind == "rand" and not p.in_place else 0, channel)
    return out


@compiled_part
def start_of(t: Any, kind: int, key: int, i: int) -> tuple[int, int]:
    """Return the block of request `i` of a stream, and the number of blocks in sequence from there."""
    if kind == Pattern.SEQ:
        first = i % t.blocks
        return first, t.blocks - first
    if kind == Pattern.RAND:
        h = mix(np.uint64(key) + np.uint64(i // t.chunk))
        within = i % t.chunk
        return np.int64(h % np.uint64(t.chunks)) * t.chunk + within, t.chunk - within
    if kind == Pattern.STRIDE:
        capacity = t.blocks * t.atom
        far = i // t.touched * t.stride
        place = far % capacity + far // capacity * t.touched * t.atom % t.stride
        first, within = place // t.atom % t.blocks, i % t.touched
        return first + within, min(t.touched - within, t.blocks - first - within)
    turn, within = i // t.turn, i % t.turn
    h = mix(np.uint64(key) + np.uint64(turn % t.many))
    base = np.int64(h % np.uint64(t.bases)) * 128
    first = (base + turn // t.many * t.turn + within) % t.blocks
    return first, min(t.turn - within, t.blocks - first)


@compiled_inside
def next_block(t: Any) -> int:
    """Advance the stream by one request; return its block, or ``-1 - block`` for a write."""
    if t.second == 0 or t.period < t.first:
        if t.left == 0:
            t.next, t.left = start_of(t, t.kind, t.key, t.read)
        block = t.next
        t.read, t.next, t.left = t.read + 1, t.next + 1, t.left - 1
        write = False
    else:
        if t.other_left == 0:
            t.other_next, t.other_left = start_of(t, t.other_kind, t.other_key, t.wrote)
        block = t.other_next + t.other_offset
        if block >= t.blocks:
            block -= t.blocks
        t.wrote, t.other_next, t.other_left = t.wrote + 1, t.other_next + 1, t.other_left - 1
        write = t.other_writes == 1
    if t.second > 0:
        t.period += 1
        if t.period == t.first + t.second:
            t.period = 0
    return -1 - block if write else block  # type: ignore[no-any-return]
