"""Shapes and inputs of the CUDA kernels, their checks, and torch's equivalents for comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from ..workloads.batch import visible_pairs
from . import attention, experts, four_bit, gpu, rmsnorm
from .lab import Shape

Results = tuple[Any, npt.NDArray[np.float64]]
"""What a GPU kernel computed, and the same by numpy."""

ROTATE_BYTES = 512 << 20
"""Size of the inputs of all copies together [B]: ten times the L2 of an H100."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One shape with its inputs on the device.

    Attributes
    ----------
    run, other : callable
        ``run(i, **config)`` on the i-th copy; `other` is torch's, where torch is installed.
    poison : callable
        Fills the outputs with NaN.
    results : callable
        The part of the output that is checked, and its reference.
    """

    columns: Mapping[str, Any]
    format_: str
    flops: float
    bytes: float
    run: Callable[..., object]
    poison: Callable[[], object]
    results: Callable[[], Results]
    other: Callable[[int], object] | None = None


@dataclass(frozen=True, slots=True)
class GpuCase:
    """Shapes of a kernel, and the function that prepares one of them."""

    name: str
    family: str | None
    shapes: Callable[[bool], Sequence[Shape]]
    prepare: Callable[[gpu.CupyDevice, Shape], Prepared]


def normal(device: gpu.CupyDevice, *shape: int, scale: float = 1.0) -> Any:
    """Return random fp16 numbers."""
    values = device.cupy.random.standard_normal(shape, dtype="float32")
    return (values * np.float32(scale)).astype("float16")


def copies_of(bytes_: float) -> int:
    """Return the number of input copies of a size such that no cache holds them all."""
    return max(1, min(32, int(ROTATE_BYTES / bytes_) + 1))


def _torch() -> Any:
    """Return torch if it is installed with CUDA, else None."""
    if find_spec("torch") is None:
        return None
    torch = import_module("torch")  # only for comparison: no dependency of the package
    return torch if torch.cuda.is_available() else None


def _stream(torch: Any, cp: Any) -> Any:
    """Return a torch context that uses CuPy's stream."""
    return torch.cuda.stream(torch.cuda.ExternalStream(cp.cuda.get_current_stream().ptr))


def _decode_shapes(quick: bool) -> Sequence[Shape]:
    full = [(1, 4096), (16, 4096), (64, 4096)] if quick else [
        (b, n) for b in (1, 4, 16, 64, 128) for n in (512, 2048, 8192, 32768) if b * n <= 1 << 20
    ]  # fmt: skip
    return [
        {"batch": b, "kv_len": n, "heads_q": 32, "heads_kv": kv, "head_dim": 128, "window": 0}
        for kv in (8, 4)
        for b, n in full
    ]


