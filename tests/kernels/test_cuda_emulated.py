"""Do the CUDA kernels compute the right thing? Run thread by thread on the CPU.

What this checks: fragment layouts, indices, masks, edges, barriers. What it cannot: races within a warp,
speed, and the compiler. Expected values: the references of the CPU kernels, on the same rounded inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opbyte.kernels import attention, experts, four_bit, indexer, permute, recurrent, rmsnorm, router
from opbyte.kernels.check import from_bf16, require, to_bf16

from . import emulate
from .test_cpu_kernels import paged

pytestmark = pytest.mark.skipif(emulate.COMPILER is None, reason="no g++ to run CUDA sources on the CPU")
Build = Callable[..., Any]
PLAIN = {"fp16": (), "bf16": ("USE_BF16",)}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder: Path = tmp_path_factory.mktemp("emulated")
    made: dict[tuple[str, ...], Any] = {}

    def get(name: str, *macros: str) -> Any:
        key = (name, *macros)
        if key not in made:
            made[key] = emulate.Emulated(name, macros, folder)
        return made[key]

    return get


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers as the device stores them."""
    return to_bf16(x) if dtype == "bf16" else x.astype(np.float16)


def wide(x: np.ndarray, dtype: str) -> np.ndarray:
    return from_bf16(x) if dtype == "bf16" else x.astype(np.float32)


