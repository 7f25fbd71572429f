"""Are the CPU kernels right at every kind of shape, on poisoned memory, and to the bit again?

Expected values: each kernel's reference, its definition in fp64 on the same inputs. Tolerances and
their reasons stand in `kernels/check.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from opbyte.kernels import attention, experts, gemm, permute, rmsnorm, router
from opbyte.kernels.blocked import GemmConfig
from opbyte.kernels.check import TOLERANCES, agreement, from_bf16, require, to_bf16
from opbyte.kernels.flash import TILES as KEY_TILES
from opbyte.kernels.flash import AttentionConfig
from opbyte.kernels.jit import max_threads, use_threads
from opbyte.kernels.memory import aligned

THREADS = sorted({1, max_threads()})


@pytest.fixture(autouse=True)
def _threads() -> None:
    use_threads(max_threads())


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def paged(rng: np.random.Generator, lengths: list[int], heads: int, dim: int, page: int) -> attention.Cache:
    """A cache of scattered pages; everything that no sequence owns is NaN or a huge index."""
    need = [-(-n // page) for n in lengths]
    keys, values = (np.full((sum(need) + 3, heads, page, dim), np.nan, np.float32) for _ in "kv")
    table = np.full((len(lengths), max([*need, 1]) + 1), 2147480000, np.int32)
    free = rng.permutation(len(keys)).tolist()
    for b, length in enumerate(lengths):
        for i in range(need[b]):
            at = table[b, i] = free.pop()
            rows = min(page, length - i * page)
            keys[at, :, :rows] = random(rng, heads, rows, dim)
            values[at, :, :rows] = random(rng, heads, rows, dim)
    return attention.Cache(keys, values, table, np.array(lengths, dtype=np.int64))


def run_attention(
    cache: attention.Cache, q: np.ndarray, queries: np.ndarray, heads: int, window: int,
    threads: int, config: AttentionConfig = attention.DEFAULT,
) -> np.ndarray:  # fmt: skip
    dim = q.shape[3]
    plan = attention.plan(queries, cache.lengths, heads, cache.keys.shape[1], dim, window, threads, config)
    out = np.full(q.shape, np.nan, np.float32)
    attention.attend(plan, q, cache, dim**-0.5, out)
    return out


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize(
    ("lengths", "heads", "heads_kv", "dim", "page", "window", "chunk"),
    [
        ([1], 4, 1, 64, 16, 0, 1024),
        ([0, 33, 0, 1, 128, 31], 8, 2, 64, 16, 0, 64),
        ([77, 300, 5], 6, 2, 64, 1, 0, 96),  # one key a page; groups of three
        ([500, 0, 1023], 9, 1, 64, 48, 100, 128),  # odd heads, window, page no power of two
        ([257], 32, 8, 128, 128, 0, 1024),
        ([40, 41], 2, 2, 128, 64, 8, 32),  # group of one
    ],
)
def test_decode(
    lengths: list[int], heads: int, heads_kv: int, dim: int, page: int, window: int, chunk: int, threads: int
) -> None:
    rng = np.random.default_rng(1)
    cache = paged(rng, lengths, heads_kv, dim, page)
    q = random(rng, len(lengths), 1, heads, dim)
    queries = np.ones(len(lengths), np.int64)
    got = run_attention(cache, q, queries, heads, window, threads, AttentionConfig(64, chunk))
    want = attention.reference(q, cache, queries, window, dim**-0.5, dim)
    require(got, want, "fp32", f"decode {lengths}")
    assert not got[cache.lengths == 0].any()


@pytest.mark.parametrize("tile", KEY_TILES)
@pytest.mark.parametrize("block", [1, 5, 16])
def test_every_tile_and_block_gives_the_attention(tile: int, block: int) -> None:
    """Prompts of several lengths, some with earlier keys, one of nothing, in one batch."""
    rng = np.random.default_rng(2)
    queries = np.array([70, 1, 0, 33], dtype=np.int64)
    cache = paged(rng, [70, 90, 0, 300], 2, 64, 16)
    q = random(rng, 4, 70, 4, 64)
    for window in (0, 40):
        got = run_attention(cache, q, queries, 4, window, THREADS[-1], AttentionConfig(tile, 64, block))
        want = attention.reference(q, cache, queries, window, 64**-0.5, 64)
        require(got, want, "fp32", f"tiles of {tile}, blocks of {block}")


def test_mla_decode() -> None:
    """One latent of 64 numbers for all heads; values are its first 48."""
    rng = np.random.default_rng(3)
    cache = paged(rng, [100, 0, 37], 1, 64, 16)
    shared = attention.Cache(cache.keys, cache.keys, cache.table, cache.lengths)
    q = random(rng, 3, 1, 10, 64)
    queries = np.ones(3, np.int64)
    plan = attention.plan(queries, shared.lengths, 10, 1, 48, 0, THREADS[-1], AttentionConfig(64, 32))
    out = np.full((3, 1, 10, 48), np.nan, np.float32)
    attention.attend(plan, q, shared, 0.1, out)
    want = attention.reference(q, shared, queries, 0, 0.1, 48)
    require(out, want, "fp32", "MLA")


def test_large_scores_do_not_overflow() -> None:
    rng = np.random.default_rng(4)
    cache = paged(rng, [200], 1, 64, 32)
    q = 200.0 * random(rng, 1, 1, 4, 64)
    queries = np.ones(1, np.int64)
    got = run_attention(cache, q, queries, 4, 0, 1)
    want = attention.reference(q, cache, queries, 0, 64**-0.5, 64)
    assert agreement(got, want).norm < 1e-4  # scores near 1000 hold 6e-5 of rounding


def test_equal_inputs_give_equal_bits() -> None:
    rng = np.random.default_rng(5)
    cache = paged(rng, [700, 90], 2, 64, 16)
    q = random(rng, 2, 1, 8, 64)
    runs = [
        run_attention(cache, q, np.ones(2, np.int64), 8, 0, threads, AttentionConfig(64, 64)).tobytes()
        for threads in (THREADS * 10)[:20]
    ]
    assert len(set(runs)) == 1  # on any number of threads


def test_bad_caches_are_refused() -> None:
    rng = np.random.default_rng(6)
    good = paged(rng, [40], 1, 64, 16)
    with pytest.raises(ValueError, match="lengths must be"):
        attention.Cache(good.keys, good.values, good.table, np.array([99999]))
    with pytest.raises(ValueError, match="names pages outside"):
        attention.Cache(good.keys, good.values, good.table + 1000, good.lengths)
    odd = np.zeros((1, 1, 16, 63), np.float32)
    with pytest.raises(ValueError, match="multiple of"):
        attention.Cache(odd, odd, np.zeros((1, 1), np.int32), np.array([3]))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("rows", "cols"), [(1, 64), (7, 256), (130, 1024)])
def test_rmsnorm(rows: int, cols: int, residual: bool) -> None:
    rng = np.random.default_rng(7)
    x, w = random(rng, rows, cols), random(rng, cols)
    r = random(rng, rows, cols) if residual else None
    before = None if r is None else r.copy()
    out = aligned((rows, cols))
    out[:] = np.nan
    rmsnorm.rmsnorm(x, w, out, r, THREADS[-1])
    require(out, rmsnorm.reference(x, w, before), "fp32", "rmsnorm")
    if r is not None:
        np.testing.assert_array_equal(r, before + x)


@pytest.mark.parametrize("kind", router.KINDS)
@pytest.mark.parametrize(("tokens", "count", "k"), [(1, 8, 2), (33, 64, 8), (5, 4, 4), (3, 1, 1)])
def test_router(kind: str, tokens: int, count: int, k: int) -> None:
    rng = np.random.default_rng(8)
    logits = random(rng, tokens, count)
    bias = random(rng, count) if kind == "sigmoid" else None
    ids, weights = router.route(logits, k, kind, bias, threads=THREADS[-1])
    want_ids, want = router.reference(logits, k, kind, bias)
    choice = logits if bias is None else 1 / (1 + np.exp(-logits.astype(float))) + bias
    assert router.same_choice(ids, want_ids, np.asarray(choice, dtype=np.float64), 1e-6)
    require(np.sort(weights), np.sort(want), "fp32", "router weights")


def test_router_breaks_ties_to_the_lower_index() -> None:
    logits = np.zeros((2, 16), np.float32)
    logits[1, [3, 7, 11]] = 1.0
    ids, weights = router.route(logits, 4)
    assert ids.tolist() == [[0, 1, 2, 3], [3, 7, 11, 0]]
    assert weights[0].tolist() == [0.25] * 4
    assert not router.same_choice(ids, np.array([[0, 1, 2, 3], [3, 7, 12, 0]]), logits, 1e-6)


def loads(kind: str, tokens: int, count: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Choices of experts: drawn, all to the same few, or leaving most empty."""
    if kind == "one-hot":
        return np.tile(np.arange(k, dtype=np.int32), (tokens, 1))
    if kind == "last":
        return np.tile(np.arange(count - k, count, dtype=np.int32), (tokens, 1))
    return np.stack([rng.permutation(count)[:k] for _ in range(tokens)]).astype(np.int32)


