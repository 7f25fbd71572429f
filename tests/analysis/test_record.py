"""Does `record` lose no request and no stamp, whatever the server does and whenever it is cut?

The server is `fake_server`, which fails as it is told to. No time is asserted but the order of stamps.
"""

from __future__ import annotations

import csv
import json
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("httpx")

from opbyte.analysis.live.play import DeployedAs, RequestOutcome
from opbyte.analysis.live.record import record
from opbyte.analysis.live.recording import Recording, kind_of, partial_copy
from opbyte.analysis.live.target import PromptSource, ServerTarget, address
from opbyte.devices.catalog import load_system
from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import RequestBlock, open_requests

from ..processes import PATIENCE_S, Start, environment
from .conftest import Ask
from .fake_server import Fake, served
from .test_validate_runs import CONFIG

ENV = environment()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = [f"{0.02 * i},{20 + i},{5 + i}" for i in range(8)]
    path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n")
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def check_stamps(folder: Path) -> None:
    """Within a request: sent, chunks in order, ended; requests in the order of sending."""
    requests = table(folder / "requests.csv")
    chunks: dict[str, list[float]] = {row["request_id"]: [] for row in requests}
    for row in table(folder / "chunks.csv"):
        chunks[row["request_id"]].append(float(row["received_s"]))
    sent = [float(row["arrival_s"]) for row in requests]
    assert sent == sorted(sent)
    for row in requests:
        own = chunks[row["request_id"]]
        stamps = [float(row["arrival_s"]), *own, float(row["ended_s"])]
        assert stamps == sorted(stamps)
        assert len(own) == int(row["chunks"])
        if own:
            assert (own[0], own[-1]) == (float(row["first_token_s"]), float(row["last_token_s"]))


def test_every_way_to_fail_is_counted(ask: Ask, trace: Path, tmp_path: Path) -> None:
    ways = {1: "500", 2: "die", 3: "hang", 4: "error", 5: "plain", 6: "deep"}
    with served(Fake(fails=ways)) as fake:
        answer = ask("record", fake.url, "--trace", trace, "--timeout", "1.5", "--json", "--out", tmp_path / "run")
    found = answer.json()
    assert found["failed"] == {
        "HTTP 500": 1, "died mid-stream": 1, "timeout": 1, "error: out of memory": 1,
        "no stream": 1, "no SSE": 1,
    }  # fmt: skip
    assert (found["requests"], found["sent"], found["answered"]) == (8, 8, 2)
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["recorded"]["cut"] is None
    assert (run["measured"][0]["requests"], run["measured"][0]["failed"]) == (2, 6)
    check_stamps(tmp_path / "run")
    rows = table(tmp_path / "run/requests.csv")
    assert [row["status"] for row in rows].count("ok") == 2
    assert rows[0]["input_tokens"] == "7"  # as the server counted them
    assert int(rows[2]["chunks"]) == 2  # what came before it died
    assert "1 of 8 requests failed: HTTP 500" in answer.err


def test_a_folder_is_a_trace_and_says_what_ran(ask: Ask, trace: Path, tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text('{"engine": "vllm", "max_num_seqs": 8, "tensor_parallel_size": 2}')
    with served(Fake()) as fake:
        ask("record", fake.url, "--trace", trace, "--model", "llama-3-8b", "--system", "h100-x2",
            "--engine", tmp_path / "engine.json", "--json", "--out", tmp_path / "run").json()  # fmt: skip
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert (run["device"], run["devices"], run["model"]) == ("h100", 2, "config.json")
    assert run["engine"]["max_num_seqs"] == 8
    assert json.loads((tmp_path / "run/config.json").read_text())["hidden_size"] == 4096
    replayed = ask("validate", "runs", tmp_path / "run", "--json").json()["runs"]
    assert [entry["stage"] for entry in replayed] == [0]
    assert {"ttft_mean", "tpot_p99", "e2e_p90", "itl_p50"} <= set(replayed[0]["metrics"])
    block = open_requests(tmp_path / "run/requests.csv").read()
    assert block.output_tokens.tolist() == [5 + i for i in range(8)]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "chunks.csv", "config.json", "report.html", "requests.csv", "run.json",
    ]  # fmt: skip


