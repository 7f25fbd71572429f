"""Causal prefill attention, with or without a sliding window and earlier keys.

The queries of a block of positions share each tile of keys; see `flash` for the CPU kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..workloads.batch import visible_pairs
from .attention import paged_inputs
from .lab import Bench, Case, Kernel, Shape, add


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes of whole prompts and of chunks of prompts."""
    out: list[Shape] = []
    for heads_q, heads_kv, dim in ((16, 4, 64), (32, 8, 128)):
        for q_len in (16, 32, 64, 128, 256) if quick else (16, 32, 64, 128, 256, 512, 1024):
            for prefix in (0, 128, 512):
                out.append({"batch": 1, "q_len": q_len, "kv_prefix": prefix, "heads_q": heads_q,
                                "heads_kv": heads_kv, "head_dim": dim, "window": 0, "causal": 1})  # fmt: skip
    if not quick:
        out.append({"batch": 1, "q_len": 2048, "kv_prefix": 0, "heads_q": 16, "heads_kv": 4, "head_dim": 64,
                        "window": 256, "causal": 1})  # fmt: skip
    return out


def case(shape: Shape, bench: Bench) -> Case:
    """Return the case of one shape."""
    batch, q_len, prefix = shape["batch"], shape["q_len"], shape["kv_prefix"]
    heads_q, heads_kv, dim, window = (shape[name] for name in ("heads_q", "heads_kv", "head_dim", "window"))
    kv_len = q_len + prefix
    moved = 4.0 * batch * dim * (2 * heads_q * q_len + 2 * heads_kv * kv_len)
    all_, before = visible_pairs(np.array([kv_len, prefix]), window)
    columns = {"kernel": "opbyte_prefill", "dtype": "fp32", "kv_dtype": "fp32", **shape}
    flops = 4.0 * batch * heads_q * dim * float(all_ - before)
    return paged_inputs(shape, bench, moved).case(columns, flops, moved, bench.threads)


CPU = add(Kernel("attention_prefill", "numba", "attention_prefill", shapes, case))
