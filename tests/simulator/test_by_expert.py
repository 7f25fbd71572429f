"""Are batches by expert what Read-ME's algorithm and ExpertFlow's regrouping say?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.papers.read_me import first_come, longest_queues

B1 = npt.NDArray[np.bool_]

waiting = st.lists(st.integers(0, 5), max_size=30)


def regrouped(routes: B1, rounds: int = 10) -> B1:
    """Deal the tokens of two batches anew, by likeness of their routes (ExpertFlow, arXiv 2410.17954).

    Two centres by K-means on the Hamming distance of rows, groups of equal size; the batches stay as
    they came where that touches no fewer experts.

    Parameters
    ----------
    routes : bool array, shape (tokens, layers * experts)
        Experts of each token in every layer; the first half came as one batch.
    rounds : int
        Most rounds of K-means.

    Returns
    -------
    bool array, shape (tokens,)
        Which tokens are in the second batch; as many as not, or one less.
    """
    half = len(routes) - len(routes) // 2
    came = np.arange(len(routes)) >= half
    apart = (routes != routes[0]).sum(axis=1)
    centres = np.stack([routes[0], routes[int(apart.argmax())]]).astype(np.float64)
    second = came
    for _ in range(rounds):
        distance = np.abs(routes[None, :, :] - centres[:, None, :]).sum(axis=2)
        order = np.argsort(distance[0] - distance[1], kind="stable")
        now = np.ones(len(routes), dtype=np.bool_)
        now[order[:half]] = False
        if (now == second).all():
            break
        second = now
        centres = np.stack([routes[~now].mean(axis=0), routes[now].mean(axis=0)])
    return second if touched(routes, second) < touched(routes, came) else came


def touched(routes: B1, second: B1) -> int:
    """Distinct experts of both batches, summed over layers."""
    return int(routes[second].any(axis=0).sum() + routes[~second].any(axis=0).sum())


@given(experts=waiting, limit=st.integers(1, 12))
def test_a_batch_takes_each_token_once_and_as_many_as_it_may(experts: list[int], limit: int) -> None:
    for former in (first_come, longest_queues):
        taken = former(experts, limit)
        assert len(taken) == len(set(taken)) == min(limit, len(experts))
        assert set(taken) <= set(range(len(experts)))


@given(experts=waiting, limit=st.integers(1, 12))
def test_no_batch_of_the_same_size_has_fewer_experts(experts: list[int], limit: int) -> None:
    """As many of the longest queues as fill it: the fewest that can."""
    taken = longest_queues(experts, limit)
    lengths = sorted(np.bincount(experts, minlength=6), reverse=True) if experts else []
    fewest = next((n for n in range(7) if sum(lengths[:n]) >= len(taken)), 0)
    assert len({experts[i] for i in taken}) == fewest


def test_read_mes_algorithm_by_hand() -> None:
    assert longest_queues([1, 2, 2, 1, 0], 3) == [0, 3, 1]  # of equal queues the older first
    assert first_come([1, 2, 2], 2) == [0, 1]


@given(seed=st.integers(0, 1000), tokens=st.integers(2, 24), shape=st.tuples(st.integers(1, 4), st.integers(2, 8)))
def test_regrouping_keeps_sizes_and_never_touches_more(seed: int, tokens: int, shape: tuple[int, int]) -> None:
    layers, experts = shape
    routes = np.zeros((tokens, layers, experts), dtype=np.bool_)
    drawn = np.random.default_rng(seed).integers(0, experts, (tokens, layers))
    np.put_along_axis(routes, drawn[:, :, None], True, axis=2)
    rows = routes.reshape(tokens, -1)
    second, came = regrouped(rows), np.arange(tokens) >= tokens - tokens // 2
    assert second.sum() == tokens // 2
    assert touched(rows, second) <= touched(rows, came)


def test_regrouping_parts_two_kinds_of_tokens() -> None:
    kinds = np.array([0, 1, 0, 1, 1, 0, 1, 0])
    rows = np.zeros((8, 4), dtype=np.bool_)
    rows[np.arange(8), kinds] = True
    assert touched(rows, np.arange(8) >= 4) == 4
    assert touched(rows, regrouped(rows)) == 2


@pytest.mark.parametrize("former", [first_come, longest_queues])
def test_nobody_waiting_is_an_empty_batch(former: object) -> None:
    assert former([], 4) == []  # type: ignore[operator]