def recording(start: Start, fake: Fake, trace: Path, folder: Path) -> subprocess.Popen[str]:
    """A process that records a trace."""
    command = [sys.executable, "-m", "opbyte", "record", fake.url, "--trace", str(trace), "--out", str(folder)]
    return start(command, env=ENV, text=True, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_cut_run_is_whole(trace: Path, tmp_path: Path, start: Start, name: str, code: int) -> None:
    trace.write_text(trace.read_text() + "3600,20,5\n")
    with served(Fake(fails={3: "hang"})) as fake:
        process = recording(start, fake, trace, tmp_path / "run")
        while len(fake.asked) < 8 or fake.open > 1:  # seven are answered, one hangs, one is far off
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.Signals[name])
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, err
    assert f"cut by {name}: 1 of 9 were not sent" in err
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["recorded"] | {"late_p99_s": None, "stall_p99_s": None} == {
        "cut": name, "requests": 9, "sent": 8, "not_sent": 1, "failed": {"cut": 1},
        "late_p99_s": None, "stall_p99_s": None,
    }  # fmt: skip
    check_stamps(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*"))


def test_a_killed_run_leaves_what_has_ended(trace: Path, tmp_path: Path, start: Start, ask: Ask) -> None:
    """A line a request, with the times of its chunks; a later run leaves it, and no copy of its own."""
    run = tmp_path / "run"
    with served(Fake(fails={2: "500", 3: "hang"})) as fake:
        process = recording(start, fake, trace, run)
        while sum(path.read_text().count("\n") for path in run.glob("requests.partial-*.jsonl")) < 7:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.communicate()
        (left,) = run.iterdir()
        text = left.read_text()
        ask("record", fake.url, "--trace", trace, "--out", run)
    assert [path.read_text() for path in run.glob("*partial*")] == [text]
    rows = [json.loads(line) for line in text.splitlines()]
    assert Counter(row["status"] for row in rows) == {"ok": 6, "HTTP 500": 1}
    for row in rows:
        stamps = [row["sent_s"], *row["chunks"], row["ended_s"]]
        assert stamps == sorted(stamps)
        assert len(row["chunks"]) == (row["output_tokens"] or 0) in (0, 5 + row["row"])


def test_a_full_disk_leaves_whole_lines_of_what_has_ended(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with suppress(KeyError), partial_copy(str(tmp_path)) as add:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))
        for row in range(5):
            add(row, RequestOutcome())
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        raise KeyError  # so that the copy stays
    (left,) = tmp_path.iterdir()
    assert [json.loads(line)["row"] for line in left.read_text().splitlines()] == [0, 1, 2]


@pytest.mark.parametrize("options", [("--concurrency", "2"), ("--in-flight", "2")])
def test_what_is_in_flight_is_bounded(ask: Ask, trace: Path, options: tuple[str, str]) -> None:
    with served(Fake(gap_s=0.02)) as fake:
        assert ask("record", fake.url, "--trace", trace, *options, "--json").json()["answered"] == 8
    assert fake.most == 2


def test_prompts_have_the_asked_length_in_each_form(trace: Path) -> None:
    with served(Fake()) as fake:
        assert record(fake.url, trace=str(trace)).target.ids
        assert sorted(len(a["prompt"]) for a in fake.asked) == [20 + i for i in range(8)]
        assert all(a["ignore_eos"] and a["min_tokens"] == a["max_tokens"] for a in fake.asked)
    with served(Fake(refuses={"ids", "ignore_eos"})) as fake:
        found = record(fake.url, trace=str(trace))
        assert found.target.says() == (
            "prompts of words, one a token; ignore_eos is not taken, so outputs may end early"
        )
        assert sorted(len(a["prompt"].split()) for a in fake.asked) == [20 + i for i in range(8)]
    with served(Fake()) as fake:
        found = record(fake.url, trace=str(trace), chat=True)
        assert len(found.answered) == 8
        assert all(a["messages"][0]["role"] == "user" for a in fake.asked)


def test_equal_blocks_of_a_trace_are_equal_prompts() -> None:
    whole = np.array([1024, 700])
    trace = RequestBlock(np.arange(2), np.zeros(2), whole, whole, ((5, 6), (5,)))
    own = PromptSource(trace, seed=1)
    first, second = own.ids(0), own.ids(1)
    assert first[:512] == second[:512]
    assert first[512:700] != second[512:]
    assert (len(first), len(second)) == (1024, 700)
    assert own.ids(0) == first


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    trace: Path, tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with served(Fake()) as fake:
        answer = ask("record", fake.url, "--trace", trace, "--out", tmp_path / "run")
    assert all("Bearer sk-very-secret" in head for head in fake.headers)
    written = [p.read_text() for p in (tmp_path / "run").iterdir()]
    assert not any("sk-very" in text for text in [answer.out, answer.err, *written])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ftp://host"], "URL 'ftp://host': must be a server's address: http://127.0.0.1:8000"),
        (["http://u:p@host"], "URL: must hold no credentials; the key is read from OPENAI_API_KEY"),
        (["http://host/v1?key=x"], "URL: must hold no credentials"),
        (["http://127.0.0.1:9"], "cannot be reached"),
        (["http://127.0.0.1:9", "--prompts", "idss"], "is not a form of prompt; did you mean 'ids'?"),
        (["http://127.0.0.1:9", "--prompts", "ids", "--chat"], "cannot be combined with --chat"),
        (["http://127.0.0.1:9", "--in-flight", "0"], "must be above 0"),
        (["http://127.0.0.1:9", "--system", "h100x"], "h100x"),
        (
            ["http://127.0.0.1:9", "--system", "h100-x2", "--engine", "engine.json"],
            "make 1, not the 2 devices of --system h100-x2",
        ),
    ],
)
def test_bad_input_is_one_line(
    ask: Ask, trace: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trace.parent)
    Path("engine.json").write_text('{"engine": "vllm"}')
    assert said in ask("record", *arguments, "--trace", trace).refused()