def poison(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """NaN in every place."""
    return np.full(shape, 0x7FFF, np.uint16) if dtype == "bf16" else np.full(shape, np.nan, "f2")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("residual", [False, True])
def test_rmsnorm(build: Build, dtype: str, residual: bool) -> None:
    run = build("rmsnorm", "COLS=1024", *PLAIN[dtype])
    x, w = rounded(normal(1, 3, 1024), dtype), rounded(normal(2, 1024), dtype)
    r = rounded(normal(3, 3, 1024), dtype) if residual else None
    before = None if r is None else wide(r.copy(), dtype)
    y = poison((3, 1024), dtype)
    run("rmsnorm", (2,), 128, x, r, w, y, 3, rmsnorm.EPS)
    want = rmsnorm.reference(wide(x, dtype), wide(w, dtype), before)
    require(wide(y, dtype), want, dtype, "rmsnorm")


@pytest.mark.parametrize("kind", router.KINDS)
@pytest.mark.parametrize(("count", "k"), [(8, 2), (128, 8), (8, 8)])
def test_router(build: Build, kind: str, count: int, k: int) -> None:
    run = build("router", f"EXPERTS={count}")
    logits = normal(4, 5, count)
    logits[2] = 0.5  # ties
    bias = normal(5, count) if kind == "sigmoid" else np.zeros(count, np.float32)
    ids, weights = np.full((5, k), -1, np.int32), np.full((5, k), np.nan, np.float32)
    run("route", (2,), 128, logits, bias, ids, weights, 5, k, int(kind == "sigmoid"), 1)
    want_ids, want = router.reference(logits, k, kind, bias if kind == "sigmoid" else None)
    assert ids.tolist() == want_ids.tolist()
    require(weights, want, "fp32", "router weights")


@pytest.mark.parametrize("kind", ["drawn", "one-hot"])
def test_permute(build: Build, kind: str) -> None:
    tokens, k, count, hidden = 37, 3, 10, 136
    rng = np.random.default_rng(6)
    drawn = np.stack([rng.permutation(count)[:k] for _ in range(tokens)])
    ids = (drawn if kind == "drawn" else np.tile([4, 7, 9], (tokens, 1))).astype(np.int32)
    run = build("permute")
    offsets, slots, position = (np.full(n, -7, np.int32) for n in (count + 1, 111, 111))
    run("sort_slots", (3,), 128, ids, offsets, slots, position, 111, count)
    order = permute.sort_slots(ids, count)
    assert offsets.tolist() == order.offsets.tolist()
    assert slots.tolist() == order.slots.tolist()
    assert position.tolist() == order.position.tolist()
    x, weights = normal(7, tokens, hidden).astype(np.float16), rng.random((tokens, k), np.float32)
    gathered, out = poison((111, hidden), "fp16"), poison((tokens, hidden), "fp16")
    run("gather_rows", (5,), 32, x, slots, gathered, 111, k, hidden)
    np.testing.assert_array_equal(gathered, x[slots // k])
    run("combine_rows", (5,), 32, gathered, position, weights, out, tokens, k, hidden)
    require(out, x.astype(float) * weights.sum(1, dtype=float)[:, None], "fp16", "combine")


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(("tiles", "packed"), [(1, None), (2, None), *((2, name) for name in four_bit.BLOCK)])
def test_experts(build: Build, dtype: str, tiles: int, packed: str | None) -> None:
    """An empty expert, one token, a full tile, and more tokens than tiles; four-bit rows are those of the CPU's kernel."""
    hidden, inter, counts = 256, 128, [1, 0, 8, 19]
    offsets, n = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), len(counts)
    slots, shapes = int(offsets[-1]), ((n, inter, hidden), (n, inter, hidden), (n, hidden, inter))
    made: Any = [normal(8 + i, *s) / 8 for i, s in enumerate(shapes)]
    if packed:
        made = [four_bit.pack(m, packed) for m in made]
        exact = four_bit.FourBitWeights(*made, packed).exact(range(n))
    else:
        made = [rounded(m, dtype) for m in made]
        exact = experts.ExpertWeights(*(wide(m, dtype) for m in made))
    gate, up, down = made
    x = rounded(normal(12, slots, hidden), dtype)
    h, y = poison((slots, inter), dtype), poison((slots, hidden), dtype)
    four = [f"FOUR={four_bit.BLOCK[packed]}"] if packed else []
    run = build("experts", f"NT={tiles}", *four, *PLAIN[dtype])
    run("gate_up", (inter // 16, n), 128, x, offsets, gate, up, h, hidden, inter)
    run("down", (hidden // 16, n), 128, h, offsets, down, y, hidden, inter)
    ids = np.repeat(np.arange(n), counts)[:, None]
    want = experts.reference(wide(x, dtype), ids, np.ones((slots, 1), np.float32), exact)
    require(wide(y, dtype), want, dtype, "experts")


def cache_of(
    lengths: list[int], heads: int, dim: int, page: int, dtype: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, attention.Cache]:
    """Scattered pages with NaN in every unused place as the device stores them, and the same in fp32."""
    given = paged(np.random.default_rng(13), lengths, heads, dim, page)
    keys, values = (rounded(x, dtype) for x in (given.keys, given.values))
    return keys, values, given.table, replace(given, keys=wide(keys, dtype), values=wide(values, dtype))


@pytest.mark.parametrize(
    ("lengths", "heads_kv", "group", "dim", "page", "window", "splits", "dtype"),
    [
        ([37, 0, 1, 200], 2, 4, 64, 16, 0, 2, "fp16"),
        ([150], 1, 18, 64, 64, 50, 1, "bf16"),  # more query heads than rows; a window
        ([100], 1, 8, 128, 16, 0, 3, "fp16"),
    ],
)
def test_decode(
    build: Build, lengths: list[int], heads_kv: int, group: int, dim: int, page: int, window: int,
    splits: int, dtype: str,
) -> None:  # fmt: skip
    keys, values, table, known = cache_of(lengths, heads_kv, dim, page, dtype)
    heads, parts = heads_kv * group, 4 * splits
    q = rounded(normal(14, len(lengths), 1, heads, dim), dtype)
    tops, sums = (np.full((len(lengths), heads, parts), np.nan, np.float32) for _ in "ab")
    outs = np.full((len(lengths), heads, parts, dim), np.nan, np.float32)
    y = poison(q.shape, dtype)
    run = build("attention", f"DIM={dim}", *PLAIN[dtype])
    run("decode", (splits, heads_kv * -(-group // 16), len(lengths)), 128, q, keys, values, table,
        np.array(lengths, np.int32), tops, sums, outs, heads_kv, group, page.bit_length() - 1,
        table.shape[1], window, dim**-0.5)  # fmt: skip
    run("merge", (len(lengths) * heads,), dim, tops, sums, outs, y, parts)
    ones = np.ones(len(lengths), np.int64)
    want = attention.reference(wide(q, dtype), known, ones, window, dim**-0.5, dim)
    require(wide(y, dtype), want, dtype, "decode")


@pytest.mark.parametrize("window", [0, 20])
def test_prefill(build: Build, window: int) -> None:
    lengths, queries = [75, 40], np.array([70, 9], np.int32)
    keys, values, table, known = cache_of(lengths, 2, 64, 16, "fp16")
    q = normal(15, 2, 70, 4, 64).astype(np.float16)
    y = np.zeros(q.shape, np.float16)
    for b, count in enumerate(queries):
        y[b, :count] = np.nan
    build("attention", "DIM=64")(
        "prefill", (2, 4, 2), 128, q, keys, values, table, np.array(lengths, np.int32), queries, y,
        70, 4, 2, 4, table.shape[1], window, 0.125,
    )  # fmt: skip
    want = attention.reference(q.astype(np.float32), known, queries.astype(np.int64), window, 0.125, 64)
    require(y, want, "fp16", "prefill")


def test_grouped_gemm(build: Build) -> None:
    """No rows, one row, more than a tile; columns that fill no tile."""
    counts, n, k = [3, 0, 130], 136, 64
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    x, w = normal(16, 133, k).astype(np.float16), normal(17, 3, n, k).astype(np.float16)
    y = poison((133, n), "fp16")
    run = build("gemm")
    run("grouped_gemm", (2, 2, 3), 256, x, offsets, w, y, n, k)
    want = np.concatenate(
        [x[a:b].astype(float) @ w[e].T.astype(float) for e, (a, b) in enumerate(itertools.pairwise(offsets))]
    )
    require(y, want, "fp16", "grouped GEMM")
    a, b = normal(18, 40).astype(np.float16), normal(19, 40).astype(np.float16)
    h = poison((40,), "fp16")
    run("swiglu", (1,), 32, a, b, h, np.int64(40))
    exact = a.astype(float) / (1 + np.exp(-a.astype(float))) * b.astype(float)
    require(h[None], exact[None], "fp16", "swiglu")


@pytest.mark.parametrize("page", [1, 32])
def test_mla_decode(build: Build, page: int) -> None:
    """Pages of one key are a choice of keys: the absorbed form of DeepSeek's sparse attention."""
    lengths, heads, splits = [70, 0, 130], 18, 2
    keys, _, table, known = cache_of(lengths, 1, 576, page, "fp16")
    shared = attention.Cache(known.keys, known.keys, known.table, known.lengths)
    q = normal(20, 3, 1, heads, 576).astype(np.float16)
    tops, sums = (np.full((3, heads, splits), np.nan, np.float32) for _ in "ab")
    outs = np.full((3, heads, splits, 512), np.nan, np.float32)
    y = poison((3, 1, heads, 512), "fp16")
    run = build("mla")
    run("mla_decode", (splits, 2, 3), 128, q, keys, table, np.array(lengths, np.int32), tops, sums,
        outs, heads, page.bit_length() - 1, table.shape[1], 0.07)  # fmt: skip
    run("mla_merge", (3 * heads,), 512, tops, sums, outs, y, splits)
    want = attention.reference(q.astype(np.float32), shared, np.ones(3, np.int64), 0, 0.07, 512)
    require(y, want, "fp16", "MLA decode")


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_indexer(build: Build, dtype: str) -> None:
    """Ragged sequences, a prompt's last tokens, scattered pages with NaN where no key is."""
    lengths, heads, tokens, k = np.array([150, 7], np.int32), 16, 3, 40
    pages = np.full((6, 32, 64), np.nan, np.float32)
    table = np.array([[4, 0, 2, 3, 5], [1, -9, -9, -9, -9]], np.int32)
    for n, length in enumerate(lengths):
        at = np.arange(length)
        pages[table[n, at // 32], at % 32] = normal(33 + n, int(length), 64)
    keys, q = rounded(pages, dtype), rounded(normal(35, 2, tokens, heads, 64), dtype)
    weights, out = normal(36, 2, tokens, heads), np.full((2, tokens, 150), np.nan, np.float32)
    chosen = np.full((2, tokens, k), -7, np.int32)
    run = build("indexer", "DIM=64", *PLAIN[dtype])
    run("index_scores", (3, tokens, 2), 128, q, weights, keys, table, lengths, out, heads, 5, 5, 150)
    run("index_select", (tokens, 2), 256, out, lengths, chosen, 150, k)
    for n, length in enumerate(lengths):
        want = indexer.reference(wide(q[n], dtype), weights[n], wide(keys, dtype), table[n], int(length))
        require(out[n, :, :length], want, "fp32", f"scores {n}")
    assert chosen.tolist() == indexer.select(out, lengths, k).tolist()


def test_index_select_breaks_ties_to_the_lower_index(build: Build) -> None:
    """Few values in more scores than threads: most are ties at the border."""
    scores = np.random.default_rng(37).integers(-3, 3, (1, 2, 900)).astype(np.float32)
    lengths, chosen = np.array([900], np.int32), np.full((1, 2, 500), -7, np.int32)
    build("indexer", "DIM=64")("index_select", (2, 1), 256, scores, lengths, chosen, 900, 500)
    for t in range(2):
        want = np.sort(np.argsort(-scores[0, t, : 899 + t], kind="stable")[:500])
        assert chosen[0, t].tolist() == want.tolist()


@pytest.mark.parametrize(
    ("channels", "erase", "dtype"), [(False, True, "fp16"), (False, False, "fp16"), (True, True, "bf16")]
)
def test_recurrences(build: Build, channels: bool, erase: bool, dtype: str) -> None:
    """Prompts of a whole chunk and a part, and their tokens one by one, end in the same states."""
    tokens, shape = 18, (2, 18, 4, 64)
    q, k = (rounded(normal(i, 2, tokens, 2, 64) / 8.0, dtype) for i in (38, 39))
    v, rng = rounded(normal(40, *shape), dtype), np.random.default_rng(41)
    decay = rng.uniform(0.6, 1.0, (*shape[:3], 64 if channels else 1)).astype(np.float32)
    decay[0, 5] *= 1.0 if channels else 0.0  # a head may forget everything
    beta, before = rng.random(shape[:3], np.float32), normal(42, 2, 4, 64, 64)
    x = recurrent.TokenInputs(*(wide(a, dtype) for a in (q, k, v)), decay, beta)
    want, last = recurrent.reference(x, before, erase)
    run, worst = build("recurrent", "KEYS=64", *PLAIN[dtype]), np.zeros(1, np.int32)
    states, y = before.copy(), poison(shape, dtype)
    run("recurrent_chunks", (4, 4, 2), 128, q, k, v, decay, beta, states, y, worst, tokens, 2, 64,
        decay.shape[3], int(erase))  # fmt: skip
    require(wide(y, dtype), want, dtype, "chunks")
    require(states, last, "fp32", "states after chunks")
    assert not worst[0]
    states = before.copy()
    for t in range(tokens):
        one = [np.ascontiguousarray(a[:, t]) for a in (q, k, v, decay, beta)]
        row = poison((2, 4, 64), dtype)
        run("recurrent_step", (2, 4, 2), 128, *one, states, row, 2, 64, decay.shape[3], int(erase))
        require(wide(row, dtype), want[:, t], dtype, f"step {t}")
    require(states, last, "fp32", "states after steps")


def test_decays_too_low_to_divide_by_are_told(build: Build) -> None:
    x = [normal(i, 1, 16, 1, 64).astype(np.float16) for i in range(3)]
    decay, beta = np.full((1, 16, 1, 64), 1e-3, np.float32), np.ones((1, 16, 1), np.float32)
    states, worst, y = np.zeros((1, 1, 64, 64), np.float32), np.zeros(1, np.int32), x[2].copy()
    build("recurrent", "KEYS=64")("recurrent_chunks", (4, 1, 1), 128, *x, decay, beta, states, y, worst,
                                  16, 1, 64, 64, 1)  # fmt: skip
    assert worst[0] == 1
