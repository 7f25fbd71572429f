"""Heads, slices, states, modalities and experts that a token chooses among: counts by hand, the plain layer where all
are chosen, and never less where more are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

from opbyte.workloads.batch import Batch
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import (
    Attention,
    AttentionMixture,
    FeedForward,
    GatedDeltaNet,
    HeadExperts,
    LayerKind,
    Mamba,
    Memories,
    ModalMamba,
    Run,
    SlicedAttention,
    SlicedFeedForward,
    is_routed,
)
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads, Op
from opbyte.workloads.routing import make_router

RUN = Run(Numerics())
HEADS = Attention(2048, 32, 32, 64)
EIGHT, FFN = Attention(512, 8, 8, 64), FeedForward(512, 2048)
LARGE = Attention(1024, 8, 8, 128)
NET = GatedDeltaNet(1024, 4, 4, 256, 256, 4)
MAMBA = Mamba(1024, 2048, 16, 4, 64)
BATCH = Batch.of([999, 49], [(100, 30)])
M = BATCH.moments((0,))


def loads(tokens: float, active: float) -> Loads:
    return Loads(np.array([tokens]), np.array([active]))


def ops_of(part: LayerKind, given: Loads | None = None, moments: Any = M) -> dict[str, Op]:
    return {op.name: op for op in part.ops(moments, RUN, given)}


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        *((HeadExperts(HEADS, 32 - shared, shared), HEADS) for shared in (0, 8, 31)),
        (SlicedAttention(EIGHT, 4, 4), EIGHT),
        (SlicedFeedForward(FFN, 4, 4), FFN),
        (Memories(NET, states=1, top_k=1, shared=False), NET),
        (ModalMamba(MAMBA, 1), MAMBA),
        *((AttentionMixture(LARGE, 1, shared), LARGE) for shared in (False, True)),
    ],
)
def test_all_chosen_is_the_plain_layer_exactly(ours: Any, plain: Any) -> None:
    assert not is_routed(ours)
    assert ours.ops(M, RUN, None) == plain.ops(M, RUN, None)
    assert (ours.weights(), ours.state()) == (plain.weights(), plain.state())
    assert ours.shard(2).ops(M, RUN, None) == plain.shard(2).ops(M, RUN, None)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: HeadExperts(HEADS, 25, 8), "top_k: must be from 1 to the 24 heads that are not shared, not 25"),
        (lambda: HeadExperts(HEADS, 0, 8), "top_k: must be from 1 to the 24 heads"),
        (lambda: HeadExperts(HEADS, 1, 32), "shared: must be from 0 to 31"),
        (lambda: HeadExperts(HEADS, 1, -1), "shared: must be from 0 to 31"),
        (lambda: HeadExperts(HEADS, 8, 8).shard(16), "does not divide the 8 shared heads"),
        (lambda: HeadExperts(HEADS, 8, 8).shard_experts(2, 1), "ep=2"),
        (lambda: SlicedAttention(EIGHT, 0, 1), "slices: must be at least 1, not 0"),
        (lambda: SlicedAttention(EIGHT, 4, 5), "top_k: must be from 1 to the 4 slices"),
        (lambda: SlicedAttention(EIGHT, 3, 1), "slices: 3 does not divide heads=8"),
        (lambda: SlicedAttention(replace(EIGHT, window=64), 4, 2), "base.window: cannot be combined with slices"),
        (lambda: SlicedFeedForward(replace(FFN, bias=True), 4, 2), "base.bias: must be false"),
        (lambda: SlicedFeedForward(FFN, 3, 1), "slices: 3 does not divide width=2048"),
        (lambda: Memories(NET, 0, 1), "states: must be at least 1, not 0"),
        (lambda: Memories(NET, 4, 5), "top_k: must be from 1 to states .4., not 5"),
        (lambda: Memories(NET, 4, 0), "top_k: must be from 1 to states .4., not 0"),
        (lambda: Memories(NET, 4, 2).shard(3), "does not divide the 4 linear key heads"),
        (lambda: ModalMamba(MAMBA, 0), "modalities: must be at least 1, not 0"),
        (lambda: AttentionMixture(LARGE, 0), "experts: must be at least 1, not 0"),
        (lambda: AttentionMixture(LARGE, 4).shard(3), "does not divide"),
    ],
)
def test_what_cannot_be_chosen_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_half_of_the_heads_by_hand() -> None:
    """Scores and projections of queries and outputs halve; keys and values of all heads are kept."""
    ours, m = HeadExperts(HEADS, 8, 8), Batch.of([999, 49], [(100, 0)]).moments((0,))
    found, plain = ops_of(ours, loads(102 * 8 / 24, 24.0), m), ops_of(HEADS, None, m)
    for phase in ("prefill", "decode"):
        name = f"attention_{phase}"
        assert found[name].flops == plain[name].flops / 2
        assert found[name].kv_write_bytes == plain[name].kv_write_bytes
    assert found["attention_prefill"].kv_read_bytes == plain["attention_prefill"].kv_read_bytes
    # One query head a KV head: those of the 16 heads in use are read.
    assert found["attention_decode"].kv_read_bytes == plain["attention_decode"].kv_read_bytes / 2
    projections = sum(found[name].flops for name in ("qkv", "head_experts", "out"))
    assert projections == pytest.approx(2 * 102 * 2048 * (2 * 16 + 2 * 32) * 64)
    router = 2048 * (32 + 2)
    assert sum(w.total for w in ours.weights()) == sum(w.total for w in HEADS.weights()) + router
    assert ours.weights()[0].active == 8 * 2 * 2048 * 64
    assert ours.state() == HEADS.state()


@pytest.mark.parametrize(("shared", "top_k", "kv"), [(0, 3, 4), (2, 2, 4), (4, 1, 4), (1, 5, 2)])
def test_keys_that_a_decode_reads_are_counted_over_all_choices(shared: int, top_k: int, kv: int) -> None:
    """Shared heads go around the KV heads; a KV head is read where one of its query heads is used."""
    ours = HeadExperts(Attention(64, 8, kv, 8), top_k, shared)
    group = 8 // kv
    free = [group] * kv
    for i in range(shared):
        free[i % kv] -= 1
    owners = [k for k in range(kv) for _ in range(free[k])]
    served = {i % kv for i in range(shared)}
    counts = [len(served | {owners[i] for i in chosen}) for chosen in combinations(range(len(owners)), top_k)]
    assert ours.kv_read_share == pytest.approx(sum(counts) / len(counts) / kv)


def test_devices_share_heads_states_and_experts() -> None:
    whole = HeadExperts(HEADS, 8, 8)
    parts = [ops_of(part, loads(102 * 8 / 24, 24.0)) for part in (whole, whole.shard(2))]
    for name in ("head_experts", "attention_prefill", "attention_decode", "out"):
        assert parts[1][name].flops == pytest.approx(parts[0][name].flops / 2)
        assert parts[1][name].stream_bytes == pytest.approx(parts[0][name].stream_bytes / 2)
    states, half = Memories(NET, 4, 2), Memories(NET, 4, 2).shard(2)
    assert 2 * half.state().fixed[0].values == states.state().fixed[0].values
    assert ModalMamba(MAMBA, 2).shard(2).base == MAMBA.shard(2)
    assert AttentionMixture(LARGE, 4).shard(2).whole.heads == 16


def test_half_of_the_slices_by_hand() -> None:
    """Projections halve, scores are a quarter but for every token's own key, the cache halves."""
    ours, given = SlicedAttention(EIGHT, 4, 2), loads(51.0, 4.0)  # 102 tokens, 2 of 4 slices
    found, pairs = ops_of(ours, given), 100 * 30 + 100 * 101 / 2
    assert found["attention_prefill"].flops == 4 * 256 * (100 + (pairs - 100) / 2)
    assert found["attention_decode"].flops == 4 * 256 * (2 + (999 + 49) / 2)
    assert found["attention_decode"].kv_read_bytes == 2 * 256 * 2 * (2 + (999 + 49) / 2)
    assert found["attention_prefill"].kv_read_bytes == 2 * 256 * 2 * 130
    assert found["slices"].flops == 2 * 102 * 4 * 512 * 512 / 2
    assert ours.state().keeps[0].values == EIGHT.state().keeps[0].values / 2
    block = SlicedFeedForward(FFN, 4, 2)
    assert block.expert_op(given, RUN).flops == 102 * 3 * 512 * 2048
    assert block.weights()[0].total == FFN.weights()[0].total == 2 * block.weights()[0].active


