"""GQA decode attention: one query position a sequence against its cached keys and values.

Contiguous or paged cache, ragged lengths, sliding window, long sequences split over threads; see
`attention` for the layout and `flash` for the CPU kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from .attention import paged_inputs
from .lab import Bench, Case, Kernel, Shape, add


def shapes(quick: bool) -> Sequence[Shape]:
    """Return batches and contexts of a small and a usual model."""
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
    """Return the case of one shape."""
    batch, kv_len, window = shape["batch"], shape["kv_len"], shape["window"]
    heads_q, heads_kv, dim = shape["heads_q"], shape["heads_kv"], shape["head_dim"]
    seen = min(kv_len, window) if window else kv_len
    columns = {"kernel": "opbyte_decode", "dtype": "fp32", "kv_dtype": "fp32", **shape}
    moved = 8.0 * batch * heads_kv * dim * seen + 8.0 * batch * heads_q * dim
    flops = 4.0 * batch * heads_q * dim * seen
    return paged_inputs(shape, bench).case(columns, flops, moved, bench.threads)


CPU = add(Kernel("attention_decode", "numba", "attention_decode", shapes, case))