def test_sort_is_stable_and_complete() -> None:
    rng = np.random.default_rng(9)
    ids = loads("drawn", 50, 7, 3, rng)
    order = permute.sort_slots(ids, 7)
    flat = ids.reshape(-1)
    assert order.slots.tolist() == np.argsort(flat, kind="stable").tolist()
    assert order.counts.tolist() == np.bincount(flat, minlength=7).tolist()
    assert (order.slots[order.position] == np.arange(150)).all()
    with pytest.raises(ValueError, match="slot 2 has expert 7"):
        permute.sort_slots(np.array([[0, 1], [7, 0]]), 7)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", ["drawn", "one-hot", "last"])
@pytest.mark.parametrize(("tokens", "count", "k"), [(1, 8, 2), (13, 8, 2), (40, 4, 4), (3, 1, 1)])
def test_moe_layer(kind: str, tokens: int, count: int, k: int, bf16: bool) -> None:
    rng = np.random.default_rng(10)
    hidden, inter = 64, 48
    shapes = ((count, inter, hidden), (count, inter, hidden), (count, hidden, inter))
    made = [random(rng, *shape) * np.float32(0.2) for shape in shapes]
    w = experts.ExpertWeights(*(to_bf16(m) if bf16 else m for m in made))
    x, weights = random(rng, tokens, hidden), rng.random((tokens, k), dtype=np.float32)
    ids = loads(kind, tokens, count, k, rng)
    room = experts.ExpertBuffers.of(tokens * k, hidden, inter)
    for buffer in (room.x, room.h, room.y):
        buffer[:] = np.nan
    out = np.full((tokens, hidden), np.nan, np.float32)
    experts.moe_layer(x, ids, weights, w, room, out, THREADS[-1])
    require(out, experts.reference(x, ids, weights, w), "fp32", f"MoE {kind}")


