"""Where the next request goes: compiled address streams, and random numbers that need no state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...workloads.jit import compiled_inside

if TYPE_CHECKING:
    from .pattern import Run
    from .spec import DramSpec

SEQ, RAND, STRIDE, MULTI = range(4)
KINDS = {"seq": SEQ, "mix": SEQ, "rand": RAND, "stride": STRIDE, "multistream": MULTI}

STREAM = np.dtype(
    [(name, np.int64) for name in (
        "kind", "other_kind", "blocks", "atom", "chunk", "chunks", "stride", "touched", "many",
        "turn", "bases", "first", "second", "unit", "other_writes", "other_offset", "period",
        "read", "wrote", "key", "other_key",
    )]
)  # fmt: skip
"""A stream and its other half (writes, or the gathers of ``mix``); counted in blocks of an atom.

`first`, `second`: requests of each half in a period; `period`: position in it; `read`, `wrote`:
requests of each half so far; `key`, `other_key`: what is mixed into the random numbers.
"""

_MASK = (1 << 64) - 1
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31 = np.uint64(30), np.uint64(27), np.uint64(31)


@compiled_inside
def mix(x: Any) -> Any:
    """SplitMix64 of an unsigned integer."""
    z = x + GOLDEN
    z = (z ^ (z >> S30)) * MIX1
    z = (z ^ (z >> S27)) * MIX2
    return z ^ (z >> S31)


def mix_whole(x: int) -> int:
    """SplitMix64 in plain Python integers."""
    z = (x + int(GOLDEN)) & _MASK
    z = ((z ^ (z >> 30)) * int(MIX1)) & _MASK
    z = ((z ^ (z >> 27)) * int(MIX2)) & _MASK
    return z ^ (z >> 31)


def _key(salt: int, channel: int, seed: int = 1) -> int:
    """What all random numbers of a stream share, as a signed 64-bit integer."""
    key = mix_whole(1000003 * seed + 7919 * salt + channel)
    return key - (1 << 64) if key >> 63 else key


def new_streams(memory: DramSpec, run: Run, channel: int) -> NDArray[Any]:
    """The streams of one channel before its first request."""
    from ...workloads.errors import InputError

    p, org = run.pattern, memory.organisation
    atom = org.atom_bytes
    blocks = org.channel_bytes // atom
    out = np.zeros(1, STREAM)
    for name, size in (("S", p.S), ("X", p.X), ("G", p.G)):
        if size % atom and (name, p.kind) != ("S", "seq"):
            raise InputError(
                f"pattern {p.name}", f"{name} must be a multiple of {atom} bytes, not {size}"
            )
        if size > org.channel_bytes:
            raise InputError(f"pattern {p.name}", f"{name} is larger than a channel")
    if p.kind == "stride" and p.X > p.S:
        raise InputError(f"pattern {p.name}", f"X ({p.X}) is larger than S ({p.S})")
    if p.kind == "multistream" and p.K * 128 > blocks:
        raise InputError(f"pattern {p.name}", f"{p.K} streams do not fit into a channel")
    unit = p.X // atom
    out["kind"] = KINDS[p.kind]
    out["other_kind"] = RAND if p.kind == "mix" else out["kind"][0]
    out["blocks"], out["atom"], out["stride"] = blocks, atom, p.S
    out["chunk"] = max(p.S // atom, 1)
    out["chunks"] = blocks // max(p.S // atom, 1)
    out["touched"], out["many"], out["turn"] = max(unit, 1), p.K, max(p.G // atom, 1)
    out["bases"] = blocks // 128
    first, second = (p.a, p.b) if p.kind == "mix" else (p.reads, p.writes)
    out["first"], out["second"], out["unit"] = first * unit, second * unit, unit
    out["other_writes"] = p.kind != "mix"
    # The other half of a random stream has random numbers of its own instead of an offset.
    apart = out["other_kind"][0] == RAND
    out["other_offset"] = 0 if apart else blocks // 2
    out["key"] = _key(0, channel)
    out["other_key"] = _key(1 if p.kind == "rand" else 0, channel)
    return out


@compiled_inside
def block_of(t: Any, kind: int, key: int, i: int) -> int:
    """Block that request `i` of a stream touches, before the other half's offset."""
    if kind == SEQ:
        return i % t.blocks  # type: ignore[no-any-return]
    if kind == RAND:
        chunk = i // t.chunk
        h = mix(np.uint64(key) + np.uint64(chunk))
        first = np.int64(h % np.uint64(t.chunks)) * t.chunk
        return first + i % t.chunk  # type: ignore[no-any-return]
    if kind == STRIDE:
        k = i // t.touched
        capacity = t.blocks * t.atom
        far = k * t.stride
        place = far % capacity + (far // capacity) * t.touched * t.atom % t.stride
        return (place // t.atom + i % t.touched) % t.blocks  # type: ignore[no-any-return]
    turn = i // t.turn
    stream = turn % t.many
    h = mix(np.uint64(key) + np.uint64(stream))
    base = np.int64(h % np.uint64(t.bases)) * 128
    return (base + turn // t.many * t.turn + i % t.turn) % t.blocks  # type: ignore[no-any-return]


@compiled_inside
def next_block(t: Any) -> int:
    """Advance the stream by one request: its block, or ``-1 - block`` for a write."""
    write = False
    if t.second == 0:
        block = block_of(t, t.kind, t.key, t.read)
        t.read += 1
        return block
    if t.period < t.first:
        block = block_of(t, t.kind, t.key, t.read)
        t.read += 1
    else:
        block = (block_of(t, t.other_kind, t.other_key, t.wrote) + t.other_offset) % t.blocks
        t.wrote += 1
        write = t.other_writes == 1
    t.period += 1
    if t.period == t.first + t.second:
        t.period = 0
    return -1 - block if write else block
