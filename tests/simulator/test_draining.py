"""Does letting go of a long run's requests change anything of it?

Expected values: the same run with all requests kept; NumPy's quantiles; a table written at once.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.analysis.show.output import OutputFolder
from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.engine.state import HIST_RATIO
from opbyte.simulator.fleet import draining
from opbyte.simulator.fleet.draining import Sketch
from opbyte.simulator.fleet.groups import Cut
from opbyte.simulator.fleet.pools import Fleet
from opbyte.simulator.fleet.run import run, run_group
from opbyte.simulator.results.record import Run
from opbyte.workloads.errors import InputError
from opbyte.workloads.pages import give_back
from opbyte.workloads.requests import RequestBlock, RequestStream, open_requests

from .deployments import small


def drawn(replicas: int, turns: float | None = None) -> RequestStream:
    return with_long(
        open_requests(
            rate=30.0 * replicas, input_len=300, output_len=60, lengths="lognormal", limit=3000, seed=3, block_size=128, turns=turns
        )
    )  # fmt: skip


def with_long(stream: RequestStream) -> RequestStream:
    """The same, with a request near the beginning that stays to the end."""

    def blocks() -> Iterator[RequestBlock]:
        for block in stream:
            longer = np.where(block.request_id == 7, 9000, block.output_tokens)
            yield replace(block, output_tokens=longer)

    return replace(stream, blocks=blocks)


def served(deployment: Deployment, policy: str, replicas: int, router: str = "round-robin") -> Run:
    return run(deployment, make_policy(policy), drawn(replicas), fleet=Fleet(router, replicas), keep_stages=True)


def cut(
    deployment: Deployment,
    policy: str,
    replicas: int,
    groups: int,
    router: str = "round-robin",
    turns: float | None = None,
) -> Run:
    """The same in groups of replicas, which are sent to and fro."""
    fleet, rules, stream = Fleet(router, replicas), make_policy(policy), drawn(replicas, turns)
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115
    cuts = [Cut(number, groups, file.name) for number in range(groups)]
    parts = [run_group(deployment, rules, stream, own, fleet=fleet, keep_stages=True) for own in cuts]
    return run(
        deployment, rules, stream, fleet=fleet, keep_stages=True, groups=(pickle.loads(pickle.dumps(parts)), file)
    )


def same(one: Run, other: Run) -> None:
    for each in fields(Run):
        if each.name not in ("wall_s", "groups", "every", "deployment", "policy", "requests", "stages"):
            assert getattr(one, each.name) == getattr(other, each.name), each.name
    for mine, theirs in ((one.request_columns(), other.request_columns()), (one.stages, other.stages)):
        assert list(mine) == list(theirs)
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    for block, own in zip(one.request_blocks(), other.request_blocks(), strict=True):
        assert all(np.array_equal(block[name], own[name]) for name in block)


@pytest.mark.parametrize(("policy", "replicas", "groups"), [("chunked", 5, 2), ("vllm", 3, 3)])
def test_groups_of_replicas_add_up_to_the_fleet(
    monkeypatch: pytest.MonkeyPatch, policy: str, replicas: int, groups: int
) -> None:
    deployment = small("llama-3-8b", "h100-x1")
    same(cut(deployment, policy, replicas, groups), served(deployment, policy, replicas))
    monkeypatch.setattr(draining, "EXACT", 600)
    monkeypatch.setattr(draining, "ALL_AT_LEAST", 1)
    long = served(deployment, policy, replicas)
    assert long.requests.count == 3000
    same(cut(deployment, policy, replicas, groups), long)


def test_groups_whose_router_looks_at_loads_serve_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = small("llama-3-8b", "h100-x1")
    whole, near = (served(deployment, "vllm", 4, "least-loaded"), cut(deployment, "vllm", 4, 2, "least-loaded"))
    assert near.groups == 2
    assert near.output_tokens == whole.output_tokens == whole.requests.output_tokens.sum()
    assert np.array_equal(near.requests.input_tokens, whole.requests.input_tokens)
    assert near.ttft_s.mean == pytest.approx(whole.ttft_s.mean, rel=0.2)
    monkeypatch.setattr(draining, "EXACT", 600)
    again = cut(deployment, "vllm", 4, 2, "least-loaded")
    kept = np.concatenate([block["last_token_s"] for block in again.request_blocks()])
    assert np.array_equal(kept, near.requests.last_token_s)


def test_replicas_that_wait_for_each_other_are_not_cut_apart() -> None:
    deployment = small("llama-3-8b", "h100-x1")
    with pytest.raises(InputError, match=r"--groups.*sessions"):
        cut(deployment, "vllm", 4, 2, turns=3.0)
    with pytest.raises(InputError, match=r"--groups.*at most the 4 replicas"):
        cut(deployment, "vllm", 4, 5)


@pytest.mark.parametrize(
    ("policy", "replicas", "router"),
    [
        ("chunked", 1, "round-robin"),
        ("chunked", 3, "round-robin"),
        ("vllm", 3, "round-robin"),
        ("vllm", 3, "least-loaded"),
    ],
)
def test_a_long_run_is_the_same_run(monkeypatch: pytest.MonkeyPatch, policy: str, replicas: int, router: str) -> None:
    deployment = small("llama-3-8b", "h100-x1")
    whole = served(deployment, policy, replicas, router)
    monkeypatch.setattr(draining, "EXACT", 600)
    monkeypatch.setattr(draining, "AT_LEAST", 16)
    monkeypatch.setattr(draining, "ALL_AT_LEAST", 1)
    monkeypatch.setattr(draining, "AT_ONCE", 1024)
    long = served(deployment, policy, replicas, router)
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
        assert one.mean == pytest.approx(other.mean, rel=1e-9)
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
def test_sketches_add_up_and_are_as_exact_as_they_say(values: list[float], part: int) -> None:
    told = np.array(values)
    one, other, both = Sketch(), Sketch(), Sketch()
    one.add(told[:part])
    other.add(told[part:])
    one.merge(other)
    both.add(told)
    assert np.array_equal(one.counts, both.counts)
    assert one.count == both.count == len(told)
    found = both.quantiles()
    assert found.mean == pytest.approx(float(told.mean()), abs=1e-10)
    for q, value in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99)):
        exact = float(np.quantile(told, q, method="inverted_cdf"))
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
