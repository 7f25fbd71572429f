"""Does a token that uses more heads, slices, states or experts ever compute, read or keep less?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.workloads.batch import Batch
from opbyte.workloads.layers import (
    Attention,
    AttentionMixture,
    FeedForward,
    GatedDeltaNet,
    HeadExperts,
    LayerKind,
    Memories,
    Run,
    SlicedAttention,
    SlicedFeedForward,
    SpanAttention,
    is_routed,
)
from opbyte.workloads.numerics import Numerics
from opbyte.workloads.ops import Loads

BASE = Attention(512, 16, 8, 64)
MADE: dict[str, Callable[[int], LayerKind]] = {
    "spans": lambda n: SpanAttention(BASE, ((8, 0.0, n / 8), (8, 64.0 * n, 0.25)), 4096),
    "heads": lambda n: HeadExperts(BASE, n, 4),
    "mixture": lambda n: AttentionMixture(BASE, n),
    "shared keys": lambda n: AttentionMixture(BASE, n, True),
    "attention slices": lambda n: SlicedAttention(BASE, 8, n),
    "ffn slices": lambda n: SlicedFeedForward(FeedForward(512, 2048), 8, n),
    "memories": lambda n: Memories(GatedDeltaNet(512, 4, 4, 64, 64, 4), 8, n),
}
MATMULS = ("gemm", "experts", "attention_prefill", "attention_decode", "linear_state")


def costs(part: LayerKind, batch: Batch) -> tuple[float, float, float]:
    """Matmul FLOP and weights and keys read of a step, and bytes of a long sequence."""
    windows = sorted({0} | part.state().spans)
    loads = None
    if is_routed(part):
        r = part.routed
        loads = Loads.expected(batch.tokens, r.top_k, r.experts, r.experts)
    ops = part.ops(batch.moments(tuple(windows)), Run(Numerics()), loads)
    state = part.state()
    kept = sum(k.values * (min(k.window, 4096) or 4096) for k in state.keeps)
    kept += sum(f.values for f in state.fixed)
    flops = sum(op.flops for op in ops if op.kind in MATMULS)
    return flops, sum(op.stream_bytes for op in ops), float(kept)


@pytest.mark.parametrize("name", MADE)
@given(n=st.integers(1, 6), decodes=st.lists(st.integers(0, 4000), min_size=1, max_size=5), chunk=st.integers(1, 500))
def test_more_chosen_costs_no_less(name: str, n: int, decodes: list[int], chunk: int) -> None:
    batch = Batch.of(decodes, [(chunk, 100)])
    for less, more in zip(*(costs(MADE[name](k), batch) for k in (n, n + 1)), strict=True):
        assert less <= more * (1 + 1e-12)
