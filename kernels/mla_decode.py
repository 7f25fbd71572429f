"""MLA decode in its absorbed form: all heads share one latent of 512 + 64 numbers a token.

Values are the first 512 numbers of the keys, so that each row is read once and used twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .attention import Cache, attend, plan, reference
from .attention_decode import PAGE
from .check import require
from .flash import AttentionConfig
from .lab import Bench, Case, Kernel, Shape, add

LATENT, ROPE = 512, 64
SCALE = (128 + ROPE) ** -0.5
"""Scores are scaled as in the unabsorbed form, whose keys have 128 + 64 numbers (DeepSeek-V2)."""
CONFIG = AttentionConfig(chunk=256)
"""A key serves many heads here: units are long in arithmetic at a quarter of the keys."""


def shapes(quick: bool) -> Sequence[Shape]:
    """Heads of one device of DeepSeek-V2-Lite (16) and of a cut of it."""
    lengths = (256, 1024) if quick else (128, 256, 512, 1024, 2048)
    return [
        {"kv_dtype": "fp32", "batch": batch, "q_len": 1, "kv_len": kv_len, "heads": heads}
        for heads in (8, 16)
        for batch in (1, 4)
        for kv_len in lengths
    ]


def case(shape: Shape, bench: Bench) -> Case:
    """Inputs for one shape."""
    batch, kv_len, heads, dim = shape["batch"], shape["kv_len"], shape["heads"], LATENT + ROPE
    moved = 4.0 * batch * (kv_len * dim + heads * (dim + LATENT))
    copies = bench.copies(moved)
    pages = -(-kv_len // PAGE) * batch
    lengths, queries = np.full(batch, kv_len, dtype=np.int64), np.ones(batch, np.int64)
    caches = []
    for _ in range(copies):
        latent = bench.take((pages, 1, PAGE, dim))
        table = bench.rng.permutation(pages).astype(np.int32).reshape(batch, -1)
        caches.append(Cache(latent, latent, table, lengths))
    q = bench.take((batch, 1, heads, dim))
    out = np.empty((batch, 1, heads, LATENT), np.float32)
    ready = plan(queries, lengths, heads, 1, LATENT, 0, bench.threads, CONFIG)

    def check() -> None:
        out[:] = np.nan
        attend(ready, q, caches[0], SCALE, out)
        want = reference(q, caches[0], queries, 0, SCALE, LATENT)
        require(out, want, "fp32", f"mla_decode {dict(shape)}")

    columns = {"kernel": "mla_decode", "dtype": "fp32", **shape}
    return Case(
        columns, 2.0 * batch * heads * kv_len * (dim + LATENT), moved, copies,
        lambda i: attend(ready, q, caches[i % copies], SCALE, out), check,
    )  # fmt: skip


CPU = add(Kernel("mla_decode", "numba", "mla", shapes, case))
