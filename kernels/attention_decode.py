"""GQA decode attention: one query position a sequence against its cached keys and values.

Contiguous or paged cache, ragged lengths, sliding window, long sequences split over threads; see
`attention` for the layout and `flash` for the CPU kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .attention import Cache, attend, plan, reference
from .check import require
from .lab import Bench, Case, Kernel, Shape, add

PAGE = 128


def paged_cache(bench: Bench, batch: int, kv_len: int, heads: int, dim: int) -> Cache:
    """A cache of scattered pages of `PAGE` keys."""
    pages = -(-kv_len // PAGE) * batch
    keys, values = (bench.take((pages, heads, PAGE, dim)) for _ in range(2))
    table = bench.rng.permutation(pages).astype(np.int32).reshape(batch, -1)
    return Cache(keys, values, table, np.full(batch, kv_len, dtype=np.int64))


def with_numpy(q: npt.NDArray[Any], keys: Any, values: Any, scale: float) -> npt.NDArray[Any]:
    """The usual NumPy: two batched products and a softmax, on a contiguous cache.

    `q` is (batch, heads_kv, group, dim), keys and values (batch, heads_kv, length, dim).
    """
    score = np.matmul(q, keys.swapaxes(2, 3)) * np.float32(scale)
    score -= score.max(3, keepdims=True)
    np.exp(score, out=score)
    score /= score.sum(3, keepdims=True)
    out: npt.NDArray[Any] = np.matmul(score, values)
    return out


def shapes(quick: bool) -> Sequence[Shape]:
    """Batches and contexts of a small and a usual model."""
    batches = (1, 4, 16) if quick else (1, 2, 4, 8, 16, 32)
    lengths = (128, 512, 1024, 2048) if quick else (64, 128, 256, 512, 1024, 2048, 4096)
    full = [(n, length, heads, 0) for heads in ((16, 4, 64), (32, 8, 128)) for n in batches
            for length in lengths if n * length * heads[1] * heads[2] <= 16 * 1024 * 8 * 128]  # fmt: skip
    windows = (512,) if quick else (256, 512, 1024)
    return [
        {"batch": n, "kv_len": length, "heads_q": q, "heads_kv": kv, "head_dim": dim, "window": window}
        for n, length, (q, kv, dim), window in [*full, *((1, 4096, (32, 8, 128), w) for w in windows)]
    ]


def case(shape: Shape, bench: Bench) -> Case:
    """Inputs for one shape, and the same by NumPy."""
    batch, kv_len, window = shape["batch"], shape["kv_len"], shape["window"]
    heads_q, heads_kv, dim = shape["heads_q"], shape["heads_kv"], shape["head_dim"]
    seen = min(kv_len, window) if window else kv_len
    cache_bytes = 8.0 * batch * kv_len * heads_kv * dim
    copies = bench.copies(cache_bytes)
    caches = [paged_cache(bench, batch, kv_len, heads_kv, dim) for _ in range(copies)]
    q = bench.take((batch, 1, heads_q, dim))
    queries, out = np.ones(batch, np.int64), np.empty_like(q)
    ready = plan(queries, caches[0].lengths, heads_q, heads_kv, dim, window, bench.threads)
    scale = dim**-0.5

    def check() -> None:
        out[:] = np.nan
        attend(ready, q, caches[0], scale, out)
        want = reference(q, caches[0], queries, window, scale, dim)
        require(out, want, "fp32", f"attention_decode {dict(shape)}")

    grouped = q.reshape(batch, heads_kv, -1, dim)
    flat = [bench.take((2, batch, heads_kv, kv_len, dim)) for _ in range(copies)]
    columns = {"kernel": "opbyte_decode", "dtype": "fp32", "kv_dtype": "fp32", **shape}
    moved = 8.0 * batch * heads_kv * dim * seen + 8.0 * batch * heads_q * dim
    return Case(
        columns, 4.0 * batch * heads_q * dim * seen, moved, copies,
        lambda i: attend(ready, q, caches[i % copies], scale, out), check,
        lambda i: with_numpy(grouped, flat[i % copies][0], flat[i % copies][1], scale),
    )  # fmt: skip


CPU = add(Kernel("attention_decode", "numba", "attention_decode", shapes, case))
