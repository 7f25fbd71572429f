"""Tokens to experts and back: a stable counting sort, a gather, and a combine.

A *slot* is a token's j-th choice, numbered ``token * k + j``. Sorted, the slots of one expert stand
together in the order of their tokens. Combine gathers each token's k results in the order of its
choices instead of adding them as they come, so that equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from .check import require
from .jit import parallel, serial, threads_for
from .lab import Bench, Case, Kernel, Shape, add

F4 = npt.NDArray[np.float32]
I4 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SlotOrder:
    """Slots sorted by expert.

    Attributes
    ----------
    offsets : int32 array, shape (experts + 1,)
        Where each expert's slots begin.
    slots : int32 array, shape (tokens * k,)
        Slot at each sorted position.
    position : int32 array, shape (tokens * k,)
        Sorted position of each slot.
    """

    offsets: I4
    slots: I4
    position: I4

    @property
    def counts(self) -> I4:
        return np.diff(self.offsets)


@serial
def _sort(ids, offsets, slots, position):
    """Sort slots by expert with a counting sort; return the first slot with an invalid expert, or -1."""
    experts = len(offsets) - 1
    offsets[:] = 0
    for s in range(len(ids)):
        if ids[s] < 0 or ids[s] >= experts:
            return s
        offsets[ids[s] + 1] += 1
    for e in range(experts):
        offsets[e + 1] += offsets[e]
    free = offsets[:-1].copy()
    for s in range(len(ids)):
        at = free[ids[s]]
        slots[at] = s
        position[s] = at
        free[ids[s]] = at + 1
    return -1


def sort_slots(ids: I4, experts: int) -> SlotOrder:
    """Sort the choices `ids`, shape (tokens, k), by expert."""
    flat = np.ascontiguousarray(ids, dtype=np.int32).reshape(-1)
    order = SlotOrder(*(np.empty(n, np.int32) for n in (experts + 1, len(flat), len(flat))))
    bad = _sort(flat, order.offsets, order.slots, order.position)
    if bad >= 0:
        raise ValueError(f"slot {bad} has expert {flat[bad]}: must be between 0 and {experts - 1}")
    return order


@parallel
def _gather(x, slots, k, out, threads):
    count = len(slots)
    for thread in numba.prange(threads):
        for i in range(count * thread // threads, count * (thread + 1) // threads):
            row = slots[i] // k
            for h in range(x.shape[1]):
                out[i, h] = x[row, h]


@parallel
def _combine(y, position, weights, out, threads):
    tokens, k = weights.shape
    for thread in numba.prange(threads):
        for t in range(tokens * thread // threads, tokens * (thread + 1) // threads):
            for h in range(y.shape[1]):
                out[t, h] = 0.0
            for j in range(k):
                row, weight = position[t * k + j], weights[t, j]
                for h in range(y.shape[1]):
                    out[t, h] += weight * y[row, h]


def gather(x: F4, order: SlotOrder, k: int, out: F4, threads: int = 1) -> None:
    """Copy each slot's token row, shape (tokens, hidden), to its sorted position."""
    if len(order.slots) != len(x) * k or out.shape != (len(x) * k, x.shape[1]):
        raise ValueError(f"{len(order.slots)} slots, {len(x)} tokens of {k}, output {out.shape}")
    _gather(x, order.slots, k, out, threads_for(2.0 * out.nbytes, threads))


def combine(y: F4, order: SlotOrder, weights: F4, out: F4, threads: int = 1) -> None:
    """Compute the weighted sum of each token's k rows of `y`, shape (tokens * k, hidden)."""
    tokens, k = weights.shape
    if y.shape[0] != tokens * k or out.shape != (tokens, y.shape[1]):
        raise ValueError(f"rows {y.shape}, weights {weights.shape}, output {out.shape}")
    _combine(y, order.position, weights, out, threads_for(y.nbytes, threads))


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes with the tokens of a decode step and of a prompt."""
    tokens = (16, 512) if quick else (1, 16, 64, 512, 4096)
    return [{"tokens": t, "hidden": 1024, "experts": 64, "topk": 4} for t in tokens]


def case(shape: Shape, bench: Bench) -> Case:
    """Return the case of sorting, gathering and combining one shape."""
    tokens, hidden, experts, k = (shape[n] for n in ("tokens", "hidden", "experts", "topk"))
    # gather reads tokens and writes slots, combine reads slots and writes tokens
    moved = 4.0 * hidden * tokens * (2 * k + 2)
    copies = bench.copies(4.0 * hidden * tokens * (k + 1))
    ids = np.stack([bench.rng.permutation(experts)[:k] for _ in range(tokens)]).astype(np.int32)
    weights = bench.rng.random((tokens, k), dtype=np.float32)
    inputs = [bench.take((tokens, hidden)) for _ in range(copies)]
    room, out = np.empty((tokens * k, hidden), np.float32), np.empty((tokens, hidden), np.float32)

    def run(i: int) -> None:
        order = sort_slots(ids, experts)
        gather(inputs[i % copies], order, k, room, bench.threads)
        combine(room, order, weights, out, bench.threads)

    def check() -> None:
        room[:], out[:] = np.nan, np.nan
        run(0)
        want = inputs[0].astype(np.float64) * weights.astype(np.float64).sum(1, keepdims=True)
        require(out, want, "fp32", f"permute {dict(shape)}")

    return Case({"kernel": "permute", "dtype": "fp32", **shape}, 0.0, moved, copies, run, check)


CPU = add(Kernel("permute", "numba", None, shapes, case))
