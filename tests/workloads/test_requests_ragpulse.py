"""Is RAGPulse read as its README describes it? The rows here are made up in that form."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import open_requests


def row(at: str, prompt: int, output: int, system: Any, **more: Any) -> dict[str, Any]:
    parts = {"sys_prompt": system, "passages_ids": [7, 8], "history": [9], "web_search": [], "user_input": [10]}
    return {
        "timestamp": at,
        "input_length": prompt,
        "output_length": output,
        "hash_ids": parts,
        "session_id": "s",
    } | more


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_stamps_lengths_and_what_prompts_share(tmp_path: Path) -> None:
    """Seconds as text; whole pieces of the system prompt are prefix blocks, the shorter last one is not."""
    rows = [row("82", 3112, 192, [1, 2, 30]), row("93", 3000, 86, [1, 2, 31]), row("93", 1166, 93, [4, 5, 6]),
            row("200", 900, 5, [1, 2, 33]), row("201", 50, 5, [])]  # fmt: skip
    load = open_requests(written(tmp_path / "0_trace.jsonl", rows))
    block = load.read()
    assert block.arrival_s.tolist() == [0.0, 11.0, 11.0, 118.0, 119.0]
    assert block.input_tokens.tolist() == [3112, 3000, 1166, 900, 50]
    assert block.output_tokens.tolist() == [192, 86, 93, 5, 5]
    assert block.hash_ids == ((1, 2), (1, 2), (4, 5), (1,), ())
    assert block.turns is None


def test_mooncake_with_a_session_id_is_still_mooncake(tmp_path: Path) -> None:
    line = {"timestamp": 3000, "input_length": 600, "output_length": 3, "hash_ids": [1, 2], "session_id": "x"}
    block = open_requests(written(tmp_path / "m.jsonl", [line, {**line, "timestamp": 6000}])).read()
    assert block.hash_ids == ((1, 2), (1, 2))
    assert block.arrival_s.tolist() == [0.0, 3.0]


@pytest.mark.parametrize(("second", "says"), [
    (row("soon", 10, 1, []), r":2: timestamp 'soon' is not a number"),
    (row("81", 10, 1, []), r":2: timestamp .*earlier than the row before"),
    (row("90", 10, 0, []), r":2: output_length .*whole number of tokens"),
    (row("90", 10, 1, ["a"]), r":2: hash_ids.sys_prompt must be a list of whole numbers"),
    (row("90", 10, 1, [], hash_ids=3), r":2: hash_ids must be an object of lists, not 3"),
    (row("90", 10, 1, [], input_length=None), r":2: input_length .*is not a number"),
])  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, second: dict[str, Any], says: str) -> None:
    path = written(tmp_path / "0_trace.jsonl", [row("82", 10, 1, []), second])
    with pytest.raises(InputError, match=says) as found:
        open_requests(path).read()
    assert "\n" not in str(found.value)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Twice the rows, several chunks of a file either way, take the same memory."""
    peaks = []
    for count in (11_000, 22_000):
        line = json.dumps(row("1", 3000, 100, [1, 2, 3])) + "\n"
        path = tmp_path / f"{count}.jsonl"
        path.write_text(line * count)
        tracemalloc.start()
        assert sum(len(block) for block in open_requests(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
