"""Do equal commands write equal bytes, and do answers say what made them?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from opbyte.analysis.show.record import command_of, made_by
from opbyte.workloads.textfile import digest_of_files

from .conftest import Ask

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


def test_every_command_records_itself(ask: Ask, write: Callable[[str, str], Path]) -> None:
    for line in ("inspect llama-3-8b", "roofline llama-3-8b --system h100-x1", "compare llama-3-8b --systems h100-x1"):
        assert ask(*line.split(), "--json").json()["made_by"]["command"] == f"opbyte {line}"
