"""Are generated requests what was asked for: distribution, seed, independence of blocks?"""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import stats

from opbyte import InputError
from opbyte.workloads.requests import LENGTHS, RequestBlock, open_requests


def bytes_of(block: RequestBlock) -> tuple[bytes, ...]:
    arrays = [block.request_id, block.arrival_s, block.input_tokens, block.output_tokens]
    if block.turns is not None:
        arrays += [block.turns.follows, block.turns.session, block.turns.think_s]
    return (*(array.tobytes() for array in arrays), repr(block.hash_ids).encode())


WORKLOADS: list[dict[str, Any]] = [
    {},
    {"rate": 3.0},
    {"rate": 3.0, "cv": 4.0},
    {"closed_loop": 8},
    {"rate": 3.0, "turns": 3.5, "think": 2.0, "input_len": 50, "output_len": 30},
    {"closed_loop": 8, "turns": 9.0},
    {"rate": 3.0, "prefix_len": 700, "prefixes": 3},
    {"rate": 3.0, "turns": 3.5, "prefix_len": 700, "prefixes": 3},
    *({"rate": 2.0, "input_len": 300, "output_len": 40, "lengths": name} for name in LENGTHS),
]


@pytest.mark.parametrize("options", WORKLOADS)
def test_seed_block_size_and_prefix(options: dict[str, Any]) -> None:
    whole = open_requests(**options, limit=2000, seed=7).read()
    assert whole.arrival_s[0] == 0
    assert bytes_of(open_requests(**options, limit=2000, seed=7, block_size=33).read()) == bytes_of(whole)
    short = open_requests(**options, limit=500, seed=7).read()
    assert bytes_of(short)[1] == whole.arrival_s[:500].tobytes()
    assert bytes_of(short)[2] == whole.input_tokens[:500].tobytes()
    other = open_requests(**options, limit=2000, seed=8).read()
    fixed = options.get("lengths") == "fixed"
    assert fixed or bytes_of(other)[2] != bytes_of(whole)[2]
    assert "closed_loop" in options or bytes_of(other)[1] != bytes_of(whole)[1]


def test_poisson_gaps_are_exponential() -> None:
    block = open_requests(rate=5.0, input_len=1, output_len=1, limit=50_001, seed=1).read()
    gaps = np.diff(block.arrival_s)
    assert stats.kstest(gaps, stats.expon(scale=1 / 5).cdf).pvalue > 0.01
    assert gaps.mean() == pytest.approx(1 / 5, rel=4 / math.sqrt(50_000))  # 4 standard errors


def test_gamma_gaps_have_the_variation_asked_for() -> None:
    block = open_requests(rate=5.0, cv=2.0, limit=20_001, seed=1).read()
    gaps = np.diff(block.arrival_s)
    shape = 1 / 4
    assert stats.kstest(gaps, stats.gamma(shape, scale=1 / (5 * shape)).cdf).pvalue > 0.01
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.05)


def lengths_of(name: str, mean_in: int, mean_out: int, n: int = 200_000) -> RequestBlock:
    stream = open_requests(rate=1.0, input_len=mean_in, output_len=mean_out, lengths=name, limit=n, seed=3)
    return stream.read()


def test_fixed_lengths() -> None:
    block = lengths_of("fixed", 512, 1, 100)
    assert set(block.input_tokens) == {512}
    assert set(block.output_tokens) == {1}


@pytest.mark.parametrize("mean", [1, 2, 5, 40, 1024, 2**31 - 1])
def test_lognormal_keeps_the_mean(mean: int) -> None:
    tokens = lengths_of("lognormal", mean, 1).input_tokens
    assert tokens.min() >= 1
    if mean < 2**30:  # longer ones are cut off at 2**31 - 1
        # Standard error of the mean: exp(0.8**2) - 1 has root 0.947; 4 of them.
        assert tokens.mean() == pytest.approx(mean, rel=4 * 0.947 / math.sqrt(200_000))
    if 40 < mean < 2**30:
        assert np.log(tokens).std() == pytest.approx(0.8, rel=0.01)


