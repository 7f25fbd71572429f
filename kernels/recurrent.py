"""Recurrences of matrix states on the CPU: the delta rule with one decay per head or per channel, and scans.

A head's state is ``values x keys``. A token decays it, erases what its key finds there (the delta rule; a
scan does not), adds the outer product of its value and key, and reads it out with its query:

    ``S = S diag(a)``, ``w = b (v - S k)`` or ``b v``, ``S = S + w k^T``, ``o = S q``.

`step` does this for one token of each sequence, in one pass over the states. `chunks` takes prompts `CHUNK` tokens at a
time, as matrix products between them and the state (arXiv 2412.06464, section 3.3; arXiv 2405.21060, section 6). With a
decay a channel, keys are divided by the decays of their chunk, which must stay above `LEAST`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from .blocked import DEFAULT, REGISTERS, tiles_of
from .jit import inner, parallel
from .vector import I64, LANES, Value, micro_kernel

ROWS, VECTORS = 4, 4 if REGISTERS == 32 else 2
"""Rows and vector registers of a tile; its sums, a row of `w` and a number of `x` stay in registers."""
COLUMNS = VECTORS * LANES
"""Columns of a tile; products have a multiple of these."""


@micro_kernel(*(types.int64,) * 9)
def outer_tile(emitter, x, x_row, x_col, w, w_row, n, out, out_row, scale, vectors):
    """Compute ``out[i, :] = scale[i] out[i, :] + sum_k x[i, k] w[k, :]`` for `ROWS` rows i.

    `x`, `w`, `out` and `scale` are addresses, steps are in bytes; `n` is the number of k. A `scale` of 0 is
    none: sums then start at zero. `vectors` of `LANES` columns, literal.
    """
    b = emitter.b
    acc = emitter.registers(ROWS * vectors)

    def places(i: int) -> list[Value]:
        row = b.add(out, b.mul(out_row, I64(i)))
        return [emitter.offset(row, 4 * LANES * c) for c in range(vectors)]

    with b.if_then(b.icmp_unsigned("!=", scale, I64(0))):
        for i in range(ROWS):
            factor = emitter.splat(emitter.scalar(emitter.offset(scale, 4 * i)))
            for c, place in enumerate(places(i)):
                b.store(emitter.fmul(factor, emitter.load(place)), acc[i * vectors + c])

    def body(k: Value) -> None:
        row = b.add(w, b.mul(w_row, k))
        values = [emitter.load(emitter.offset(row, 4 * LANES * c)) for c in range(vectors)]
        column = b.add(x, b.mul(x_col, k))
        for i in range(ROWS):
            left = emitter.splat(emitter.scalar(b.add(column, b.mul(x_row, I64(i)))))
            for c, value in enumerate(values):
                slot = acc[i * vectors + c]
                b.store(emitter.fma(left, value, b.load(slot)), slot)

    emitter.loop(I64(0), n, 1, body)
    for i in range(ROWS):
        for c, place in enumerate(places(i)):
            emitter.store(b.load(acc[i * vectors + c]), place)


@cache
def outer_product() -> Callable[..., None]:
    """Return the kernel for all tiles of a product.

    `m` rows, a multiple of `ROWS`; `w` (n, columns) and `out` are contiguous.
    """
    rows, step, vectors = ROWS, COLUMNS, VECTORS

    @inner
    def run(x_at, x_row, x_col, m, w_at, n, columns, out_at, scale_at):
        width = 4 * columns
        for c in range(0, width, 4 * step):
            for i in range(0, m, rows):
                scale = scale_at + 4 * i if scale_at != 0 else 0
                outer_tile(x_at + i * x_row, x_row, x_col, w_at + c, width, n, out_at + i * width + c,
                           width, scale, vectors)  # fmt: skip

    made: Callable[..., None] = run
    return made


F4 = npt.NDArray[np.float32]
CHUNK = 16
"""Tokens per chunk: few enough that keys divided by their decays stay finite."""
LEAST = 1e-36
"""Smallest product of a chunk's decays by which keys may be divided: the fp32 range ends at 1.2e-38."""
_tiles = tiles_of(DEFAULT.register_m, DEFAULT.register_n, True)
_outer = outer_product()