def _decode(device: gpu.CupyDevice, shape: Shape) -> Prepared:
    """Prepare decode attention of a batch of equal contexts over paged keys and values."""
    cp, page = device.cupy, 64
    batch, length, heads, kv, dim = (shape[n] for n in ("batch", "kv_len", "heads_q", "heads_kv", "head_dim"))
    pages = -(-length // page) * batch
    moved = 4.0 * batch * length * kv * dim + 4.0 * batch * heads * dim
    copies = copies_of(moved)
    caches = [(normal(device, pages, kv, page, dim), normal(device, pages, kv, page, dim)) for _ in range(copies)]
    table = cp.random.permutation(pages).astype("int32").reshape(batch, -1)
    lengths = cp.full(batch, length, "int32")
    q, y = normal(device, batch, heads, dim), cp.empty((batch, heads, dim), "float16")

    def run(i: int, **config: int) -> None:
        keys, values = caches[i % copies]
        gpu.decode(device, q, keys, values, table, lengths, y, length, 0, dim**-0.5, "fp16", **config)

    def results() -> Results:
        one = slice(0, 1)  # a sequence: gathering all of them in fp64 takes minutes
        keys, values = (cp.asnumpy(c).astype(np.float32) for c in caches[0])
        cache = attention.Cache(keys, values, cp.asnumpy(table)[one], np.array([length]))
        want = attention.reference(
            cp.asnumpy(q)[one, None].astype(np.float32), cache, np.ones(1, np.int64), 0, dim**-0.5, dim
        )
        return cp.asnumpy(y)[one, None], want

    other = None
    torch = _torch()
    if torch is not None:
        flat = [[torch.randn(batch, kv, length, dim, device="cuda", dtype=torch.float16)
                 for _ in range(2)] for _ in range(copies)]  # fmt: skip
        query = torch.randn(batch, heads, 1, dim, device="cuda", dtype=torch.float16)

        def other(i: int) -> None:
            with _stream(torch, cp):
                torch.nn.functional.scaled_dot_product_attention(query, *flat[i % copies], enable_gqa=True)

    columns = {"kernel": "opbyte_decode", "dtype": "fp16", "kv_dtype": "fp16", **shape}
    return Prepared(columns, "fp16", 4.0 * batch * heads * dim * length, moved, run,
                    lambda: y.fill(float("nan")), results, other)  # fmt: skip


def _norm_shapes(quick: bool) -> Sequence[Shape]:
    rows = (16, 4096) if quick else (1, 16, 256, 4096, 16384)
    return [{"kernel": k, "rows": r, "cols": c} for k in ("rmsnorm", "fused_add_rmsnorm")
            for r in rows for c in ((4096,) if quick else (2048, 4096, 8192))]  # fmt: skip


def _norm(device: gpu.CupyDevice, shape: Shape) -> Prepared:
    """Prepare RMSNorm, with a residual added before it if the shape's kernel says so."""
    cp, rows, cols = device.cupy, shape["rows"], shape["cols"]
    added = shape["kernel"] == "fused_add_rmsnorm"
    moved = 2.0 * rows * cols * (4 if added else 2)
    copies = copies_of(moved)
    inputs = [normal(device, rows, cols) for _ in range(copies)]
    rests = [normal(device, rows, cols) for _ in range(copies)] if added else [None]
    w = normal(device, cols)
    outputs = [cp.empty((rows, cols), "float16") for _ in range(copies)]
    before = cp.asnumpy(rests[0]).astype(np.float32) if added else None

    def run(i: int) -> None:
        rest = rests[i % len(rests)]
        gpu.rmsnorm(device, inputs[i % copies], w, outputs[i % copies], rest, "fp16")

    def results() -> Results:
        x = cp.asnumpy(inputs[0]).astype(np.float32)
        want = rmsnorm.reference(x, cp.asnumpy(w).astype(np.float32), before)
        return cp.asnumpy(outputs[0]), want

    other = None
    torch = _torch()
    if torch is not None and not added:
        x = [torch.randn(rows, cols, device="cuda", dtype=torch.float16) for _ in range(copies)]
        scale = torch.randn(cols, device="cuda", dtype=torch.float16)

        def other(i: int) -> None:
            with _stream(torch, cp):
                torch.nn.functional.rms_norm(x[i % copies], (cols,), scale, 1e-6)

    return Prepared({"dtype": "fp16", **shape}, "fp16", 0.0, moved, run,
                    lambda: outputs[0].fill(float("nan")), results, other)  # fmt: skip


def _expert_shapes(quick: bool) -> Sequence[Shape]:
    sizes = [(2048, 768, 128, 8), (4096, 14336, 8, 2)]
    tokens = (1, 16, 256) if quick else (1, 4, 16, 64, 256, 1024, 4096)
    return [{"tokens": t, "hidden": h, "inter": i, "experts": e, "topk": k} for h, i, e, k in sizes for t in tokens]


def _four_bit_shapes(quick: bool) -> Sequence[Shape]:
    return [{"dtype": f, **s} for f in four_bit.BLOCK for s in _expert_shapes(quick) if s["tokens"] < 1024]


def _experts(device: gpu.CupyDevice, shape: Shape) -> Prepared:
    """Prepare the expert layer: sort, gather, grouped GEMMs and the weighted sum, on weights too large for a cache."""
    cp = device.cupy
    tokens, hidden, inter, count, k = (shape[n] for n in ("tokens", "hidden", "inter", "experts", "topk"))
    format_, rng = shape.get("dtype", "fp16"), np.random.default_rng(0)
    block = four_bit.BLOCK.get(format_, 0)
    ids = experts.balanced(tokens, count, k, rng)
    active, slots, one = len(np.unique(ids)), tokens * k, 3 * hidden * inter
    size = 2.0 * one if not block else float(
        2 * inter * four_bit.row_bytes(hidden, format_) + hidden * four_bit.row_bytes(inter, format_)
    )  # fmt: skip
    moved = active * size + 4.0 * tokens * hidden
    copies = min(copies_of(count * size), 4)

    def weights_of(rows: int, n: int) -> Any:
        if block:
            return cp.asarray(four_bit.drawn(rng, (count, rows, n), format_))
        return normal(device, count, rows, n, scale=hidden**-0.5)

    sides = ((inter, hidden), (inter, hidden), (hidden, inter))
    sets = [[weights_of(*side) for side in sides] for _ in range(copies)]
    x = normal(device, tokens, hidden)
    chosen, weights = cp.asarray(ids), cp.full((tokens, k), 1.0 / k, "float32")
    offsets, order, position = (cp.empty(n, "int32") for n in (count + 1, slots, slots))
    rows, h, y = (cp.empty((slots, n), "float16") for n in (hidden, inter, hidden))
    out = cp.empty((tokens, hidden), "float16")

    def run(i: int, **config: int) -> None:
        gpu.sort_slots(device, chosen, count, offsets, order, position)
        gpu.gather(device, x, order, k, rows, "fp16")
        gate, up, down = sets[i % copies]
        gpu.experts_layer(device, rows, offsets, gate, up, down, h, y, "fp16", block=block, **config)
        gpu.combine(device, y, position, weights, out, "fp16")

    def results() -> Results:
        few = sorted({0, tokens // 2, tokens - 1})
        position_held = {int(e): n for n, e in enumerate(np.unique(ids[few]))}
        mine = cp.asarray(sorted(position_held))
        exact = [cp.asnumpy(m[mine]) for m in sets[0]]
        if block:
            w = four_bit.FourBitWeights(exact[0], exact[1], exact[2], format_).exact(range(len(position_held)))
        else:
            w = experts.ExpertWeights(*(m.astype(np.float32) for m in exact))
        local = np.vectorize(position_held.get)(ids[few])
        share = np.full((len(few), k), 1.0 / k, np.float32)
        want = experts.reference(cp.asnumpy(x)[few].astype(np.float32), local, share, w)
        return cp.asnumpy(out)[few], want

    columns = {
        "kernel": "fused_moe", "dtype": format_, **shape, "tp": 1, "ep": 1, "gated": 1,
        "distribution": "balanced", "active_experts": active,
    }  # fmt: skip
    return Prepared(columns, "fp16", 2.0 * slots * one, moved, run,
                    lambda: [b.fill(float("nan")) for b in (rows, h, y, out)], results)  # fmt: skip


def _gemm_shapes(quick: bool) -> Sequence[Shape]:
    sides = ((4096, 4096),) if quick else ((4096, 4096), (8192, 8192), (28672, 4096))
    rows = (128, 4096) if quick else (16, 128, 1024, 4096, 8192)
    return [{"m": m, "n": n, "k": k, "batch": 1} for n, k in sides for m in rows]


def _gemm(device: gpu.CupyDevice, shape: Shape) -> Prepared:
    """Prepare the project's tiled product, and CuPy's (cuBLAS) for comparison."""
    cp, m, n, k = device.cupy, shape["m"], shape["n"], shape["k"]
    copies = min(copies_of(2.0 * n * k), 8)
    weights = [normal(device, 1, n, k, scale=k**-0.5) for _ in range(copies)]
    x, y, z = normal(device, m, k), cp.empty((m, n), "float16"), cp.empty((m, n), "float16")
    offsets = cp.asarray([0, m], dtype="int32")

    def run(i: int, **config: int) -> None:
        gpu.grouped_gemm(device, x, offsets, weights[i % copies], y, m, "fp16", **config)

    def results() -> Results:
        few = min(m, 64)
        left = cp.asnumpy(x)[:few].astype(np.float64)
        return cp.asnumpy(y)[:few], left @ cp.asnumpy(weights[0][0]).astype(np.float64).T

    return Prepared(
        {"kernel": "gemm", "dtype": "fp16", **shape}, "fp16", 2.0 * m * n * k,
        2.0 * (n * k + m * (n + k)), run, lambda: y.fill(float("nan")), results,
        lambda i: cp.matmul(x, weights[i % copies][0].T, out=z),
    )  # fmt: skip


def _prefill_shapes(quick: bool) -> Sequence[Shape]:
    lengths = (1024, 4096) if quick else (512, 1024, 4096, 16384)
    out: list[Shape] = [
        {"batch": 1, "q_len": n, "kv_prefix": 0, "heads_q": 32, "heads_kv": 8, "head_dim": 128,
         "window": window, "causal": 1}
        for n in lengths for window in (0, 1024) if window < n
    ]  # fmt: skip
    return out


def _prefill(device: gpu.CupyDevice, shape: Shape) -> Prepared:
    """Prepare prefill attention of one prompt over paged keys and values."""
    cp, page = device.cupy, 64
    n, heads, kv, dim, window = (shape[name] for name in ("q_len", "heads_q", "heads_kv", "head_dim", "window"))
    pages = -(-n // page)
    keys, values = (normal(device, pages, kv, page, dim) for _ in range(2))
    table = cp.random.permutation(pages).astype("int32").reshape(1, -1)
    counts = cp.full(1, n, "int32")
    q, y = normal(device, 1, n, heads, dim), cp.empty((1, n, heads, dim), "float16")

    def run(i: int) -> None:
        gpu.prefill(device, q, keys, values, table, counts, counts, y, window, dim**-0.5, "fp16")

    def results() -> Results:
        few = slice(n - 32, n)  # the last positions see most; the scores of all take gigabytes
        held_k, held_v = (cp.asnumpy(c).astype(np.float32) for c in (keys, values))
        cache = attention.Cache(held_k, held_v, cp.asnumpy(table), np.array([n]))
        part = cp.asnumpy(q[:, few]).astype(np.float32)
        want = attention.reference(part, cache, np.array([32]), window, dim**-0.5, dim)
        return cp.asnumpy(y[:, few]), want

    other = None
    torch = _torch()
    if torch is not None and not window:
        parts = [torch.randn(1, h, n, dim, device="cuda", dtype=torch.float16) for h in (heads, kv, kv)]

        def other(i: int) -> None:
            with _stream(torch, cp):
                torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)

    pairs = float(visible_pairs(np.array([n]), window)[0])
    columns = {"kernel": "opbyte_prefill", "dtype": "fp16", "kv_dtype": "fp16", **shape}
    return Prepared(columns, "fp16", 4.0 * heads * dim * pairs, 4.0 * n * dim * (heads + kv), run,
                    lambda: y.fill(float("nan")), results, other)  # fmt: skip


def _mla_shapes(quick: bool) -> Sequence[Shape]:
    full = [(16, 4096)] if quick else [(1, 4096), (16, 4096), (64, 4096), (16, 32768)]
    return [{"kv_dtype": "fp16", "batch": b, "q_len": 1, "kv_len": n, "heads": heads}
            for heads in (16, 128) for b, n in full]  # fmt: skip


def _gathered_shapes(quick: bool) -> Sequence[Shape]:
    return [{"batch": n, "context": 32768, "chosen": 2048, "heads": heads}
            for heads in (16, 128) for n in ((16,) if quick else (1, 16, 64))]  # fmt: skip


def _mla(device: gpu.CupyDevice, shape: Shape) -> Prepared:
    """Prepare absorbed attention to all latents, or to chosen ones, for which the page table lists single keys."""
    cp, batch, heads = device.cupy, shape["batch"], shape["heads"]
    n, page = (shape["chosen"], 1) if "chosen" in shape else (shape["kv_len"], 64)
    keys = shape.get("context", -(-n // page))
    moved = 1152.0 * batch * n + 2.0 * batch * heads * (576 + 512)
    copies = copies_of(1152.0 * batch * keys * page)
    caches = [normal(device, batch * keys, page, 576) for _ in range(copies)]
    rng = np.random.default_rng(0)
    if page == 1:
        rows = [np.sort(rng.permutation(keys)[:n]) + i * keys for i in range(batch)]
    else:
        rows = [*rng.permutation(batch * keys).reshape(batch, -1)]
    table, lengths = cp.asarray(np.array(rows), "int32"), cp.full(batch, n, "int32")
    q, y = normal(device, batch, heads, 576), cp.empty((batch, heads, 512), "float16")
    scale = 192**-0.5

    def run(i: int, **config: int) -> None:
        gpu.mla_decode(device, q, caches[i % copies], table, lengths, y, n, scale, "fp16", **config)

    def results() -> Results:
        one = slice(0, 1)
        cached = cp.asnumpy(caches[0]).astype(np.float32)[:, None]
        cache = attention.Cache(cached, cached, cp.asnumpy(table)[one], np.array([n]))
        part = cp.asnumpy(q[one]).astype(np.float32)[:, None]
        want = attention.reference(part, cache, np.ones(1, np.int64), 0, scale, 512)
        return cp.asnumpy(y[one])[:, None], want

    name = "gathered_attention" if page == 1 else "mla_decode"
    columns, flops = ({"kernel": name, "dtype": "fp16", **shape}, 2.0 * batch * heads * n * (576 + 512))
    return Prepared(columns, "fp16", flops, moved, run, lambda: y.fill(float("nan")), results)


CASES = (
    GpuCase("attention_decode", "attention_decode", _decode_shapes, _decode),
    GpuCase("attention_prefill", "attention_prefill", _prefill_shapes, _prefill),
    GpuCase("mla_decode", "mla", _mla_shapes, _mla),
    GpuCase("gathered_attention", None, _gathered_shapes, _mla),
    GpuCase("experts", "moe", _expert_shapes, _experts),
    GpuCase("four_bit", "moe", _four_bit_shapes, _experts),
    GpuCase("rmsnorm", "norm", _norm_shapes, _norm),
    GpuCase("gemm", "gemm", _gemm_shapes, _gemm),
)
