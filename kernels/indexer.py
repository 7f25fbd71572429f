"""An indexer of sparse attention: scores of all keys, and the best of them.

``score[t, s] = sum_h w[t, h] relu(q[t, h] k[s])`` with one key for all heads (DeepSeek-V3.2), keys in pages as
fp32 or bf16. The choice is a radix selection: exact, ties to the lower index, in the order of the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from .blocked import DEFAULT, tiles_of
from .check import WrongResult, from_bf16, require
from .jit import inner, parallel
from .lab import Bench, Case, Kernel, Shape, add
from .router import same_choice
from .vector import LANES

F4 = npt.NDArray[np.float32]
I4 = npt.NDArray[np.int32]
PAGE = 64
"""Keys per page, as in vLLM and SGLang."""
LOW = np.float32(-3.0e38)
"""Score of a key that a query does not see."""


@cache
def scores_of(wide: bool) -> Callable[..., Any]:
    """Return the kernel of scores for fp32 (`wide`) or bf16 keys: all heads of all queries score a page in turn."""
    tiles, bytes_ = tiles_of(DEFAULT.register_m, DEFAULT.register_n, wide), 4 if wide else 2

    @parallel
    def scores(q, weights, keys_at, page, table, lengths, out, threads):
        tokens, heads, dim = q.shape[1:]
        pages, units = table.shape[1], len(q) * table.shape[1]
        for thread in numba.prange(threads):
            part, sums = np.empty((heads, page), np.float32), np.empty(page, np.float32)
            for unit in range(units * thread // threads, units * (thread + 1) // threads):
                n, first = unit // pages, unit % pages * page
                last = min(first + page, out.shape[2])
                at = keys_at + np.int64(table[n, first // page]) * page * dim * bytes_
                for t in range(tokens):
                    seen = lengths[n] - tokens + t + 1
                    sums[:] = 0.0
                    if first < seen:
                        tiles(q[n, t].ctypes.data, heads, at, page, dim, part.ctypes.data, 4 * page)
                        for h in range(heads):
                            for s in range(page):
                                sums[s] += weights[n, t, h] * max(part[h, s], np.float32(0.0))
                    for s in range(first, last):
                        out[n, t, s] = sums[s - first] if s < seen else np.float32(-3.0e38)

    made: Callable[..., Any] = scores
    return made


def index_scores(q: F4, weights: F4, keys: npt.NDArray[Any], table: I4, lengths: I4, out: F4, threads: int = 1) -> None:
    """Compute the scores of queries at the ends of their sequences; shapes that do not match raise ValueError.

    Parameters
    ----------
    q, weights : float32 arrays, shapes (sequences, tokens, heads, dim), (sequences, tokens, heads)
    keys : array, shape (pages, page, dim), float32 or bf16 as uint16
    table, lengths : int32 arrays, shapes (sequences, pages of the longest), (sequences,)
        Pages of each sequence, and its keys, including its queries'.
    out : float32 array, shape (sequences, tokens, longest)
        `LOW` where a query sees no key.
    """
    page, dim = keys.shape[1:]
    if keys.dtype not in (np.float32, np.uint16) or page % 4 or dim % LANES:
        raise ValueError(f"keys {keys.shape} of {keys.dtype}: pages by 4, numbers by {LANES}")
    if dim != q.shape[3] or weights.shape != q.shape[:3] or out.shape[:2] != q.shape[:2]:
        raise ValueError(f"shapes {q.shape}, {weights.shape} and {out.shape} do not match")
    if lengths.max(initial=0) > min(out.shape[2], table.shape[1] * page):
        raise ValueError(f"{lengths.max()} keys, room for {out.shape[2]} and {table.shape} pages")
    kernel = scores_of(bool(keys.dtype == np.float32))
    kernel(q, weights, keys.ctypes.data, page, table, lengths, out, threads)


@inner
def _ordered(bits):
    """Return the bits of a float as an unsigned number with the same order as the float."""
    return ~bits if bits >> np.uint32(31) else bits | np.uint32(0x80000000)


@parallel
def _select(bits, lengths, tokens, k, out, threads):
    """Take the positions of the `k` highest scores of each row by a radix select; -1 fills short rows."""
    rows = len(bits)
    for thread in numba.prange(threads):
        counts = np.empty(2048, np.int64)
        for r in range(rows * thread // threads, rows * (thread + 1) // threads):
            n = lengths[r // tokens] - tokens + r % tokens + 1
            out[r] = -1
            prefix, known, missing = np.uint32(0), np.uint32(0), min(k, max(n, 0))
            for shift in (21, 10, 0):  # digits of 11, 11 and 10 bits
                mask = np.uint32(1023 if shift == 0 else 2047)
                counts[:] = 0
                for i in range(n):
                    x = _ordered(bits[r, i])
                    if x & known == prefix:
                        counts[(x >> np.uint32(shift)) & mask] += 1
                digit = np.int64(mask)
                while digit > 0 and counts[digit] < missing:
                    missing -= counts[digit]
                    digit -= 1
                prefix |= np.uint32(digit) << np.uint32(shift)
                known |= mask << np.uint32(shift)
            at = 0
            for i in range(n):
                x = _ordered(bits[r, i])
                if x > prefix or (x == prefix and missing > 0):
                    missing -= 1 if x == prefix else 0
                    out[r, at] = i
                    at += 1


def select(scores: F4, lengths: I4, k: int, threads: int = 1) -> I4:
    """Return the indices of the `k` best of finite scores, ascending; padded with -1 for a shorter sequence.

    `scores` and `lengths` as of `index_scores`; the result has shape (sequences, tokens, k).
    """
    batch, tokens, most = scores.shape
    out = np.empty((batch * tokens, k), np.int32)
    bits = np.ascontiguousarray(scores, np.float32).view(np.uint32).reshape(-1, most)
    _select(bits, lengths, tokens, k, out, threads)
    return out.reshape(batch, tokens, k)


def reference(q: F4, weights: F4, keys: npt.NDArray[Any], table: I4, length: int) -> npt.NDArray[np.float64]:
    """Return the scores of one sequence by the definition in fp64, shape (tokens, length)."""
    at = np.arange(length)
    cached = keys[table[at // keys.shape[1]], at % keys.shape[1]]
    wide = (cached if cached.dtype == np.float32 else from_bf16(cached)).astype(np.float64)
    products = np.maximum(np.einsum("thd,sd->ths", q.astype(np.float64), wide), 0.0)
    out = np.einsum("th,ths->ts", weights.astype(np.float64), products)
    seen = length - len(q) + np.arange(len(q))[:, None]
    return np.where(at[None] <= seen, out, float(LOW))


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes of decodes and a chunk of a prompt, with DeepSeek-V3.2's 64 heads and 2,048 chosen keys."""
    calls = [(1, 1, 4096), (4, 1, 8192), (1, 32, 4096)]
    calls += [] if quick else [(16, 1, 16384), (1, 256, 4096)]
    sizes = {"heads": 64, "dim": 128, "topk": 2048}
    return [{"dtype": dtype, **sizes, "batch": n, "tokens": t, "context": s}
            for dtype in ("fp32", "bf16") for n, t, s in calls]  # fmt: skip