class TokenInputs(NamedTuple):
    """Inputs of tokens: float32 arrays whose first axis is the sequence, and for prompts the second is the token.

    Attributes
    ----------
    q, k : array, shape (.., key heads, keys)
    v : array, shape (.., heads, values)
    decay : array, shape (.., heads, 1 or keys)
        Factors of a state, between 0 and 1.
    beta : array, shape (.., heads)
    """

    q: F4
    k: F4
    v: F4
    decay: F4
    beta: F4


@parallel
def _step(x, states, out, erase, threads):
    batch, heads, width = x.v.shape
    keys, group = x.k.shape[2], heads // x.k.shape[1]
    units = batch * heads
    for thread in numba.prange(threads):
        a, values, asked = (np.empty(keys, np.float32), np.empty(keys, np.float32), np.empty(keys, np.float32))
        for unit in range(units * thread // threads, units * (thread + 1) // threads):
            n, h = unit // heads, unit % heads
            key, query, v, beta = x.k[n, h // group], x.q[n, h // group], x.v[n, h], x.beta[n, h]
            same = np.float32(0.0)
            for d in range(keys):
                a[d] = x.decay[n, h, d if x.decay.shape[2] > 1 else 0]
                values[d], asked[d] = key[d] * a[d], query[d] * a[d]
                same += query[d] * key[d]
            for j in range(width):
                row = states[n, h, j]
                old, read = np.float32(0.0), np.float32(0.0)
                for d in range(keys):
                    old += row[d] * values[d]
                    read += row[d] * asked[d]
                new = beta * (v[j] - old if erase else v[j])
                for d in range(keys):
                    row[d] = row[d] * a[d] + new * key[d]
                out[n, h, j] = read + same * new


@inner
def _prepare(q, k, decay, left, pairs, ends, total, scale, ratio):
    """Compute the rows of a chunk's products, and the decays between its tokens; return the smallest divisor.

    `left` gets queries, then keys; `pairs` keys; `ends` keys decayed to the chunk's end; `total` its decays.
    Of channels, `left` is decayed from the start and `pairs` divided by its decays. One decay a head
    comes after the products: `scale[t]` from the start, `ratio[t, s]` from token s to t.
    """
    chunk = len(pairs)
    left[:], pairs[:], ends[:], total[:], scale[:], ratio[:] = 0.0, 0.0, 0.0, 1.0, 1.0, 1.0
    channels, last = decay.shape[1] > 1, len(q) - 1
    for t in range(len(q)):
        for d in range(len(total)):
            total[d] *= decay[t, d if channels else 0]
            by = total[d] if channels else np.float32(1.0)
            left[t, d], left[chunk + t, d], pairs[t, d] = q[t, d] * by, k[t, d] * by, k[t, d] / by
        if not channels:
            scale[t] = total[0]
            for s in range(t):
                ratio[t, s] = ratio[t - 1, s] * decay[t, 0]
    for t in range(len(q)):
        for d in range(len(total)):
            ends[t, d] = pairs[t, d] * (total[d] if channels else ratio[last, t])
    return total.min() if channels else np.float32(1.0)


@inner
def _solve(v, beta, base, scores, scale, ratio, erase, new, out):
    """Compute a chunk's new values ``w`` in sequence, and the results of its queries."""
    chunk, width = new.shape
    new[:] = 0.0
    for t in range(len(v)):
        for j in range(width):
            new[t, j] = v[t, j] - (scale[t] * base[chunk + t, j] if erase else np.float32(0.0))
            out[t, j] = scale[t] * base[t, j]
        for s in range(t if erase else 0):
            weight = scores[chunk + t, s] * ratio[t, s]
            for j in range(width):
                new[t, j] -= weight * new[s, j]
        for j in range(width):
            new[t, j] *= beta[t]
        for s in range(t + 1):
            weight = scores[t, s] * ratio[t, s]
            for j in range(width):
                out[t, j] += weight * new[s, j]


@parallel
def _chunks(x, states, out, erase, chunk, worst, threads):
    batch, tokens, heads, width = x.v.shape
    keys, group, units = x.k.shape[3], heads // x.k.shape[2], batch * heads
    sides = 2 * chunk if erase else chunk
    for thread in numba.prange(threads):
        state, left = np.empty((keys, width), np.float32), np.empty((2 * chunk, keys), np.float32)
        pairs, ends = np.empty((chunk, keys), np.float32), np.empty((chunk, keys), np.float32)
        scores, new = np.empty((2 * chunk, chunk), np.float32), np.empty((chunk, width), np.float32)
        base, ratio = np.empty((2 * chunk, width), np.float32), np.empty((chunk, chunk), np.float32)
        total, scale = np.empty(keys, np.float32), np.empty(chunk, np.float32)
        for unit in range(units * thread // threads, units * (thread + 1) // threads):
            n, h = unit // heads, unit % heads
            state[:] = states[n, h].T
            for first in range(0, tokens, chunk):
                here = slice(first, min(first + chunk, tokens))
                least = _prepare(x.q[n, here, h // group], x.k[n, here, h // group],
                                 x.decay[n, here, h], left, pairs, ends, total, scale, ratio)  # fmt: skip
                worst[thread] = min(worst[thread], least)
                _tiles(left.ctypes.data, sides, pairs.ctypes.data, chunk, keys, scores.ctypes.data, 4 * chunk)
                _outer(left.ctypes.data, 4 * keys, 4, sides, state.ctypes.data, keys, width, base.ctypes.data, 0)
                _solve(x.v[n, here, h], x.beta[n, here, h], base, scores, scale, ratio, erase, new, out[n, here, h])
                _outer(ends.ctypes.data, 4, 4 * keys, keys, new.ctypes.data, chunk, width,
                       state.ctypes.data, total.ctypes.data)  # fmt: skip
            states[n, h] = state.T


def _fit(inputs: TokenInputs, states: F4, out: F4) -> None:
    """Refuse shapes that do not match, and sizes that the vector code cannot process."""
    *lead, heads, width = inputs.v.shape
    shared, keys = inputs.k.shape[-2:]
    good = inputs.q.shape == inputs.k.shape == (*lead, shared, keys) and heads % shared == 0
    good &= inputs.beta.shape == (*lead, heads) and inputs.decay.shape in ((*lead, heads, n) for n in (1, keys))
    if not good or out.shape != inputs.v.shape or states.shape != (lead[0], heads, width, keys):
        shapes = ", ".join(str(a.shape) for a in (*inputs, states, out))
        raise ValueError(f"shapes {shapes} of q, k, v, decay, beta, states and out do not match")
    if any(a.dtype != np.float32 or not a.flags.c_contiguous for a in (*inputs, states, out)):
        raise ValueError("tokens, states and out must be contiguous float32")
    if keys % LANES or width % COLUMNS:
        raise ValueError(f"states are {width} x {keys}: need multiples of {COLUMNS} and {LANES}")


def step(inputs: TokenInputs, states: F4, out: F4, threads: int = 1, erase: bool = True) -> None:
    """Process one token of each sequence, in place on its state.

    Parameters
    ----------
    states : float32 array, shape (sequences, heads, values, keys)
    out : float32 array, shape (sequences, heads, values)
    erase : bool
        The delta rule; without it a scan.

    Raises
    ------
    ValueError
        Shapes or types that do not fit.
    """
    _fit(inputs, states, out)
    _step(inputs, states, out, erase, threads)


def chunks(inputs: TokenInputs, states: F4, out: F4, threads: int = 1, erase: bool = True) -> None:
    """Process prompts: like `step`, with an axis of tokens after the axis of sequences.

    Raises
    ------
    ValueError
        Shapes or types that do not fit; decays of channels whose product over a chunk is below `LEAST`.
    """
    _fit(inputs, states, out)
    worst = np.ones(threads, np.float32)
    _chunks(inputs, states, out, erase, CHUNK, worst, threads)
    if not worst.min() >= LEAST:
        raise ValueError(f"decays of {CHUNK} tokens come to {worst.min():.1e}, below {LEAST:.0e}")


def reference(inputs: TokenInputs, states: F4, erase: bool = True) -> tuple[Any, Any]:
    """Return the read-outs and last states of prompts (with an axis of tokens) by the definition, in fp64."""
    q, k, v, decay, beta = (a.astype(np.float64) for a in inputs)
    s, out = states.astype(np.float64), np.empty(v.shape)
    for t in range(v.shape[1]):
        key, query = (np.repeat(a[:, t], v.shape[2] // k.shape[2], axis=1) for a in (k, q))
        s = s * decay[:, t, :, None]
        old = np.einsum("nhvk,nhk->nhv", s, key) if erase else 0.0
        s = s + (beta[:, t, :, None] * (v[:, t] - old))[..., None] * key[:, :, None]
        out[:, t] = np.einsum("nhvk,nhk->nhv", s, query)
    return out, s