def test_moe_layer_gives_equal_bits() -> None:
    rng = np.random.default_rng(12)
    shapes = ((8, 64, 128), (8, 64, 128), (8, 128, 64))
    w = experts.ExpertWeights(*(random(rng, *s) for s in shapes))
    x, ids = random(rng, 9, 128), loads("drawn", 9, 8, 2, rng)
    weights = rng.random((9, 2), dtype=np.float32)
    runs = set()
    for threads in (THREADS * 10)[:20]:
        out = np.full((9, 128), np.nan, np.float32)
        experts.moe_layer(x, ids, weights, w, experts.ExpertBuffers.of(18, 128, 64), out, threads)
        runs.add(out.tobytes())
    assert len(runs) == 1


@pytest.mark.parametrize("m", [0, 1, 2, 3, 5, 16, 17, 40])
@pytest.mark.parametrize("bf16", [False, True])
def test_gemm(m: int, bf16: bool) -> None:
    rng = np.random.default_rng(11)
    x, w = random(rng, m, 96), random(rng, 36, 96)
    stored = to_bf16(w) if bf16 else w
    out = np.full((m, 36), np.nan, np.float32)
    gemm.gemm(x, stored, out, THREADS[-1])
    exact = (from_bf16(stored) if bf16 else w).astype(np.float64)
    require(out, x.astype(np.float64) @ exact.T, "fp32", f"gemm {m}")