def test_a_server_that_takes_nothing_is_refused(ask: Ask, trace: Path) -> None:
    with served(Fake(refuses={"model"})) as fake:
        assert "rejected the test request: HTTP 400" in ask("record", fake.url, "--trace", trace).refused()


def test_a_server_that_always_fails_is_recorded(ask: Ask, trace: Path, tmp_path: Path) -> None:
    with served(Fake(fails={-1: "500"})) as fake:
        answer = ask("record", fake.url, "--trace", trace, "--out", tmp_path / "run")
    assert answer.code == 1
    run: dict[str, Any] = json.loads((tmp_path / "run/run.json").read_text())
    assert run["measured"] == []
    assert run["recorded"]["failed"] == {"HTTP 500": 8}


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/completions"])
def test_addresses(url: str) -> None:
    assert address(url) == "http://h:1/v1"


def test_sessions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("request_id,arrival_s,input_tokens,output_tokens,predecessor,think_s\n0,0,9,9,,\n1,0,99,9,0,1\n")
    with pytest.raises(InputError, match="has requests that depend on others"):
        record("http://127.0.0.1:9", trace=str(path))


def test_ids_lie_within_the_vocabulary(trace: Path, ask: Ask, write: Any) -> None:
    """Of the model that is named, else as far as the server's errors tell."""
    with served(Fake(vocab=2000)) as fake:
        found = record(fake.url, trace=str(trace))
        assert len(found.answered) == 8
        config = write("config.json", json.dumps(CONFIG | {"vocab_size": 2000}))
        fake.asked.clear()
        fake.probes.clear()
        assert len(record(fake.url, trace=str(trace), model=str(config)).answered) == 8
    assert all(0 < n < 2000 for a in [*fake.asked, *fake.probes] for n in a["prompt"])


def test_failures_are_counted_by_kind() -> None:
    assert kind_of("error: Token id 29396 is out of vocabulary") == ("error: Token id N is out of vocabulary")
    trace = RequestBlock(np.arange(60), np.zeros(60), np.full(60, 5), np.full(60, 2))
    ways = [f"error: Token id {i} is out" for i in range(30)] + [f"HTTP {400 + i}" for i in range(30)]
    found = Recording(
        "run", "load", ServerTarget("http://x/v1"), DeployedAs(), trace,
        [RequestOutcome(status=way, sent_s=0.0) for way in ways], None, 1,
    )  # fmt: skip
    assert found.failed["error: Token id N is out"] == 30
    assert found.examples == {"error: Token id N is out": "error: Token id 0 is out"}
    told = [line for line in found.remarks() if "failed" in line]
    assert len(told) == 11
    assert told[0] == "30 of 60 requests failed: error: Token id 0 is out"
    assert told[-1] == "21 more failed in 21 other ways: run.json"


def test_a_system_of_one_s_own_goes_along(ask: Ask, trace: Path, tmp_path: Path, write: Any) -> None:
    """Its description lies in the folder, whole, so that the run is replayed on it and nothing else."""
    write("my/my-h100.yaml", 'extends: h100\nname: mine\nmemory: {capacity_GB: {value: 96, source: "assumed: x"}}\n')
    system = write("my/my.yaml", 'name: my\ndevice: ./my-h100.yaml\ndevices_per_node: {value: 1, source: "one card"}\n')
    with served(Fake()) as fake:
        ask("record", fake.url, "--trace", trace, "--model", "llama-3-8b", "--system", system,
            "--json", "--out", tmp_path / "run").json()  # fmt: skip
    (tmp_path / "my" / "my-h100.yaml").unlink()
    assert load_system(tmp_path / "run/system.yaml").device.memory.capacity_bytes == 96e9
    (entry,) = ask("validate", "runs", tmp_path / "run", "--json").json()["runs"]
    assert "my" in entry["costs"]