def test_keys_within_a_slice_are_counted_over_all_choices() -> None:
    """Each of 4 tokens is in one of 2 slices, all 16 ways: keys that the last one sees."""
    seen = [sum(slice_ == way[-1] for slice_ in way) for way in product((0, 1), repeat=4)]
    m = Batch.of([3]).moments((0,))
    assert SlicedAttention(EIGHT, 2, 1).keys(m).decode_kv == sum(seen) / len(seen)


def test_states_and_traffic_by_hand() -> None:
    """Five states of 4 x 256 x 256; a decode reads and writes three, a chunk all of them."""
    memories, m = Memories(NET, 4, 2), Batch.of([100, 3000, 7], [(300, 0), (20, 500)]).moments((0,))
    matrix, conv = 4 * 256 * 256, 3 * 3 * 1024
    assert [f.values for f in memories.state().fixed] == [5 * matrix, conv]
    plain, ours = ops_of(NET, None, m), ops_of(memories, None, m)
    assert ours["delta_decode"].kv_read_bytes == 3 * 2 * 3 * matrix
    assert ours["delta_prefill"].kv_write_bytes == 2 * 2 * 5 * matrix
    assert ours["conv_decode"].kv_read_bytes == 3 * 2 * conv
    chunk = 4 * (6 * 256 * 256 + 3 * 256 * 64 + 64**2)
    for name, tokens, flops in (("delta_decode", 3, 8 * matrix), ("delta_prefill", 320, chunk)):
        assert ours[name].flops - plain[name].flops == tokens * 2 * flops
    assert ours["router"].flops == 2 * 323 * 4 * 1024
    assert set(ours) - set(plain) == {"router", "mix"}
    assert list(ours)[-2:] == ["mix", "out"]