@pytest.mark.parametrize(("mean", "most"), [(5, 1024), (294, 1024), (1000, 1024), (9400, 20_000)])
def test_a_cut_lognormal_keeps_the_mean_and_the_cut(mean: int, most: int) -> None:
    """As MLPerf's prompts and answers."""
    tokens = lengths_of(f"lognormal-{most}", mean, 1).input_tokens
    assert tokens.max() <= most
    assert tokens.mean() == pytest.approx(mean, rel=4 * 0.947 / math.sqrt(200_000))
    with pytest.raises(
        InputError, match=f"--input-len: must be at most {most}, the largest length of --lengths, not {most + 1}"
    ):
        lengths_of(f"lognormal-{most}", most + 1, 1)


def test_gaussian_spread_and_cut() -> None:
    block = lengths_of("gaussian", 2048, 200)
    sigma = 0.4 * 200
    assert block.input_tokens.mean() == pytest.approx(2048, abs=1)
    assert block.input_tokens.std() == pytest.approx(sigma, rel=0.01)
    cut = stats.truncnorm(-190.5 / sigma, 190.5 / sigma, loc=200, scale=sigma)
    assert block.output_tokens.min() >= 10
    assert block.output_tokens.max() <= 390
    assert block.output_tokens.mean() == pytest.approx(200, abs=1)
    assert block.output_tokens.std() == pytest.approx(cut.std(), rel=0.01)
    assert set(lengths_of("gaussian", 1, 1, 100).output_tokens) == {1}
    assert lengths_of("gaussian", 2**31 - 1, 9, 100).input_tokens.max() > 0


def test_uniform_bounds() -> None:
    block = lengths_of("uniform", 1000, 1)
    assert (block.input_tokens.min(), block.input_tokens.max()) == (800, 1000)
    assert block.input_tokens.mean() == pytest.approx(900, abs=1)
    assert set(block.output_tokens) == {1}


def test_closed_loop_arrives_at_zero() -> None:
    stream = open_requests(closed_loop=64, input_len=10, output_len=5, limit=200)
    assert (stream.closed_loop, stream.has_arrivals) == (64, False)
    assert not stream.read().arrival_s.any()


def test_duration_bounds_a_generated_stream() -> None:
    block = open_requests(rate=100.0, input_len=1, output_len=1, duration=50.0).read()
    assert block.arrival_s[-1] < 50
    assert len(block) == pytest.approx(5000, abs=4 * math.sqrt(5000))


def test_a_million_requests_are_never_held() -> None:
    tracemalloc.start()
    try:
        stream = open_requests(rate=9.0, input_len=900, output_len=80, lengths="lognormal", limit=1_000_000)
        assert sum(len(block) for block in stream) == 1_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6  # one million rows would take 32 MB


@pytest.mark.parametrize(
    ("column", "summary"),
    [("input_tokens", (1199, 1015, 4074, 4122, 14050)), ("output_tokens", (201, 115, 421, 598, 1000))],
)
def test_sample_matches_the_published_summary(column: str, summary: tuple[int, ...]) -> None:
    """Azure 2023 conversation trace: mean, p50, p90, p99 and maximum of the lengths."""
    tokens = getattr(open_requests(limit=400_000).read(), column)
    assert tokens.mean() == pytest.approx(summary[0], rel=0.01)
    for quantile, value in zip((0.5, 0.9, 0.99), summary[1:4], strict=True):
        # Where the curve is flat or steep a quantile jumps: compare probabilities instead.
        error = 4 * math.sqrt(quantile * (1 - quantile) / len(tokens))  # 4 standard errors
        assert (tokens < value).mean() <= quantile + error
        assert (tokens <= value).mean() >= quantile - error
    assert 0.95 * summary[4] < tokens.max() <= summary[4]
    assert tokens.min() >= 1


def test_sample_arrivals_match_the_published_summary() -> None:
    gaps = np.diff(open_requests(limit=100_001).read().arrival_s)
    assert 1 / gaps.mean() == pytest.approx(5.92, rel=0.015)
    assert gaps.std() / gaps.mean() == pytest.approx(1.08, rel=0.02)