TILES = [t for t in ((1, 4), (2, 4), (5, 4), (7, 4), (3, 8)) if not GemmConfig(*t, 0, 0).invalid()]


@pytest.mark.parametrize(("rows", "columns"), TILES)
def test_every_register_tile_and_block_gives_the_product(rows: int, columns: int) -> None:
    """At rows and columns that neither the tile nor the blocks divide."""
    rng = np.random.default_rng(rows)
    x, w = random(rng, 29, 48), random(rng, 52, 48)
    want = x.astype(np.float64) @ w.T.astype(np.float64)
    for block_m, block_n in ((0, 0), (rows, columns), (2 * rows, 3 * columns)):
        out = np.full((29, 52), np.nan, np.float32)
        config = GemmConfig(rows, columns, block_m, block_n)
        gemm.gemm(x, w, out, 1, config)
        require(out, want, "fp32", str(config))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (GemmConfig(9, 4), "register_m must be 1 to 8"),
        (GemmConfig(4, 3), "register_n must be 4 or 8"),
        (GemmConfig(8, 8), "it spills"),
        (GemmConfig(2, 4, -2), "negative"),
        (GemmConfig(2, 4, 3), "multiples of the register tile"),
    ],
)
def test_a_configuration_that_cannot_run_says_why(config: GemmConfig, says: str) -> None:
    x, w, out = (np.zeros(shape, np.float32) for shape in ((4, 32), (8, 32), (4, 8)))
    with pytest.raises(ValueError, match=says):
        gemm.gemm(x, w, out, config=config)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: gemm.check_weights(np.zeros((6, 32), np.float32), "w"), "multiples of 4"),
        (lambda: gemm.check_weights(np.zeros((8, 32)), "w"), "float32"),
        (lambda: router.route(np.zeros((1, 4), np.float32), 5), "number of experts, 4"),
        (lambda: router.route(np.zeros((1, 4), np.float32), 1, "tanh"), "must be one of"),
        (lambda: attention.plan(np.ones(1, np.int64), np.ones(1, np.int64), 3, 2, 64, 0, 1),
         "not a multiple of 2"),
        (lambda: attention.plan(np.ones(1, np.int64), np.ones(1, np.int64), 2, 2, 64, 0, 1,
                                AttentionConfig(tile=48)), "tile must be one of 32, 64, 128, 256"),
    ],
)  # fmt: skip
def test_bad_arguments_say_what_would_be_right(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_the_judge_finds_a_small_wrong_group() -> None:
    """A group of small numbers that is entirely wrong passes by norm and fails by its cosine."""
    want = np.ones((3, 100)) * np.array([[1e4], [1e4], [1e-3]])
    got = want.copy()
    got[2] *= -1
    found = agreement(got, want)
    assert found.norm < 1e-6
    assert not found.within(TOLERANCES["fp32"])
    assert not agreement(np.where(want > 1, np.nan, want), want).finite


def test_bf16_rounds_to_nearest_even() -> None:
    # 1 + 2^-8 lies between two bf16 numbers: to even; 1 + 3 * 2^-8 likewise, upwards.
    x = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1.0 + 2**-8 + 2**-12], dtype=np.float32)
    assert from_bf16(to_bf16(x)).tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]
