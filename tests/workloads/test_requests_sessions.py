"""Are sessions read and drawn as they are meant: who follows whom, prompts that grow, pauses?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import Turns, open_requests

ROWS = """request_id,arrival_s,input_tokens,output_tokens,{}
q1,0,10,5,{}
q2,1,20,5,{}
q3,1,15,5,{}
q4,2,40,1,{}
"""


def turns_of(path: Path) -> Turns:
    found = open_requests(path).read().turns
    assert found is not None
    return found


@pytest.mark.parametrize(("columns", "cells", "follows"), [
    ("session,think_s", ("a,", "b,2.5", "a,1.5", "b,0"), [-1, -1, 0, 1]),
    ("predecessor,think_s", (",", ",2.5", "q1,1.5", "q2,0"), [-1, -1, 0, 1]),
    ("session", ("a", "", "a", ""), [-1, -1, 0, -1]),
])  # fmt: skip
def test_columns(tmp_path: Path, columns: str, cells: tuple[str, ...], follows: list[int]) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(ROWS.format(columns, *cells))
    found = turns_of(path)
    assert found.follows.tolist() == follows
    assert found.session.tolist() == [0, 1, 0, 1 if follows[3] == 1 else 3]
    pauses = [0.0, 2.5, 1.5, 0.0] if "think_s" in columns else [0.0] * 4
    assert found.think_s.tolist() == pauses


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"timestamp": 0, "input_length": 10, "output_length": 5, "request_id": 7, "predecessor": null}\n'
        '{"timestamp": 5, "input_length": 20, "output_length": 5, "request_id": 8, "predecessor": 7,'
        ' "think_s": 3}\n'
    )
    with pytest.raises(InputError, match=r":2: has the key 'think_s', but the first line does not"):
        open_requests(path).read()
    path.write_text(path.read_text().replace('"predecessor": null', '"predecessor": null, "think_s": 0'))
    found = turns_of(path)
    assert (found.follows.tolist(), found.think_s.tolist()) == ([-1, 0], [0.0, 3.0])


@pytest.mark.parametrize(
    ("header", "part"),
    [("session,predecessor", "keep one of them"), ("think_s", "needs the column session or predecessor")],
)
def test_columns_that_contradict(tmp_path: Path, header: str, part: str) -> None:
    path = tmp_path / "requests.csv"
    cells = [",".join(["0"] * (header.count(",") + 1))] * 4
    path.write_text(ROWS.format(header, *cells))
    with pytest.raises(InputError, match=part) as caught:
        open_requests(path).read()
    assert "\n" not in str(caught.value)
    path.write_text("arrival_s,input_tokens,output_tokens,predecessor\n0,1,1,\n")
    with pytest.raises(InputError, match="but not request_id"):
        open_requests(path).read()


def test_a_rate_is_of_sessions(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(ROWS.format("session", "a", "b", "a", "b"))
    block = open_requests(path, rate=4.0, seed=1).read()
    assert block.arrival_s[0] == 0.0
    assert block.arrival_s[1] == block.arrival_s[2] == block.arrival_s[3] > 0.0


def test_generated_sessions() -> None:
    """Geometric turns and exponential pauses with the means asked for; prompts hold all before."""
    block = open_requests(
        rate=2.0, input_len=100, output_len=40, lengths="uniform", turns=3.0, think=5.0, limit=60_000, seed=5
    ).read()
    turns = block.turns
    assert turns is not None
    first = turns.follows < 0
    assert len(block) / first.sum() == pytest.approx(3.0, rel=0.02)
    assert turns.think_s[~first].mean() == pytest.approx(5.0, rel=0.02)
    assert not turns.think_s[first].any()
    before = turns.follows[~first]
    assert (before == np.flatnonzero(~first) - 1).all()
    added = block.input_tokens[~first] - (block.input_tokens + block.output_tokens)[before]
    assert added.min() == 80
    assert added.max() == 100
    assert block.input_tokens[first].max() == 100
    lengths = np.diff(np.append(np.flatnonzero(first), len(block)))
    assert (lengths == 1).mean() == pytest.approx(1 / 3, abs=0.01)  # P(one turn) = 1 / mean
    gaps = np.diff(block.arrival_s[first])
    assert gaps.mean() == pytest.approx(0.5, rel=0.02)
    assert (block.arrival_s == block.arrival_s[turns.session]).all()


@pytest.mark.parametrize(("options", "part"), [
    ({"think": 1.0}, "--think: needs --turns"),
    ({"turns": 0.5}, "--turns: must be a number from 1"),
    ({"turns": 2.0, "think": -1.0}, "--think"),
    ({"turns": 1e6, "input_len": 2**31 - 1, "output_len": 9}, "--turns: makes prompts longer than"),
])  # fmt: skip
def test_bad_options(options: dict[str, float], part: str) -> None:
    with pytest.raises(InputError, match=part):
        open_requests(rate=1.0, **options, limit=10).read()  # type: ignore[arg-type]


def test_a_trace_has_its_own_sessions(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(ROWS.format("session", "a", "b", "a", "b"))
    with pytest.raises(InputError, match="--turns: cannot be combined with --trace"):
        open_requests(path, turns=2.0)
