"""Do equal commands write equal bytes, and do answers say what made them?"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from pandas.testing import assert_frame_equal

from opbyte import simulate
from opbyte.analysis.answers.simulate import Simulation
from opbyte.analysis.show.output import STAMPS
from opbyte.analysis.show.record import command_of, made_by
from opbyte.workloads.textfile import digest_of_files

from .conftest import Ask, Write
from .test_long_runs import ADAPTERS, DRAFTS, FAILURES, LOAD, MODEL, SESSIONS, SYSTEM, TIERS

RUN = ("simulate", "llama-3-8b", "--system", "h100-x1", "--requests", "20")
TRACE = "arrival_s,input_tokens,output_tokens\n0,64,8\n0.5,32,4\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "requests.csv"
    path.write_text(TRACE)
    return path


def test_equal_runs_write_equal_bytes(ask: Ask, tmp_path: Path, trace: Path) -> None:
    """All files but timing.json, where real time stands."""
    for name in ("a", "b"):
        assert ask(*RUN, "--trace", trace, "--out", tmp_path / name).code == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    again = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert json.loads(files.pop("timing.json"))["wall_s"] > 0
    assert set(again) - set(files) == {"timing.json"}
    assert {name: data == again[name] for name, data in files.items()} == dict.fromkeys(files, True)
    assert ask(*RUN, "--trace", trace, "--json").out == ask(*RUN, "--trace", trace, "--json").out


def test_answers_say_what_made_them(ask: Ask, tmp_path: Path, trace: Path) -> None:
    assert ask(*RUN, "--trace", trace, "--out", tmp_path / "run").code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    made = summary["made_by"]
    assert made["command"] == f"opbyte {shlex.join(RUN)} --trace {trace}"
    assert made["options"] == {
        "model": "llama-3-8b", "system": "h100-x1", "trace": str(trace), "requests": 20,
        "costs": "auto", "memory": "flat", "routing": "uniform", "seed": 0,
    }  # fmt: skip
    assert made["files"] == {str(trace): digest_of_files([trace])}
    assert {"opbyte", "python", "numpy", "numba"} <= set(made["versions"])
    assert (summary["token_budget"], summary["tp"], summary["dp"]) == (8192, 1, 1)
    page = (tmp_path / "run" / "report.html").read_text()
    assert made["command"] in page
    assert made["files"][str(trace)] in page
    assert made["versions"]["opbyte"] in page
    repeated = ask(*shlex.split(made["command"])[1:], "--json").json()
    assert repeated == summary  # the command alone repeats the answer


def test_a_file_of_several_parts_is_recorded(ask: Ask, tmp_path: Path) -> None:
    counts = tmp_path / "counts.csv"
    counts.write_text("layer,e0,e1,e2,e3,e4,e5,e6,e7\n0,1,2,3,4,5,6,7,8\n")
    line = ("roofline", "mixtral-8x7b", "--system", "duplex-x4", "--routing", f"trace:{counts}")
    files = ask(*line, "--json").json()["made_by"]["files"]
    assert files == {str(counts): digest_of_files([counts])}


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["list", "models", "--json"], "opbyte list models"),
        (["sweep", "s.yaml", "--workers", "2", "--out=x"], "opbyte sweep s.yaml"),
    ],
)
def test_where_results_go_is_no_part_of_the_command(arguments: list[str], command: str) -> None:
    assert command_of(arguments) == command


def test_the_library_records_versions_alone() -> None:
    made = made_by()
    assert (made["command"], made["options"], made["files"]) == (None, {}, {})
    assert made["versions"]["opbyte"]


def test_every_command_records_itself(ask: Ask, write: Write) -> None:
    for line in ("inspect llama-3-8b", "roofline llama-3-8b --system h100-x1", "compare llama-3-8b --systems h100-x1"):
        assert ask(*line.split(), "--json").json()["made_by"]["command"] == f"opbyte {line}"


SHORT = LOAD | {"requests": 150}
POOLS = {"prefill": f"{SYSTEM}x2", "decode": SYSTEM}
REPLAYED: dict[str, dict[str, Any]] = {
    "plain": {"replicas": 2},
    "pools": POOLS | ADAPTERS,
    "drafts": DRAFTS | ADAPTERS | FAILURES,
    "sessions": SESSIONS,
    "tiers": TIERS | {"replicas": 2, "fail": ("0@0.5", "1@1.2"), "repair": 0.3},
    "tiers-of-pools": TIERS | POOLS,
    "classes": {"classes": "a:share=0.3,priority=1;b:share=0.7", "policy": "vllm+priority"},
    "closed-loop": {"rate": None, "closed_loop": 16},
}
OF_REQUESTS = ("requests", "input_len", "output_len", "lengths", "rate", "turns", "think", "classes")


def served(options: dict[str, Any]) -> Simulation:
    return simulate(MODEL, None if "prefill" in options else SYSTEM, **options)


@pytest.mark.parametrize("name", REPLAYED)
def test_replayed_requests_meet_what_they_met(name: str, tmp_path: Path) -> None:
    """Sessions with drafts or adapters do not: these are drawn by a request's place, which is that of its arrival then."""
    asked = SHORT | REPLAYED[name]
    rows = served(asked).requests()
    engine = {key: value for key, value in asked.items() if key not in OF_REQUESTS}
    again = served(engine | {"trace": rows}).requests()
    rows.to_csv(tmp_path / "requests.csv", index=False, float_format=STAMPS)
    written = served(engine | {"trace": tmp_path / "requests.csv"}).requests()
    rows["request_id"] = range(len(rows))
    if "session" in rows:
        rows["session"] = again["session"]  # named by their first rows
    assert_frame_equal(again, rows, check_exact=True)
    assert_frame_equal(written, rows, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "drafts", "bursts"])
def test_groups_and_workers_change_nothing(name: str) -> None:
    asked = SHORT | {"replicas": 3} | {"plain": {}, "drafts": DRAFTS, "bursts": {"cv": 3.0}}[name]
    fleet = served(asked)
    for groups, workers in ((2, 1), (2, 2), (3, 2)):
        cut = served(asked | {"groups": groups, "workers": workers})
        assert cut.to_dict() == fleet.to_dict()
        assert_frame_equal(cut.requests(), fleet.requests(), check_exact=True)