def test_two_modalities_by_hand() -> None:
    """FLOPs and activations of the plain projections; weights of the modalities that are there."""
    ours = ModalMamba(MAMBA, 2)
    plain = [op for op in MAMBA.ops(M, RUN, None) if op.kind == "gemm"]
    for asked in (loads(102.0, 1.0), loads(51.0, 2.0)):
        ops = ours.ops(M, RUN, asked)
        rest = [op for op in ops[1:] if not op.name.endswith("_permute")]
        assert rest == [op for op in MAMBA.ops(M, RUN, None) if op.kind != "gemm"]
        permuted = {op.name: op.act_bytes for op in ops if op.name.endswith("_permute")}
        assert permuted == {f"{op.name}_permute": 2 * op.act_bytes for op in plain}
        assert ops[0].flops == sum(op.flops for op in plain)
        assert ops[0].act_bytes == sum(op.act_bytes for op in plain)
        assert ops[0].weight_bytes == asked.active * sum(op.weight_bytes for op in plain)
    big, small = MAMBA.weights()
    assert sum(w.total for w in ours.weights()) == 2 * big.total + small.total
    assert sum(w.active for w in ours.weights()) == big.total + small.total


@pytest.mark.parametrize("shares", ["1,0", "0,1"])
def test_one_modality_alone_loads_one_expert(shares: str) -> None:
    router = make_router(f"modality:{shares}", layers=3, experts=2, top_k=1, seed=0)
    only = [float(share) for share in shares.split(",")]
    for tokens in (1, 40, 5000):
        for layer in range(3):
            loads = router.loads(0, layer, Batch.of([9] * tokens))
            assert loads.tokens.tolist() == [tokens * share for share in only]
            expected = router.expected(layer, float(tokens))
            assert (expected.tokens * expected.experts).tolist() == pytest.approx([tokens * share for share in only])


@pytest.mark.parametrize(
    ("routing", "said"),
    [("modality", "must be modality:SHARE,SHARE"), ("modality:0,0", "needs shares from 0 on, not all 0"),
     ("modality:a,1", "needs shares from 0 on"), ("modality:-1,2", "needs shares from 0 on"),
     ("modality:1,1,1", "has 3 shares, but layers of the model have 2 experts"),
     ("modality:nan,1", "needs shares from 0 on"), ("modality:inf,1", "needs shares from 0 on")],
)  # fmt: skip
def test_bad_shares_are_one_line(routing: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        make_router(routing, layers=2, experts=2, top_k=1, seed=0)
    assert said in str(error.value)


@pytest.mark.parametrize("shared", [False, True])
def test_four_experts_by_hand(shared: bool) -> None:
    """Queries, scores and outputs four times; keys and values too, or once."""
    ours, n = AttentionMixture(LARGE, 4, shared), 1 if shared else 4
    found, plain = ops_of(ours), ops_of(LARGE)
    for name in ("attention_prefill", "attention_decode"):
        assert found[name].flops == 4 * plain[name].flops
        assert found[name].kv_read_bytes == n * plain[name].kv_read_bytes
        assert found[name].kv_write_bytes == n * plain[name].kv_write_bytes
    assert found["qkv"].flops == 2 * 102 * 1024 * (4 + 2 * n) * 1024
    assert found["out"].flops == 4 * plain["out"].flops
    assert ours.state().keeps[0].values == n * LARGE.state().keeps[0].values
    count = (4 + 2 * n + 4) * 1024 * 1024 + 4 * 1024
    assert sum(w.total for w in ours.weights()) == sum(w.active for w in ours.weights()) == count
