"""Are expert loads drawn from the distribution they claim, and is every draw repeatable?

Expected moments are closed forms of drawing k of E experts without repeats; measured imbalance
is the public table of DeepSeek-V2-Lite (docs/data.md), met within 15 %.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from opbyte.workloads.batch import Batch
from opbyte.workloads.draws import EXACT_TOKENS
from opbyte.workloads.errors import InputError
from opbyte.workloads.routing import Router, make_router

Loads = npt.NDArray[np.float64]


def router(routing: str, experts: int, top_k: int, layers: int = 2, seed: int = 0) -> Router:
    return make_router(routing, layers=layers, experts=experts, top_k=top_k, seed=seed)


def draws(of: Router, batch: Batch, count: int) -> Loads:
    """Loads of one layer in `count` steps, each of another pool, shape (count, experts)."""
    return np.stack([replace(of, seed=of.seed + step).loads(step, 0, batch).tokens for step in range(count)])


@pytest.mark.parametrize("tokens", [5, 40, 2000])
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (64, 6), (160, 6)])
def test_uniform_moments(tokens: int, experts: int, top_k: int) -> None:
    count = 1500
    loads = draws(router("uniform", experts, top_k), Batch.of([0] * tokens), count)
    p = top_k / experts
    variance = tokens * p * (1 - p)
    assert (loads.sum(axis=1) == tokens * top_k).all()
    # Five standard errors, the worst of all experts; variances of near-normal loads.
    error = 5 / np.sqrt(count)
    assert np.abs(loads.mean(axis=0) - tokens * p).max() < error * np.sqrt(variance)
    assert loads.var(axis=0).mean() == pytest.approx(variance, rel=0.03)
    # Loads add up to a constant, so that every covariance is -variance / (E - 1).
    covariance = np.cov(loads.T)
    off = (covariance.sum() - np.trace(covariance)) / (experts * (experts - 1))
    assert off == pytest.approx(-variance / (experts - 1), rel=0.03)


@pytest.mark.parametrize("routing", ["uniform", "measured", "power_law:1.0", "power_law:8"])
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (64, 6), (160, 8), (4, 4), (1, 1)])
def test_a_token_takes_distinct_experts(routing: str, experts: int, top_k: int) -> None:
    for batch in (Batch.of([3]), Batch.of([], [(1, 0)])):
        loads = draws(router(routing, experts, top_k), batch, 50)
        assert loads.max() == 1
        assert (loads.sum(axis=1) == top_k).all()


@pytest.mark.parametrize("routing", ["measured", "power_law:1.0"])
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (64, 6), (128, 8)])
def test_inclusion_is_what_draws_give(routing: str, experts: int, top_k: int) -> None:
    of = router(routing, experts, top_k)
    share = draws(of, Batch.of([0] * EXACT_TOKENS), 200).mean(axis=0) / EXACT_TOKENS
    assert np.abs(of.inclusion[0] - share).max() < 0.03
    assert of.inclusion.sum(axis=1) == pytest.approx(top_k)


@pytest.mark.parametrize("routing", ["power_law:10", "power_law:3"])
def test_inclusion_of_extreme_skew(routing: str) -> None:
    of = router(routing, 64, 8)
    assert (of.inclusion <= 1.0).all()
    assert (of.inclusion > 0.0).all()
    assert of.inclusion.sum(axis=1) == pytest.approx(8, rel=1e-6)


@pytest.mark.parametrize("routing", ["uniform", "measured", "power_law:1.0"])
def test_a_key_gives_one_draw_in_any_order(routing: str) -> None:
    of, batch = router(routing, 64, 6, layers=3), Batch.of([5] * 9, [(300, 0), (17, 2)])
    keys = [(step, layer, replica) for step in range(4) for layer in range(3) for replica in (0, 1)]
    first = {k: of.loads(k[0], k[1], batch, k[2]).tokens.tobytes() for k in keys}
    again = {k: of.loads(k[0], k[1], batch, k[2]).tokens.tobytes() for k in reversed(keys)}
    assert first == again
    assert len(set(first.values())) == len(keys)


def test_two_seeds_differ() -> None:
    batch = Batch.of([0] * 20)
    one, two = (router("uniform", 64, 6, seed=s).loads(0, 0, batch).tokens for s in (1, 2))
    assert (one != two).any()


def test_a_prompt_keeps_its_experts_over_its_chunks() -> None:
    of = router("measured", 64, 6)

    def chunk(step: int, sequence: int) -> Loads:
        batch = Batch.of([], [(2000, 0)])
        moved = Batch(batch.q_len, batch.context, batch.phase, np.array([sequence]))
        return of.loads(step, 0, moved).tokens

    same = np.corrcoef(chunk(0, 7), chunk(1, 7))[0, 1]
    other = np.corrcoef(chunk(0, 7), chunk(0, 8))[0, 1]
    assert same > 0.95
    assert other < 0.5


def max_over_mean(loads: Loads) -> float:
    return float((loads.max(axis=1) / loads.mean(axis=1)).mean())


def read(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def measured_loads(batch: Batch) -> Loads:
    """Loads over 26 layers and many steps, each step with other prompts."""
    of = router("measured", 64, 6, layers=26)
    out = []
    for step in range(12):
        moved = Batch(batch.q_len, batch.context, batch.phase, batch.seq_id + 1000 * step)
        out += [of.loads(step, layer, moved).tokens for layer in range(26)]
    return np.stack(out)


def grouped(loads: Loads, groups: int) -> Loads:
    return loads.reshape(len(loads), groups, -1).sum(axis=2)


def test_batches_are_as_uneven_as_measured(data_set: Callable[[str], Path]) -> None:
    for row in read(data_set("routing") / "dsv2lite_batch_imbalance.csv"):
        loads = measured_loads(Batch.of([0] * int(row["batch_tokens"])))
        assert max_over_mean(loads) == pytest.approx(row["expert_max_over_mean"], rel=0.15), row
        assert (loads > 0).sum(axis=1).mean() == pytest.approx(row["unique_experts"], rel=0.15)
        for groups in (8, 32):
            wanted = row[f"ep{groups}_max_over_mean"]
            assert max_over_mean(grouped(loads, groups)) == pytest.approx(wanted, rel=0.15), row


def test_chunks_are_as_uneven_as_measured(data_set: Callable[[str], Path]) -> None:
    for row in read(data_set("routing") / "dsv2lite_chunk_imbalance.csv"):
        loads = measured_loads(Batch.of([], [(int(row["chunk_tokens"]), 0)]))
        assert max_over_mean(loads) == pytest.approx(row["expert_max_over_mean"], rel=0.15), row
        for groups in (8, 32):
            wanted = row[f"ep{groups}_max_over_mean"]
            assert max_over_mean(grouped(loads, groups)) == pytest.approx(wanted, rel=0.15), row


@pytest.mark.parametrize(
    ("routing", "part"),
    [
        ("skewed", "unknown routing"),
        ("power_law", "power_law:EXPONENT"),
        ("power_law:x", "exponent from 0 to 10"),
        ("power_law:11", "exponent from 0 to 10"),
        ("uniform:1", "has no parameter"),
        ("trace:no-such-file.csv", "no-such-file.csv"),
    ],
)
def test_bad_routing_is_refused(routing: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        router(routing, 8, 2)


def test_a_trace_gives_its_shares(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("layer,e0,e1,e2,e3\n0,1,1,1,1\n1,6,2,1,1\n")
    of = router(f"trace:{path}", 4, 1, layers=3)
    assert of.prob[1] == pytest.approx([0.6, 0.2, 0.1, 0.1])
    assert of.prob[2] == pytest.approx([0.25] * 4)  # rows are reused in turn
    share = np.stack([of.loads(s, 1, Batch.of([0] * 200)).tokens for s in range(100)]).mean(axis=0)
    assert share / 200 == pytest.approx([0.6, 0.2, 0.1, 0.1], abs=0.02)


@pytest.mark.parametrize("routing", ["uniform", "power_law:1.0"])
def test_many_tokens_are_one_of_a_pool_of_samples(routing: str) -> None:
    """So a run computes the time of each once; replicas share a pool, seeds do not."""
    of, many = router(routing, 8, 2, layers=4), Batch.of([0] * 40)
    seen = {tuple(of.loads(step, 1, many).tokens) for step in range(8 * of.pool)}
    assert len(seen) <= of.pool
    assert {tuple(of.loads(step, 1, many, replica=1).tokens) for step in range(50)} <= seen
    other = router(routing, 8, 2, layers=4, seed=1)
    assert not {tuple(other.loads(step, 1, many).tokens) for step in range(50)} <= seen
