"""Slices of heads and of a dense block: closed forms, and the plain layer where all are chosen."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from opbyte.workloads.batch import Batch
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import Attention, FeedForward, Run, SlicedAttention, SlicedFeedForward
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads

RUN = Run(Numerics())
BASE, FFN = Attention(512, 8, 8, 64), FeedForward(512, 2048)
M = Batch.of([999, 49], [(100, 30)]).moments((0,))


def test_all_slices_are_the_plain_layer_exactly() -> None:
    for ours, plain in ((SlicedAttention(BASE, 4, 4), BASE), (SlicedFeedForward(FFN, 4, 4), FFN)):
        assert ours.routed is None
        assert ours.ops(M, RUN, None) == plain.ops(M, RUN, None)
        assert (ours.weights(), ours.state()) == (plain.weights(), plain.state())
        assert ours.shard(2).ops(M, RUN, None) == plain.shard(2).ops(M, RUN, None)


def test_half_of_the_slices_by_hand() -> None:
    """Projections halve, scores are a quarter but for every token's own key, the cache halves."""
    ours = SlicedAttention(BASE, 4, 2)
    found = {
        op.name: op for op in ours.ops(M, RUN, Loads(np.array([51.0]), np.array([4.0])))
    }  # 102 tokens, 2 of 4 slices
    pairs = 100 * 30 + 100 * 101 / 2
    assert found["attention_prefill"].flops == 4 * 256 * (100 + (pairs - 100) / 2)
    assert found["attention_decode"].flops == 4 * 256 * (2 + (999 + 49) / 2)
    assert found["attention_decode"].kv_read_bytes == 2 * 256 * 2 * (2 + (999 + 49) / 2)
    assert found["attention_prefill"].kv_read_bytes == 2 * 256 * 2 * 130
    assert found["slices"].flops == 2 * 102 * 4 * 512 * 512 / 2
    assert ours.state().keeps[0].values == BASE.state().keeps[0].values / 2
    block = SlicedFeedForward(FFN, 4, 2)
    assert block.expert_op(Loads(np.array([51.0]), np.array([4.0])), RUN).flops == 102 * 3 * 512 * 2048
    assert block.weights()[0].total == FFN.weights()[0].total == 2 * block.weights()[0].active


def test_keys_within_a_slice_are_counted_over_all_choices() -> None:
    """Each of 4 tokens is in one of 2 slices, all 16 ways: keys that the last one sees."""
    seen = [sum(slice_ == way[-1] for slice_ in way) for way in product((0, 1), repeat=4)]
    m = Batch.of([3]).moments((0,))
    assert SlicedAttention(BASE, 2, 1).keys(m).decode_kv == sum(seen) / len(seen)


@pytest.mark.parametrize(
    ("slices", "top_k", "said"),
    [(0, 1, "slices: must be at least 1, not 0"), (4, 5, "top_k: must be from 1 to the 4 slices"),
     (3, 1, "slices: 3 does not divide heads=8")],
)  # fmt: skip
def test_refused(slices: int, top_k: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        SlicedAttention(BASE, slices, top_k)


def test_what_slices_cannot_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"base.window: cannot be combined with slices"):
        SlicedAttention(replace(BASE, window=64), 4, 2)
    with pytest.raises(InputError, match=r"base.bias: must be false"):
        SlicedFeedForward(replace(FFN, bias=True), 4, 2)
    with pytest.raises(InputError, match="slices: 3 does not divide width=2048"):
        SlicedFeedForward(FFN, 3, 1)
