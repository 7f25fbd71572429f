"""Are agents' calls sent when all that they wait for have ended and their tool is done?

Expected values: sessions, which a graph that is a chain must equal; open arrivals, which one without
edges must equal; sums of times along critical paths, worked out call by call.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.simulator.deploy.deployment import Deployment
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.fleet.pools import Fleet
from opbyte.simulator.fleet.run import run
from opbyte.simulator.parts.failures.failing import Faults
from opbyte.simulator.results.record import Run
from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import RequestStream, open_requests

from ..tables import tables
from .deployments import small

Call = dict[str, Any]


def written(path: Path, calls: list[Call]) -> RequestStream:
    path.write_text("".join(json.dumps(call) + "\n" for call in calls))
    return open_requests(path)


def call(name: str, at_ms: float, prompt: int, output: int, **more: Any) -> Call:
    return {"request_id": name, "timestamp": at_ms, "input_length": prompt, "output_length": output, **more}


def served(deployment: Deployment, load: RequestStream, policy: str = "vllm", fleet: Fleet | None = None) -> Run:
    return run(deployment, make_policy(policy), load, fleet=fleet)


def same(one: Run, other: Run) -> None:
    for name, column in one.requests.columns().items():
        np.testing.assert_allclose(other.requests.columns()[name], column, rtol=1e-9, atol=1e-12, err_msg=name)


chains = st.lists(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 30), st.sampled_from([0.0, 0.01, 0.3])), min_size=1, max_size=4),
    min_size=1, max_size=5,
)  # fmt: skip


@pytest.mark.parametrize("replicas", [1, 2])
@given(drawn=chains)
@settings(max_examples=5, deadline=None)
def test_a_graph_that_is_a_chain_is_a_session(
    tmp_path_factory: pytest.TempPathFactory, replicas: int, drawn: list[list[tuple[int, int, float]]]
) -> None:
    """Stamp for stamp and cache hit for cache hit, with `predecessor`; with `after` alone, without a cache."""
    rows: list[Call] = []
    for s, turns in enumerate(drawn):
        said = 0
        for k, (new, out, think) in enumerate(turns):
            more: Call = {"think_s": think if k else 0, "before": f"{s}.{k - 1}" if k else None}
            rows.append(call(f"{s}.{k}", 5.0 * s, said + new, out, **more))
            said += new + out
    folder = tmp_path_factory.mktemp("chain")
    kept = [{k: v for k, v in row.items() if k != "before"} for row in rows]
    session = [{**row, "predecessor": old["before"]} for row, old in zip(kept, rows, strict=True)]
    graph = [{**row, "after": []} for row in session]
    waits = [{**row, "after": [old["before"]] if old["before"] else []} for row, old in zip(kept, rows, strict=True)]
    d, fleet = small("llama-3-8b", "h100-x1"), Fleet("least-loaded", replicas)
    for policy, other in (("vllm", graph), ("chunked", graph), ("chunked", waits)):
        plain = served(d, written(folder / "session.jsonl", session), policy, fleet)
        found = served(d, written(folder / "graph.jsonl", other), policy, fleet)
        same(plain, found)
        assert found.cached_tokens == plain.cached_tokens
        assert found.parts["sessions"].count == plain.parts["sessions"].count == len(drawn)
        assert found.parts["sessions"].e2e_s.p99 == pytest.approx(plain.parts["sessions"].e2e_s.p99)
        assert found.parts["sessions"].path_calls == plain.parts["sessions"].path_calls
        assert found.parts["sessions"].serving_s == pytest.approx(plain.parts["sessions"].serving_s)


def test_a_graph_without_edges_is_open_arrivals(tmp_path: Path) -> None:
    rows = [call(f"c{i}", 4.0 * i, 100 + 7 * i, 5 + i) for i in range(30)]
    d = small("llama-3-8b", "h100-x1")
    plain = served(d, written(tmp_path / "plain.jsonl", rows))
    found = served(d, written(tmp_path / "graph.jsonl", [{**row, "after": None} for row in rows]))
    same(plain, found)
    assert "sessions" not in plain.parts
    assert (found.parts["sessions"].count, found.parts["sessions"].path_calls, found.parts["sessions"].between_s) == (
        30,
        1.0,
        0.0,
    )


def test_a_join_waits_for_the_last_of_all_and_its_tool(tmp_path: Path) -> None:
    """plan -> three tools side by side -> answer; the longest way there is the critical path."""
    rows = [
        call("plan", 0, 300, 20, after=[], session="t"),
        call("a", 0, 400, 10, after=["plan"], wait_s=0.5, session="t"),
        call("b", 0, 400, 90, after="plan", wait_s=0.1, session="t"),
        call("c", 0, 900, 200, after=["plan"], session="t"),
        call("answer", 0, 800, 30, after=["a", "b", "c"], wait_s=0.25, session="t"),
        call("alone", 7000, 100, 10, after=[]),
    ]
    found = served(small("llama-3-8b", "h100-x1"), written(tmp_path / "t.jsonl", rows))
    arrival, last = found.requests.arrival_s, found.requests.last_token_s
    for i, wait in ((1, 0.5), (2, 0.1), (3, 0.0)):
        assert arrival[i] == pytest.approx(last[0] + wait, rel=1e-12)
    assert arrival[4] == pytest.approx(last[1:4].max() + 0.25, rel=1e-12)
    slowest = 1 + int(last[1:4].argmax())
    tasks = found.parts["sessions"]
    assert tasks is not None
    assert (tasks.count, tasks.calls, tasks.path_calls) == (2, 6, 2.0)
    took = last - arrival
    served_s = took[[0, slowest, 4]].sum()
    assert tasks.serving_s == pytest.approx((served_s + took[5]) / 2)
    assert tasks.between_s == pytest.approx((last[4] - arrival[0] - served_s) / 2)
    assert tasks.e2e_s.mean == pytest.approx((last[4] + took[5]) / 2)


@given(
    edges=st.lists(st.lists(st.integers(1, 8), max_size=3), min_size=2, max_size=25),
    replicas=st.integers(1, 3), fails=st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 0.3)), max_size=2),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_every_call_is_sent_once_after_all_it_waits_for(
    tmp_path_factory: pytest.TempPathFactory, edges: list[list[int]], replicas: int,
    fails: list[tuple[int, float]],
) -> None:  # fmt: skip
    rows, waits = [], []
    for i, backs in enumerate(edges):
        before = sorted({i - back for back in backs if back <= i})
        waits.append(before)
        rows.append(
            call(
                f"c{i}",
                float(i),
                50 + i,
                3 + i % 7,
                after=[f"c{j}" for j in before],
                wait_s=0.01 * (i % 3),
                session="all",
            )
        )
    faults = Faults(at=tuple((r % replicas, t) for r, t in fails), repair_s=0.01) if fails else None
    path = tmp_path_factory.mktemp("dag") / "dag.jsonl"
    found = served(small("llama-3-8b", "h100-x1"), written(path, rows), "chunked", Fleet("vllm", replicas, faults))
    table = found.requests
    assert table.request_id.tolist() == list(range(len(rows)))
    assert found.output_tokens == table.output_tokens.sum()
    for i, before in enumerate(waits):
        ready = max([1e-3 * i, *(table.last_token_s[j] + 0.01 * (i % 3) for j in before)])
        assert table.arrival_s[i] == pytest.approx(ready, rel=1e-9, abs=1e-12)
    longest = table.last_token_s.max()
    assert found.parts["sessions"].e2e_s.mean == pytest.approx(longest)
    assert found.parts["sessions"].serving_s + found.parts["sessions"].between_s == pytest.approx(longest)


@pytest.mark.parametrize(("second", "says"), tables(__file__)["bad"])
def test_bad_graphs_are_refused_with_their_line(tmp_path: Path, second: Call, says: str) -> None:
    first = call("a", 0, 10, 1, after=[], wait_s=0, session="s", parent=None)
    rows = [first, {**call("b", 1, 20, 1, wait_s=0, session="s", parent=None), **second}]
    with pytest.raises(InputError, match=says) as found:
        written(tmp_path / "bad.jsonl", rows).read()
    assert "\n" not in str(found.value)


def test_other_files_with_such_names_are_read_as_before(tmp_path: Path) -> None:
    """`parent` and `wait_s` count beside `after` alone; `after` needs `request_id`."""
    plain = {"timestamp": 0, "input_length": 5, "output_length": 1, "parent": 3, "wait_s": "long"}
    assert written(tmp_path / "plain.jsonl", [plain]).read().turns is None
    with pytest.raises(InputError, match="has the column after, but not request_id"):
        written(tmp_path / "after.jsonl", [{**plain, "after": []}]).read()


def test_a_table_says_the_same_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text(
        "request_id,arrival_s,input_tokens,output_tokens,after,wait_s\n"
        "p,0,100,5,,\nq,0,100,5,p,0.5\nr,0,100,5,p,\ns,0,300,5,q;r,1\n"
    )
    turns = open_requests(path).read().turns
    assert turns is not None
    assert turns.after == ((), (0,), (0,), (1, 2))
    assert turns.task is not None
    assert turns.task.tolist() == [0, 0, 0, 0]
    assert turns.think_s.tolist() == [0.0, 0.5, 0.0, 1.0]
    with pytest.raises(InputError, match="--closed-loop: cannot be combined with calls that wait"):
        served(small("llama-3-8b", "h100-x1"), open_requests(path, closed_loop=2))


def test_a_rate_is_one_of_tasks(tmp_path: Path) -> None:
    """Given arrivals are those of tasks; a task's own calls come no earlier than its first."""
    rows = []
    for t in range(200):
        rows += [call(f"{t}a", 0, 10, 1, after=[], session=f"t{t}"), call(f"{t}b", 0, 10, 1, after=[], session=f"t{t}")]
    written(tmp_path / "t.jsonl", rows)
    block = open_requests(tmp_path / "t.jsonl", rate=10.0, seed=2).read()
    assert (block.arrival_s[::2] == block.arrival_s[1::2]).all()
    assert block.arrival_s[-1] == pytest.approx(20.0, rel=0.2)
