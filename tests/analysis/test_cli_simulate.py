"""Is a simulation right as seen from outside: books that balance, seeds, files, odd workloads?"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import opbyte.analysis.answers.simulate as simulate_module

from .conftest import Ask, Write

SMALL = ("simulate", "llama-3-8b", "--system", "h100-x1")
FIXED = ("--input-len", "200", "--output-len", "20")
COUNTS = ("requests", "iterations", "preemptions", "output_tokens")
TEXTS = ("model", "system", "policy")
RATES = ("makespan_s", "output_tokens_per_s", "total_tokens_per_s", "joules_per_token", "wall_s")
LATENCIES = ("ttft_s", "tbt_s", "tpot_s", "e2e_s")
QUANTILES = {"mean", "p50", "p90", "p99"}


def rows_of(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def check_books(found: dict[str, Any], rows: list[dict[str, float]]) -> None:
    """Every request finishes with its length, in order of its stamps, and sums agree."""
    assert found["requests"] == len(rows)
    assert found["output_tokens"] == sum(row["output_tokens"] for row in rows)
    tokens = found["output_tokens_per_s"] * found["interval_s"]
    assert found["interval_output_tokens"] == pytest.approx(tokens, rel=1e-9)
    assert found["makespan_s"] == pytest.approx(max(row["last_token_s"] for row in rows), abs=1e-8)
    for row in rows:
        assert row["arrival_s"] <= row["scheduled_s"] <= row["first_token_s"]
        assert row["first_token_s"] <= row["last_token_s"]
        assert (row["first_token_s"] == row["last_token_s"]) == (row["output_tokens"] == 1)
    waited = [row["first_token_s"] - row["arrival_s"] for row in rows]
    assert found["ttft_s"]["mean"] == pytest.approx(sum(waited) / len(rows), abs=1e-8)
    several = [row for row in rows if row["output_tokens"] > 1]
    pace = [(r["last_token_s"] - r["first_token_s"]) / (r["output_tokens"] - 1) for r in several]
    assert found["tpot_s"]["mean"] == pytest.approx(sum(pace) / len(pace), abs=1e-8)
    gaps = sum(r["last_token_s"] - r["first_token_s"] for r in several)
    count = sum(r["output_tokens"] - 1 for r in several)
    assert found["tbt_s"]["mean"] == pytest.approx(gaps / count, rel=1e-6)
    energy = sum(op[f"{path}_joules"] for op in found["layers"] for path in ("dram", "compute", "link"))
    assert found["dynamic_joules"] == pytest.approx(energy, rel=1e-9)
    assert 0 < found["kv_peak_fraction"] <= 1


def check_keys(found: dict[str, Any]) -> None:
    """The contract of design.md, section 5."""
    assert all(type(found[key]) is int for key in COUNTS)
    assert all(type(found[key]) is str for key in TEXTS)
    for key in RATES:
        assert found[key] is None or type(found[key]) in (int, float)
    for key in LATENCIES:
        assert set(found[key]) - {"ci95"} == QUANTILES
    assert found["evidence"]
    for entry in found["evidence"]:
        assert {"cost_model", "basis", "error", "rows"} <= set(entry)
        assert entry["basis"] in ("fitted", "transferred", "assumed", "spec")


def test_the_books_balance(ask: Ask, tmp_path: Path, drawn: list[str]) -> None:
    line = (*SMALL, "--rate", "20", "--requests", "300", "--json", "--out", tmp_path)
    found = ask(*line).json()
    check_keys(found)
    check_books(found, rows_of(tmp_path / "requests.csv"))
    assert found == json.loads((tmp_path / "summary.json").read_text())
    floor = 8.03e9 * 2 / 3352e9  # all weights once a token
    assert found["tpot_s"]["mean"] > floor
    stages = rows_of(tmp_path / "stages.csv")
    assert sum(row["steps"] for row in stages) == found["iterations"]
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert {e["name"] for e in events} >= {"mixed", "decoding-only", "sequences"}
    tracks = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    assert set(tracks) == {"stages", "xpu", "links"}
    busy = sum(row["busy_xpu_s"] for row in stages)
    assert busy == pytest.approx(sum(op["busy_s"] for op in found["layers"]), rel=1e-6)
    drawn_us = sum(e["dur"] for e in events if e.get("tid") == tracks["xpu"] and e["ph"] == "X")
    assert drawn_us == pytest.approx(1e6 * busy, rel=1e-4)
    assert drawn == ["latency"]
    clock = sum({op["name"]: op["wall_s"] for op in found["layers"]}.values())
    assert clock == pytest.approx(sum(r["end_s"] - r["start_s"] for r in stages), rel=1e-6)


def test_one_token_outputs_have_no_gaps(ask: Ask) -> None:
    line = (*SMALL, "--rate", "5", "--requests", "6", "--input-len", "50", "--output-len", "1")
    found = ask(*line, "--json").json()
    check_keys(found)
    assert found["tpot_s"] == found["tbt_s"] == dict.fromkeys(QUANTILES)
    assert found["output_tokens"] == 6
    assert found["ttft_s"] == found["e2e_s"]
    shown = ask(*line)
    assert shown.code == 0
    assert "nan" not in shown.out.lower()


def test_a_closed_loop_keeps_its_clients_busy(ask: Ask, tmp_path: Path, drawn: list[str]) -> None:
    line = (*SMALL, "--closed-loop", "8", "--requests", "64", *FIXED, "--json", "--out", tmp_path)
    found = ask(*line).json()
    rows = rows_of(tmp_path / "requests.csv")
    check_books(found, rows)
    edges = sorted([(r["arrival_s"], 1) for r in rows] + [(r["last_token_s"], -1) for r in rows])
    flying, most = 0, 0
    for _, step in edges:
        flying += step
        most = max(most, flying)
    assert most == 8
    huge = ask(*SMALL, "--closed-loop", "2147483647", "--requests", "64", *FIXED, "--json").json()
    assert huge["output_tokens"] == 64 * 20


def test_seeds_give_intervals(ask: Ask, tmp_path: Path, drawn: list[str]) -> None:
    line = (*SMALL, "--rate", "20", "--requests", "40", "--json")
    found = ask(*line, "--seeds", "3", "--out", tmp_path).json()
    check_keys(found | {key: int(found[key]) for key in COUNTS})
    singles = [ask(*line, "--seed", seed).json() for seed in range(3)]
    means = [run["ttft_s"]["mean"] for run in singles]
    assert found["ttft_s"]["mean"] == pytest.approx(sum(means) / 3)
    deviation = math.sqrt(sum((m - sum(means) / 3) ** 2 for m in means) / 2)
    assert found["ttft_s"]["ci95"]["mean"] == pytest.approx(4.302653 * deviation / math.sqrt(3))
    assert found["ci95"]["output_tokens_per_s"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "plotly-basic-4.1.1.min.js", "report.html", "seed-0", "seed-1", "seed-2", "summary.json", "timing.json",
    ]  # fmt: skip
    one = ask(*line, "--seeds", "1").json()
    assert one["ttft_s"]["ci95"]["mean"] is None


def test_prompts_beyond_the_positions_warn_and_run(ask: Ask) -> None:
    line = (*SMALL, "--rate", "5", "--requests", "3", "--input-len", "9000", "--output-len", "5")
    answer = ask(*line, "--json")
    assert answer.json()["output_tokens"] == 15
    assert answer.err.startswith("opbyte: warning: 3 of 3 requests")
    assert "8,192" in answer.err
    assert answer.err.count("\n") == 1


TRACES = {
    "AzureLLMInferenceTrace_conv.first14000.csv": (),
    "AzureLLMInferenceTrace_code.first6000.csv": (),
    "mooncake_conversation_trace.first9000.jsonl": ("--spread", "3", "--policy", "chunked"),  # no shared starts there
    "arxiv_summarization_lengths.first20000.csv": ("--rate", "5"),
    "servegen": (),
}


@pytest.mark.parametrize("name", TRACES)
def test_every_kind_of_trace(
    ask: Ask, tmp_path: Path, drawn: list[str], data_set: Callable[[str], Path], name: str
) -> None:
    trace = data_set("traces") / name
    line = (*SMALL[:2], "--system", "h100-x8", "--trace", trace, "--requests", "500")
    answer = ask(*line, *TRACES[name], "--json", "--out", tmp_path)
    found, rows = answer.json(), rows_of(tmp_path / "requests.csv")
    check_books(found, rows)
    assert found["requests"] == 500
    policy = TRACES[name][2:]
    again = (*line[:-3], tmp_path / "requests.csv", *policy, "--json")
    own = ask(*again).json()
    assert {k: own[k] for k in COUNTS} == {k: found[k] for k in COUNTS}
    assert own["e2e_s"] == pytest.approx(found["e2e_s"], rel=1e-4)


def test_without_arguments_two_systems_are_compared(ask: Ask) -> None:
    line = ("simulate", "--requests", "40", "--closed-loop", "16", *FIXED)
    found = ask(*line, "--json").json()
    assert set(found) == {"runs", "verdict", "made_by"}
    assert [run["system"] for run in found["runs"]] == ["duplex-x4", "duplex-gpu-x4"]
    for run in found["runs"]:
        check_keys(run)
    assert "experts" in found["verdict"]
    shown = ask(*line)
    assert found["verdict"] in shown.out
    assert "duplex-gpu-x4 is based on cost models: 3 assumed" in shown.out
    one = ask("simulate", "--requests", "4", "--rate", "1", "--input-len", "9", "--output-len", "1", "--json").json()
    assert "time between tokens" not in one["verdict"]


def test_people_see_where_time_went(ask: Ask, write: Write) -> None:
    """Findings 9 and 15 of a trial: whose scheduler and kernels, and evidence in a line."""
    line = (*SMALL, "--rate", "5", "--requests", "20")
    short = ask(*line).out
    assert "h100-x1 is based on cost models: 5 fitted" in short
    assert (
        "Served with tp 1, dp 1; vllm on vllm's kernels; at most 1,024 running a rank: vLLM's default on h100" in short
    )
    assert "family" not in short
    assert "tp 1, dp 1; chunked on no engine's kernels" in ask(*line, "--policy", "chunked").out
    engine = write("engine.json", '{"framework": "vllm"}')
    assert "vllm on vllm's kernels" in ask(*line, "--engine", engine).out
    assert "MODEL: is needed too" in ask("simulate", "--engine", engine).err
    shown = ask(*line, "--why").out
    for text in (
        "llama-3-8b on h100-x1: policy vllm", "output tokens per second",
        "energy per output token", "mean", "p99", "time to first token", "of time", "busy", "Op/B",
        "attention_decode", "memory", "family", "in range", "GEMM",
    ):  # fmt: skip
        assert text in shown
    assert all(line == line.rstrip() for line in shown.splitlines())


def test_pipeline_parallel(ask: Ask, tmp_path: Path, drawn: list[str]) -> None:
    """Four stages of one GPU each: all is served, batches overlap, each flight has its own track."""
    work = ("--rate", 200, "--requests", 60, "--input-len", 512, "--output-len", 8)
    answer = ask("simulate", "llama-3-8b", "--system", "h100-x4", "--pp", 4, "--token-budget", 512, "--policy", "chunked",
                 *work, "--json", "--out", tmp_path)  # fmt: skip
    found = answer.json()
    assert found["output_tokens"] == 60 * 8
    rows = rows_of(tmp_path / "stages.csv")
    starts, ends = [row["start_s"] for row in rows], [row["end_s"] for row in rows]
    overlaps = [b < a for a, b in zip(ends, starts[1:], strict=False)]
    assert sum(overlaps) > 0.3 * len(overlaps)
    assert all(b >= a for a, b in zip(ends, starts[4:], strict=False))  # four at once at most
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {f"batch in flight {k}" for k in (1, 2, 3, 4)} < names
    for lane in range(100, 104):
        own = [e for e in events if e["ph"] == "X" and e["tid"] == lane]
        ends = [e["ts"] + e["dur"] for e in own]
        assert all(b["ts"] >= a - 2e-3 for a, b in zip(ends, own[1:], strict=False))  # [us]


def test_what_no_manifest_starts_is_refused_before_the_run(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pools, more devices than a host has, several seeds, no engine's settings: each in one line."""
    monkeypatch.setattr(simulate_module, "run_scenario", lambda *a, **k: pytest.fail("served"))
    engine = tmp_path / "engine.json"
    engine.write_text('{"tensor_parallel_size": 1}', encoding="utf-8")
    asked = ("simulate", "llama-3.1-8b", "--rate", "1", "--requests", "5", *FIXED, "--emit", "compose")
    alone = (*asked, "--engine", engine)
    pools = ("--prefill", "h100-x1x1", "--decode", "h100-x1x1")
    assert "one pool" in ask(*alone, *pools).refused()
    assert "one host of 8 devices, not 9" in ask(*alone, "--system", "h100-x1", "--replicas", "9").refused()
    assert "remove --seeds" in ask(*alone, "--system", "h100-x1", "--seeds", "2").refused()
    assert "needs --engine" in ask(*asked, "--system", "h100-x1").refused()
