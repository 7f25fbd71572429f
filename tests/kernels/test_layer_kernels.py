"""Are the kernels of sparse attention, recurrences and four-bit experts right at every kind of shape?

Expected values: each kernel's definition in fp64 on the same inputs, on poisoned outputs.
"""

from __future__ import annotations

import numpy as np
import pytest

from opbyte.kernels import experts, four_bit, indexer, recurrent
from opbyte.kernels.check import require, to_bf16
from opbyte.kernels.jit import max_threads, use_threads

THREADS = max_threads()


@pytest.fixture(autouse=True)
def _threads() -> None:
    use_threads(THREADS)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def recurrence(tokens: int, channels: bool, low: float = 0.6) -> tuple[recurrent.TokenInputs, np.ndarray]:
    """Queries, keys, values, decays, betas and states of two sequences, four heads on two keys' heads."""
    rng = np.random.default_rng(1)
    q, k = (normal(i, 2, tokens, 2, 64) / np.float32(8.0) for i in (2, 3))
    decay = rng.uniform(low, 1.0, (2, tokens, 4, 64 if channels else 1)).astype(np.float32)
    beta = rng.uniform(0.0, 1.0, (2, tokens, 4)).astype(np.float32)
    x = recurrent.TokenInputs(q, k, normal(4, 2, tokens, 4, 64), decay, beta)
    return x, normal(5, 2, 4, 64, 64)


@pytest.mark.parametrize("erase", [True, False])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("tokens", [1, 16, 37])
def test_chunks_and_steps_are_the_recurrence(tokens: int, channels: bool, erase: bool) -> None:
    """Whole chunks, a part of one, and token by token: the same read-outs and the same last states."""
    x, before = recurrence(tokens, channels)
    want, last = recurrent.reference(x, before, erase)
    states, out = before.copy(), np.full(want.shape, np.nan, np.float32)
    recurrent.chunks(x, states, out, THREADS, erase)
    require(out, want, "fp32", "chunks")
    require(states, last, "fp32", "states after chunks")
    states = before.copy()
    for t in range(tokens):
        row = np.full(want[:, 0].shape, np.nan, np.float32)
        one = recurrent.TokenInputs(*(np.ascontiguousarray(a[:, t]) for a in x))
        recurrent.step(one, states, row, THREADS, erase)
        require(row, want[:, t], "fp32", f"step {t}")
    require(states, last, "fp32", "states after steps")


def test_a_head_may_forget_everything_but_a_channel_may_not_divide_by_nothing() -> None:
    """One decay a head needs no division; decays of channels are refused before they overflow."""
    x, states = recurrence(20, False)
    x.decay[:, 5] = 0.0
    want, last = recurrent.reference(x, states.copy())
    out = np.full(want.shape, np.nan, np.float32)
    recurrent.chunks(x, states, out)
    require(out, want, "fp32", "forgotten")
    require(states, last, "fp32", "forgotten states")
    x, states = recurrence(20, True)
    x.decay[:] = 1e-3
    with pytest.raises(ValueError, match="decays of 16 tokens"):
        recurrent.chunks(x, states, out)
    with pytest.raises(ValueError, match="do not match"):
        recurrent.chunks(x, states[:, :3], out)