def case(shape: Shape, bench: Bench) -> Case:
    """Return the case of one shape: scores, and then the choice."""
    n, tokens, length, heads, dim, best = (
        shape[name] for name in ("batch", "tokens", "context", "heads", "dim", "topk")
    )
    half, pages = shape["dtype"] == "bf16", -(-length // PAGE) * n
    key_bytes = (2.0 if half else 4.0) * pages * PAGE * dim
    keys = [bench.take((pages, PAGE, dim), half) for _ in range(bench.copies(key_bytes))]
    table = bench.rng.permutation(pages).astype(np.int32).reshape(n, -1)
    lengths, out = np.full(n, length, np.int32), np.empty((n, tokens, length), np.float32)
    q, weights = bench.take((n, tokens, heads, dim)), bench.take((n, tokens, heads))

    def run(i: int) -> I4:
        index_scores(q, weights, keys[i % len(keys)], table, lengths, out, bench.threads)
        return select(out, lengths, best, bench.threads)

    def check() -> None:
        out[:] = np.nan
        got, few = run(0)[0, -2:], slice(-2, None)
        want = reference(q[0, few], weights[0, few], keys[0], table[0], length)
        require(out[0, few], want, "fp32", f"indexer {dict(shape)}")
        right = np.argsort(-want, axis=1, kind="stable")[:, :best]
        if not same_choice(got, right, want, 1e-4 * float(want.max())):
            raise WrongResult(f"indexer {dict(shape)}: other keys than the reference's")

    moved = key_bytes + 4.0 * n * tokens * (3.0 * length + best + heads * (dim + 1))
    flops = 2.0 * n * tokens * (length - (tokens - 1) / 2.0) * heads * dim
    return Case({"kernel": "indexer", **shape}, flops, moved, len(keys), run, check)


CPU = add(Kernel("indexer", "numba", None, shapes, case))
