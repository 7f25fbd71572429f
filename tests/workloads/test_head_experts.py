"""Heads as experts: counts by hand, keys that are read, and the plain layer where all are chosen."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from opbyte.workloads.batch import Batch
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import Attention, HeadExperts, Run
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads

RUN = Run(Numerics())
BASE = Attention(2048, 32, 32, 64)
M = Batch.of([999, 49], [(100, 0)]).moments((0,))


def loads(tokens: float, others: int, top_k: int) -> Loads:
    return Loads(np.array([tokens * top_k / others]), np.array([float(others)]))


@pytest.mark.parametrize("shared", [0, 8, 31])
def test_all_heads_chosen_is_the_plain_layer_exactly(shared: int) -> None:
    ours = HeadExperts(BASE, 32 - shared, shared)
    assert ours.routed is None
    assert ours.ops(M, RUN, None) == BASE.ops(M, RUN, None)
    assert (ours.weights(), ours.state()) == (BASE.weights(), BASE.state())
    assert ours.shard(4).ops(M, RUN, None) == BASE.shard(4).ops(M, RUN, None)


def test_half_of_the_heads_by_hand() -> None:
    """Scores and projections of queries and outputs halve; keys and values of all heads are kept."""
    ours = HeadExperts(BASE, 8, 8)
    found = {op.name: op for op in ours.ops(M, RUN, loads(102, 24, 8))}
    plain = {op.name: op for op in BASE.ops(M, RUN, None)}
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
    assert sum(w.total for w in ours.weights()) == sum(w.total for w in BASE.weights()) + router
    assert ours.weights()[0].active == 8 * 2 * 2048 * 64
    assert ours.state() == BASE.state()


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


def test_llama_3_reads_all_keys() -> None:
    """16 shared heads over 8 KV heads: each is always in use."""
    assert HeadExperts(Attention(4096, 32, 8, 128), 8, 16).kv_read_share == 1.0


def test_devices_share_the_heads() -> None:
    whole, half = HeadExperts(BASE, 8, 8), HeadExperts(BASE, 8, 8).shard(2)
    given = loads(102, 24, 8)
    parts = [{op.name: op for op in part.ops(M, RUN, given)} for part in (whole, half)]
    for name in ("head_experts", "attention_prefill", "attention_decode", "out"):
        assert parts[1][name].flops == pytest.approx(parts[0][name].flops / 2)
        assert parts[1][name].stream_bytes == pytest.approx(parts[0][name].stream_bytes / 2)
    with pytest.raises(InputError, match="does not divide the 8 shared heads"):
        whole.shard(16)
    with pytest.raises(InputError, match="ep=2"):
        whole.shard_experts(2, 1)


@pytest.mark.parametrize(
    ("shared", "top_k", "said"),
    [(8, 25, "top_k: must be from 1 to the 24 heads that are not shared, not 25"),
     (8, 0, "top_k: must be from 1 to the 24 heads"), (32, 1, "shared: must be from 0 to 31"),
     (-1, 1, "shared: must be from 0 to 31")],
)  # fmt: skip
def test_refused(shared: int, top_k: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        HeadExperts(BASE, top_k, shared)