def test_equal_bits_on_any_number_of_threads() -> None:
    x, before = recurrence(37, True)
    found = set()
    for threads in (1, THREADS, 1, THREADS):
        states, out = before.copy(), np.empty((2, 37, 4, 64), np.float32)
        recurrent.chunks(x, states, out, threads)
        found.add(out.tobytes() + states.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("tokens", [1, 5])
def test_index_scores(half: bool, tokens: int) -> None:
    """Ragged sequences in scattered pages; places that no key owns are NaN."""
    lengths = np.array([150, 7, 64], np.int32)
    pages = np.full((6, 64, 64), np.nan, np.float32)
    table = np.array([[4, 0, 2], [5, -9, -9], [1, -9, -9]], np.int32)
    for n, length in enumerate(lengths):
        at = np.arange(length)
        pages[table[n, at // 64], at % 64] = normal(6 + n, int(length), 64)
    keys = to_bf16(pages) if half else pages
    q, weights = normal(9, 3, tokens, 6, 64), normal(10, 3, tokens, 6)
    out = np.full((3, tokens, 150), np.nan, np.float32)
    indexer.index_scores(q, weights, keys, table, lengths, out, THREADS)
    best = indexer.select(out, lengths, 20, THREADS)
    for n, length in enumerate(lengths):
        want = indexer.reference(q[n], weights[n], keys, table[n], int(length))
        require(out[n, :, :length], want, "fp32", f"scores {n}")
        assert (out[n, :, length:] == indexer.LOW).all()
        for t in range(tokens):
            seen = int(length) - tokens + t + 1
            right = np.argsort(-out[n, t, :seen], kind="stable")[:20]
            got = best[n, t]
            assert sorted(right.tolist()) == got[got >= 0].tolist()


@pytest.mark.parametrize("kind", ["drawn", "equal", "few values", "signs"])
def test_select_is_exact_and_breaks_ties_to_the_lower_index(kind: str) -> None:
    rng = np.random.default_rng(11)
    scores = {
        "drawn": rng.standard_normal((1, 2, 5000)),
        "equal": np.zeros((1, 2, 5000)),
        "few values": rng.integers(-3, 3, (1, 2, 5000)),
        "signs": rng.standard_normal((1, 2, 5000)) * 10.0 ** rng.integers(-30, 30, (1, 2, 5000)),
    }[kind].astype(np.float32)
    got = indexer.select(scores, np.array([5000], np.int32), 700)
    for t in range(2):
        seen = scores[0, t, : 4999 + t]
        want = np.sort(np.argsort(-seen, kind="stable")[:700])
        assert got[0, t].tolist() == want.tolist()


@pytest.mark.parametrize("format_", four_bit.BLOCK)
@pytest.mark.parametrize("tokens", [1, 3, 9])
def test_four_bit_experts(format_: str, tokens: int) -> None:
    count, hidden, inter = 3, 128, 64
    sizes = ((count, inter, hidden), (count, inter, hidden), (count, hidden, inter))
    packed = [four_bit.pack(normal(15 + i, *s) * np.float32(0.1), format_) for i, s in enumerate(sizes)]
    w = four_bit.FourBitWeights(*packed, format_)
    assert w.sizes == (count, inter, hidden)
    x, weights = normal(18, tokens, hidden), np.full((tokens, 2), 0.5, np.float32)
    ids = np.tile(np.array([[2, 0]], np.int32), (tokens, 1))
    room, out = experts.ExpertBuffers.of(2 * tokens, hidden, inter), np.full(x.shape, np.nan, np.float32)
    experts.moe_layer(x, ids, weights, w, room, out, THREADS)
    want = experts.reference(x, ids, weights, w.exact(range(count)))
    require(out, want, "fp32", f"experts in {format_}")


@pytest.mark.parametrize("format_", four_bit.BLOCK)
def test_packing_keeps_what_four_bits_can_say(format_: str) -> None:
    """Numbers that the format has come back to the bit; others within half a step of their block's largest."""
    rng = np.random.default_rng(19)
    exact = rng.choice([*four_bit.LEVELS, *-four_bit.LEVELS[1:]], (4, 96)).astype(np.float32)
    exact[:, ::16] = 6.0
    again = four_bit.unpack(four_bit.pack(exact, format_), format_)
    np.testing.assert_allclose(again, exact, rtol=1e-6)
    w = normal(20, 8, 96)
    block = four_bit.BLOCK[format_]
    error = np.abs(four_bit.unpack(four_bit.pack(w, format_), format_) - w).reshape(-1, block).max(1)
    top = np.abs(w).reshape(-1, block).max(1)
    # Steps are 2 at the top of 6; a power of two may leave a block's largest at 8, which 6 stands for.
    assert (error <= (0.26 if format_ == "w4a16_mxfp4" else 0.18) * top).all()
    with pytest.raises(ValueError, match="multiple of 32"):
        four_bit.row_bytes(40, format_)
