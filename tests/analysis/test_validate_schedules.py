"""Does policy ``vllm`` plan what vLLM's own scheduler planned, and is a difference found?

Given plans were made by the scheduler of vLLM 0.19.0 (`OPBYTE_DATA`); those in this file are worked
out by hand from its source.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis.validate.schedules import validate_schedules
from opbyte.workloads.errors import InputError

SETTINGS = {
    "max_num_batched_tokens": 16, "max_num_seqs": 4, "max_model_len": 64,
    "kv_cache": {"block_size": 4, "num_gpu_blocks": 10, "enable_prefix_caching": False},
}  # fmt: skip

ONE = {
    "name": "one", "engine": SETTINGS | {"async_scheduling": True},
    "requests": [{"arrival": 0.0, "input": 5, "output": 2}],
    "plans": [[0.0, [[0, 5, 0]], [], 7], [0.0, [[0, 1, 5]], [], 7]],
    "done": [[0, 1.0, 2.0]],
}  # fmt: skip
"""Nine usable blocks of 4 tokens; the decode is planned when the prompt's step begins."""

STAGES = {
    "name": "stages",
    "engine": SETTINGS | {"async_scheduling": True, "pipeline_parallel_size": 2},
    "requests": [{"arrival": 0.0, "input": 4, "output": 3}],
    "plans": [[0.0, [[0, 4, 0]], [], 8], [0.0, [[0, 1, 4]], [], 7], [2.0, [[0, 1, 5]], [], 7]],
    "done": [[0, 2.0, 6.0]],
}
"""Two stages, asynchronous: the decode is in both batches, which run one after the other, 2 each."""


def file_of(folder: Path, *cases: dict[str, Any]) -> Path:
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
    return path


def test_by_hand(tmp_path: Path) -> None:
    found = validate_schedules(file_of(tmp_path, ONE, STAGES))
    assert found.to_dict() == {"cases": 2, "equal": 2, "differences": []}


@pytest.mark.parametrize(
    ("key", "value", "plan"),
    [
        ("plans", [*ONE["plans"][:1], [0.0, [[0, 1, 4]], [], 7]], 1),
        ("plans", ONE["plans"][:1], 1),
        ("plans", [[0.0, [[0, 5, 0]], [], 6], ONE["plans"][1]], 0),
        ("done", [[0, 1.0, 3.0]], None),
    ],
)
def test_a_difference_is_found(tmp_path: Path, key: str, value: Any, plan: int | None) -> None:
    found = validate_schedules(file_of(tmp_path, ONE, ONE | {key: value, "name": "other"}))
    assert (found.equal, len(found.names)) == (1, 2)
    (difference,) = found.differences
    assert (difference.name, difference.plan) == ("other", plan)
    assert difference.expected != difference.got


ENDLESS = json.dumps(ONE).replace('"input": ', '"input": 1e999, "prompt": ')


@pytest.mark.parametrize("line", ["{", "[]", json.dumps(ONE | {"done": []}), ENDLESS, ""])
def test_bad_lines(tmp_path: Path, line: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"cases\.jsonl"):
        validate_schedules(path)


def test_plans_of_vllm(data_set: Callable[[str], Path], tmp_path: Path) -> None:
    """Every kind of workload, and all that can be followed by hand."""
    lines = (data_set("vllm_schedules") / "schedules.jsonl").read_text(encoding="utf-8").splitlines()
    cases = sorted(map(json.loads, lines), key=lambda case: len(case["plans"]))
    kinds: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for case in cases:
        key = (case["name"].split("-")[0], case["engine"]["pipeline_parallel_size"])
        kinds.setdefault(key, []).append(case)
    chosen = [case for of in kinds.values() for case in (of if of[0]["name"][:5] == "small" else of[-2:])]
    assert len(chosen) > 25
    assert validate_schedules(file_of(tmp_path, *chosen)).differences == ()
