"""Decode attention to chosen keys: an indexer's tokens out of latents, or blocks for each key/value head.

A choice is the page table of the cache: tokens are pages of one key, blocks pages of their size. Of blocks
every key/value head has its own choice, so that each is a sequence here (`attention`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .attention import DEFAULT, AttentionInputs, Cache
from .lab import Bench, Case, Kernel, Shape, add
from .mla_decode import CONFIG, LATENT, ROPE, SCALE

BLOCK, DIM = 128, 128
"""Keys per block, and numbers per head, as in MiniMax-M3."""


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes with 2,048 chosen keys: latents chosen by token, or heads whose groups choose blocks."""
    kinds = ({"block": 1, "heads": 8, "heads_kv": 1}, {"block": BLOCK, "heads": 32, "heads_kv": 8})
    contexts = (8192,) if quick else (4096, 16384)
    return [
        {"dtype": "fp32", "batch": n, "context": context, "chosen": 2048, **kind}
        for kind in kinds for context in contexts for n in ((1,) if quick else (1, 2, 4))
    ]  # fmt: skip


def case(shape: Shape, bench: Bench) -> Case:
    """Return inputs for one shape; chosen positions are sorted, and no two lie on the same page."""
    latent = shape["block"] == 1
    dim, dim_v, scale = (LATENT + ROPE, LATENT, SCALE) if latent else (DIM, DIM, DIM**-0.5)
    rows, chosen = shape["batch"] * shape["heads_kv"], shape["chosen"]
    group = shape["heads"] // shape["heads_kv"]
    pages, most = shape["context"] // shape["block"], chosen // shape["block"]
    copies = bench.copies((4.0 if latent else 8.0) * rows * shape["context"] * dim)
    lengths, ones = np.full(rows, chosen, np.int64), np.ones(rows, np.int64)
    caches = []
    for _ in range(copies):
        keys = bench.take((rows * pages, 1, shape["block"], dim))
        values = keys if latent else bench.take(keys.shape)
        table = [np.sort(bench.rng.permutation(pages)[:most]) + pages * row for row in range(rows)]
        caches.append(Cache(keys, values, np.array(table, np.int32), lengths))
    inputs = AttentionInputs(bench.take((rows, 1, group, dim)), caches, ones, dim_v, scale)
    moved = 4.0 * rows * (chosen * (dim if latent else 2 * dim) + group * (dim + dim_v))
    flops = 2.0 * rows * group * chosen * (dim + dim_v)
    config = CONFIG if latent else DEFAULT
    return inputs.case({"kernel": "gathered_attention", **shape}, flops, moved, bench.threads, config)


CPU = add(Kernel("gathered_attention", "numba", None, shapes, case))
