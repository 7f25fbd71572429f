"""GPU cases of sparse attention and recurrent layers; `CASES` are all GPU cases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from . import delta_rule, gpu, gpu_cases, indexer, mamba_scan, recurrent
from .gpu_cases import GpuCase, Prepared, Results, copies_of, normal
from .lab import Shape


def _index_shapes(quick: bool) -> Sequence[Shape]:
    calls = [(16, 1, 8192), (1, 64, 8192)]
    calls += [] if quick else [(1, 1, 131072), (64, 1, 32768), (1, 1024, 32768)]
    return [{"batch": n, "tokens": t, "context": s, "heads": 64, "dim": 128, "topk": 2048} for n, t, s in calls]


def _index(device: gpu.CupyDevice, shape: Shape) -> Prepared:
    """Prepare the scores of all keys and the choice of the best; the scores are checked."""
    cp, page = device.cupy, indexer.PAGE
    n, tokens, length, heads, dim, best = (
        shape[name] for name in ("batch", "tokens", "context", "heads", "dim", "topk")
    )
    pages = -(-length // page) * n
    copies = copies_of(2.0 * pages * page * dim)
    keys = [normal(device, pages, page, dim) for _ in range(copies)]
    q, weights = (normal(device, n, tokens, heads, dim), cp.asarray(normal(device, n, tokens, heads), "float32"))
    table = cp.random.permutation(pages).astype("int32").reshape(n, -1)
    lengths, chosen = cp.full(n, length, "int32"), cp.empty((n, tokens, best), "int32")
    scores = cp.empty((n, tokens, length), "float32")

    def run(i: int) -> None:
        gpu.index(device, q, weights, keys[i % copies], table, lengths, scores, chosen, "fp16")

    def results() -> Results:
        few = slice(-2, None)
        cached = cp.asnumpy(keys[0]).astype(np.float32)
        query = cp.asnumpy(q[0, few]).astype(np.float32)
        query_own = cp.asnumpy(weights[0, few]), cached, cp.asnumpy(table[0]), length
        return cp.asnumpy(scores[0, few]), indexer.reference(query, *query_own)

    moved = 2.0 * pages * page * dim + 4.0 * n * tokens * (2.0 * length + best)
    flops = 2.0 * n * tokens * (length - (tokens - 1) / 2.0) * heads * dim
    columns = {"kernel": "indexer", "dtype": "fp16", **shape}
    return Prepared(columns, "fp32", flops, moved, run, lambda: scores.fill(float("nan")), results)


def _states(device: gpu.CupyDevice, shape: Shape, name: str, channels: bool, erase: bool) -> Prepared:
    """Prepare a decode or prompts of a recurrence, with states in fp32; the outputs of a few sequences are checked."""
    cp, decode = device.cupy, shape["phase"] == delta_rule.DECODE
    by_heads = ("heads_k", "heads_v", "dim_k", "dim_v")
    shared, heads, keys, values = (
        shape[c] for c in (by_heads if "dim_k" in shape else ("groups", "heads", "state", "head_dim"))
    )
    lead = (shape["batch"],) if decode else (shape["batch"], shape["q_len"])
    q, k = (normal(device, *lead, shared, keys, scale=keys**-0.5) for _ in range(2))
    v, rng = normal(device, *lead, heads, values), np.random.default_rng(0)
    decay = cp.asarray(rng.uniform(0.7, 1.0, (*lead, heads, keys if channels else 1)), "float32")
    beta = cp.asarray(rng.uniform(0.0, 1.0, (*lead, heads)), "float32")
    x, size = (q, k, v, decay, beta), 4.0 * lead[0] * heads * values * keys
    copies = copies_of(size)
    before = cp.asarray(rng.standard_normal((lead[0], heads, values, keys)), "float32")
    states = [before.copy() for _ in range(copies)]
    y, worst = cp.empty(v.shape, "float16"), cp.empty(1, "int32")

    def run(i: int) -> None:
        gpu.recur(device, x, states[i % copies], y, worst, erase, "fp16")

    def poison() -> None:
        states[0][:] = before
        y.fill(float("nan"))

    def results() -> Results:
        few = [cp.asnumpy(a[delta_rule.FEW]).astype(np.float32) for a in x]
        tokens = recurrent.TokenInputs(*(a[:, None] if decode else a for a in few))
        want, _ = recurrent.reference(tokens, cp.asnumpy(before[delta_rule.FEW]), erase)
        return cp.asnumpy(y[delta_rule.FEW]), want[:, 0] if decode else want

    columns = {"kernel": f"opbyte_{'recurrent' if decode else 'chunk'}_{name}", **shape, "dtype": "fp16"}
    flops = (8.0 if erase else 6.0) * keys * values * beta.size
    moved = 2.0 * size + 2.0 * y.nbytes + sum(a.nbytes for a in (q, k, decay, beta))
    return Prepared(columns, "fp16", flops, moved, run, poison, results)


def _recurrent(name: str, family: str, shapes: Any, channels: bool = False, erase: bool = True) -> GpuCase:
    return GpuCase(name, family, shapes, partial(_states, name=name, channels=channels, erase=erase))


CASES = (
    *gpu_cases.CASES,
    GpuCase("indexer", None, _index_shapes, _index),
    _recurrent("delta_rule", "gdn", delta_rule.shapes),
    _recurrent("kda", "kda", delta_rule.shapes, channels=True),
    _recurrent("mamba_scan", "mamba2", mamba_scan.shapes, erase=False),
)
