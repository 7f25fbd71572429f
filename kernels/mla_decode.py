"""MLA decode in its absorbed form: all heads share one latent of 512 + 64 numbers a token.

Values are the first 512 numbers of the keys, so that each row is read once and used twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .attention import AttentionInputs, paged_cache
from .flash import AttentionConfig
from .lab import Bench, Case, Kernel, Shape, add

LATENT, ROPE = 512, 64
SCALE = (128 + ROPE) ** -0.5
"""Scale of the scores, as in the unabsorbed form, whose keys have 128 + 64 numbers (DeepSeek-V2)."""
CONFIG = AttentionConfig(chunk=256)
"""Default configuration: units have a quarter of the usual keys, because each key serves many heads."""


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes with the heads of one device of DeepSeek-V2-Lite (16) and with half of them."""
    lengths = (256, 1024) if quick else (128, 256, 512, 1024, 2048)
    return [
        {"kv_dtype": "fp32", "batch": batch, "q_len": 1, "kv_len": kv_len, "heads": heads}
        for heads in (8, 16)
        for batch in (1, 4)
        for kv_len in lengths
    ]


def case(shape: Shape, bench: Bench) -> Case:
    """Return the case of one shape."""
    batch, kv_len, heads, dim = shape["batch"], shape["kv_len"], shape["heads"], LATENT + ROPE
    moved = 4.0 * batch * (kv_len * dim + heads * (dim + LATENT))
    caches = [paged_cache(bench, batch, kv_len, 1, dim, latent=True) for _ in range(bench.copies(moved))]
    q = bench.take((batch, 1, heads, dim))
    inputs = AttentionInputs(q, caches, np.ones(batch, np.int64), LATENT, SCALE)
    columns = {"kernel": "mla_decode", "dtype": "fp32", **shape}
    return inputs.case(columns, 2.0 * batch * heads * kv_len * (dim + LATENT), moved, bench.threads, CONFIG)


CPU = add(Kernel("mla_decode", "numba", "mla", shapes, case))
