"""Does letting go of a long run's requests change anything of it?

Expected values: the same run with all requests kept; NumPy's quantiles; a table written at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.analysis.show.output import OutputFolder
from opbyte.simulator.batching.policies import make_policy
from opbyte.simulator.batching.state import HIST_RATIO
from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.serving import draining
from opbyte.simulator.serving.draining import Sketch
from opbyte.simulator.serving.fleet import Fleet
from opbyte.simulator.serving.pages import give_back
from opbyte.simulator.serving.record import Run
from opbyte.simulator.serving.run import run
from opbyte.workloads.requests import open_requests

Small = Callable[..., Deployment]


def served(d: Deployment, policy: str, replicas: int, keep: bool = True) -> Run:
    stream = open_requests(
        rate=30.0 * replicas, input_len=300, output_len=60, lengths="lognormal", limit=3000, seed=3, block_size=128
    )
    return run(d, make_policy(policy), stream, fleet=Fleet("round-robin", replicas), keep_stages=keep)


@pytest.mark.parametrize(("policy", "replicas"), [("chunked", 1), ("chunked", 3), ("vllm", 3)])
def test_a_long_run_is_the_same_run(small: Small, monkeypatch: pytest.MonkeyPatch, policy: str, replicas: int) -> None:
    deployment = small("llama-3-8b", "h100-x1")
    whole = served(deployment, policy, replicas)
    monkeypatch.setattr(draining, "EXACT", 600)
    long = served(deployment, policy, replicas)
    assert len(long.requests) == len(whole.requests) == 3000
    assert 300 <= len(long.requests.request_id) <= 600
    blocks = list(long.request_blocks())
    assert len(blocks) > 1
    for name, column in whole.request_columns().items():
        assert np.array_equal(np.concatenate([block[name] for block in blocks]), column)
    for name in ("iterations", "joules", "output_tokens", "prompt_tokens", "makespan_s", "tbt_s"):
        assert getattr(long, name) == getattr(whole, name)
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        one, other = getattr(long, name), getattr(whole, name)
        assert one.mean == pytest.approx(other.mean, rel=1e-12)
        assert [one.p50, one.p90] == pytest.approx([other.p50, other.p90], rel=2e-3)
        assert one.p99 == pytest.approx(other.p99, rel=2e-2)  # between two requests of thirty
    rate = whole.output_tokens_per_s
    assert long.output_tokens_per_s == pytest.approx(rate, rel=0.05)  # a window of its own
    every = 3000 // len(long.requests.request_id)
    ids = long.requests.request_id
    assert np.array_equal(ids, every * np.arange(len(ids)))
    assert sorted(long.requests.order) == list(range(len(ids)))


@given(st.lists(st.floats(1e-8, 1e3), min_size=1, max_size=300), st.integers(0, 300))
@settings(deadline=None)
def test_sketches_add_up_and_are_as_exact_as_they_say(values: list[float], cut: int) -> None:
    drawn = np.array(values)
    one, other, both = Sketch(), Sketch(), Sketch()
    one.add(drawn[:cut])
    other.add(drawn[cut:])
    one.merge(other)
    both.add(drawn)
    assert np.array_equal(one.counts, both.counts)
    assert one.count == both.count == len(drawn)
    found = both.quantiles()
    assert found.mean == pytest.approx(float(drawn.mean()))
    for q, value in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99)):
        exact = float(np.quantile(drawn, q, method="inverted_cdf"))
        assert value == pytest.approx(exact, rel=1.01 * (HIST_RATIO - 1.0))


def test_memory_that_is_given_back_is_that_of_whole_pages_within() -> None:
    array = np.arange(100_000, dtype=np.int64).reshape(-1, 4)
    give_back(array, 5_000, 15_000)
    assert np.array_equal(array[:5_000].ravel(), np.arange(20_000))
    assert np.array_equal(array[15_000:].ravel(), np.arange(60_000, 100_000))


def test_a_table_in_blocks_is_the_table(tmp_path: Path) -> None:
    columns = {"id": np.arange(10), "time_s": np.linspace(0.0, 1.0, 10)}
    parts = [{name: c[i : i + 4] for name, c in columns.items()} for i in range(0, 10, 4)]
    with OutputFolder(tmp_path / "out") as folder:
        folder.csv("one.csv", columns)
        folder.blocks("blocks.csv", parts)
        assert not (tmp_path / "out" / "blocks.csv").exists()  # not before all is written
    one, blocks = (tmp_path / "out" / name for name in ("one.csv", "blocks.csv"))
    assert one.read_bytes() == blocks.read_bytes()
