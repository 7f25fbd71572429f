"""Do passes of a token and shares of experts give the loads of their closed forms?

An expert is left out by a row of k of E with probability 1 - k / E; rows are independent.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.papers.mode import Denoising
from opbyte.analysis.papers.scmoe import Shares
from opbyte.workloads.batch import PREFILL
from opbyte.workloads.errors import InputError
from opbyte.workloads.ops import Loads


@given(top_k=st.lists(st.integers(1, 8), min_size=1, max_size=3), rows=st.integers(1, 500), experts=st.integers(8, 64))
def test_loads_are_conserved_and_bounded(top_k: list[int], rows: int, experts: int) -> None:
    shares = Shares.of_passes(top_k)
    loads = shares.expected(rows * len(top_k), experts)
    assert loads.routed == pytest.approx(rows * sum(top_k))
    assert max(top_k) - 1e-9 <= loads.active <= min(experts, rows * sum(top_k)) + 1e-9


@given(k=st.integers(1, 8), rows=st.integers(1, 200))
def test_one_number_of_experts_is_the_plain_router(k: int, rows: int) -> None:
    plain = Loads.expected(rows, k, 16, 16)
    for shares in (Shares((k,), (1.0,)), Shares.of_passes((k,)), Shares((k, k), (0.3, 0.7))):
        found = shares.expected(rows, 16)
        assert found.routed == pytest.approx(plain.routed)
        assert found.active == pytest.approx(plain.active)


def test_dynamic_routing_by_counting() -> None:
    """Each row draws its number, then its experts: the mean over many draws."""
    rng, shares = np.random.default_rng(3), Shares((1, 2, 4), (0.5, 0.3, 0.2))
    found = []
    for _ in range(4000):
        ks = rng.choice(shares.top_k, size=3, p=shares.weights)
        found.append(len({e for k in ks for e in rng.permutation(8)[:k]}))
    assert np.mean(found) == pytest.approx(shares.expected(3, 8).active, rel=0.02)


def test_passes_are_rows_of_one_batch() -> None:
    batch = Shares.of_passes((2, 1)).batch([100, 7])
    assert batch.context.tolist() == [100, 100, 7, 7]
    noise = Denoising(steps=10, tokens=14).batch(3)
    assert (noise.tokens, noise.phase.tolist()) == (42, [PREFILL] * 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shares((0,), (1.0,)), "must be 1 or more"),
        (lambda: Shares((1, 2), (0.5, 0.6)), "must add up to 1"),
        (lambda: Shares.of_passes((9,)).expected(1, 8), "must be at most 8, not 9"),
        (lambda: Denoising(10, 14).batch(0), "must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_is_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
