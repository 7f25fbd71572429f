"""Is a simulated deployment a server as clients know them, and do they measure what `simulate` says?

Servers run in processes of their own, on free ports of loopback.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from opbyte import simulate
from opbyte.analysis.live import asked
from opbyte.analysis.live.record import record
from opbyte.analysis.live.serve import _listen

from ..processes import PATIENCE_S, Start, environment

ENV = environment()
MODEL = ("llama-3-8b", "--system", "h100-x1")


class Serving:
    """A server's process and its address."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "opbyte", "serve", *arguments, "--port", "0"]
        self.process = subprocess.Popen(command, env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"serving at (http://127\.0\.0\.1:\d+)/v1", line)
        assert found, line + self.process.communicate()[1]
        self.url = found[1]

    def end(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


@contextmanager
def serving(*arguments: str) -> Iterator[Serving]:
    server = Serving(*arguments)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(*MODEL, "--served-model-name", "org/model", "--max-model-len", "4096") as own:
        yield own


def events(text: str) -> list[Any]:
    """Data of a stream, each event well formed: one line and an empty one."""
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block[6:]) for block in blocks]


def test_a_stream_is_well_formed(server: Serving) -> None:
    body = {"model": "org/model", "prompt": list(range(40)), "max_tokens": 70, "stream": True}
    answer = httpx.post(f"{server.url}/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert [e["choices"][0]["finish_reason"] for e in found] == [None] * 69 + ["length"]
    assert all(len(e["choices"][0]["text"].split()) == 1 for e in found)
    assert {(e["object"], e["model"]) for e in found} == {("text_completion", "org/model")}
    body["stream_options"] = {"include_usage": True}
    last = events(httpx.post(f"{server.url}/v1/completions", json=body).text)[-1]
    assert last["choices"] == []
    cached = {"cached_tokens": 32}  # whole blocks of the equal prompt before
    counts = {"prompt_tokens": 40, "completion_tokens": 70, "total_tokens": 110}
    assert last["usage"] == counts | {"prompt_tokens_details": cached}
    whole = httpx.post(f"{server.url}/v1/completions", json=body | {"stream": False, "prompt": list(range(33))}).json()
    assert whole["usage"]["prompt_tokens_details"] == cached


def test_a_chat_is_well_formed(server: Serving) -> None:
    body: dict[str, Any] = {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": [
            {"type": "text", "text": "one two"}]}], "max_completion_tokens": 3, "stream": True,
    }  # fmt: skip
    found = events(httpx.post(f"{server.url}/v1/chat/completions", json=body).text)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [len(e["choices"][0]["delta"]["content"].split()) for e in found[1:]] == [1, 1, 1]
    assert {e["object"] for e in found} == {"chat.completion.chunk"}
    whole = httpx.post(f"{server.url}/v1/chat/completions", json=body | {"stream": False}).json()
    assert whole["object"] == "chat.completion"
    assert len(whole["choices"][0]["message"]["content"].split()) == 3
    assert whole["usage"] == {
        "prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip


def test_pages_and_metrics(server: Serving) -> None:
    listed = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert [(m["id"], m["max_model_len"]) for m in listed] == [("org/model", 4096)]
    assert httpx.get(f"{server.url}/health").status_code == 200
    body = {"prompt": [1, 2, 3], "max_tokens": 5}
    before = samples(server)
    assert httpx.post(f"{server.url}/v1/completions", json=body).json()["usage"]["total_tokens"] == 8
    after = samples(server)
    label = 'engine="0",model_name="org/model"'
    grew = {name: after[name] - before[name] for name in after}
    assert grew[f"vllm:generation_tokens_total{{{label}}}"] == 5
    assert grew[f"vllm:prompt_tokens_total{{{label}}}"] == 3
    assert grew[f'vllm:request_success_total{{{label},finished_reason="length"}}'] == 1
    assert grew[f"vllm:time_to_first_token_seconds_count{{{label}}}"] == 1
    assert grew[f'vllm:time_to_first_token_seconds_bucket{{{label},le="+Inf"}}'] == 1
    assert grew[f"vllm:inter_token_latency_seconds_count{{{label}}}"] == 4
    assert after[f"vllm:num_requests_running{{{label}}}"] == 0


def samples(server: Serving) -> dict[str, float]:
    """Samples of the metrics page, whose every line is one or a comment."""
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("# ")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompt": "a", "model": "other"}, 404, "does not exist; it is 'org/model'"),
        ({"prompt": "a", "max_tokens": 4096}, 400, "maximum context length is 4096"),
        ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens: must be a whole number from 1"),
        ({"prompt": "a", "max_tokens": "7"}, 400, "max_tokens: must be a whole number from 1"),
        ({"prompt": "a", "n": 2}, 400, "n: one output"),
        ({"prompt": ["a", "b"]}, 400, "prompt: must be one text, or the token ids of one"),
        ({"prompt": ""}, 400, "prompt: must be"),
        ({}, 400, "prompt: must be"),
        ([], 400, "must be a JSON object"),
        ({"prompt": "a", "stream_options": [1]}, 400, "stream_options: must be an object, not [1]"),
        ({"prompt": "a", "stream": "no"}, 400, "stream: must be true or false"),
        ({"prompt": [1] * 30_000}, 400, "maximum context length is 4096"),
        ({"prompt": "a " * 90_000}, 400, "maximum context length is 4096"),
    ],
)
def test_what_is_not_served_is_said(server: Serving, body: Any, status: int, said: str) -> None:
    answer = httpx.post(f"{server.url}/v1/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status)
    assert said in error["message"]
    assert httpx.post(f"{server.url}/v1/completions", content=b"{").status_code == 400
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["code"] == 404


def test_a_model_is_found_by_its_name(server: Serving) -> None:
    one = httpx.get(f"{server.url}/v1/models/org/model").json()
    assert (one["id"], one["object"]) == ("org/model", "model")
    assert httpx.get(f"{server.url}/v1/models/other").status_code == 404
    chat = httpx.post(f"{server.url}/v1/chat/completions", json={"prompt": "a"})
    assert (chat.status_code, chat.json()["error"]["param"]) == (400, "messages")
    empty = {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}], "max_tokens": 1}
    assert asked.read_asked(json.dumps(empty).encode(), True, "m", 1000, 16).input_tokens == 1


def test_a_large_body_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(raw: bytes) -> Any:
        raise AssertionError

    monkeypatch.setattr(asked, "_object", parse)
    for body in (b'{"prompt": [' + b"1," * 30_000_000 + b"1]}", b'{"prompt": "' + b"a " * 30_000_000):
        with pytest.raises(asked.Refused, match="maximum context length"):
            asked.read_asked(body, False, "m", 131_072, 16)


@pytest.mark.parametrize("space", [r"\n", r"\t", r"\u2003", "\u00a0", "\u3000", "\u2009"])
def test_any_white_space_counts_before_a_body_is_parsed(monkeypatch: pytest.MonkeyPatch, space: str) -> None:
    monkeypatch.setattr(asked, "_object", lambda raw: pytest.fail("the body was parsed"))
    for key in ("prompt", "messages"):
        with pytest.raises(asked.Refused, match="maximum context length is 131072"):
            asked.read_asked((f'{{"{key}": "' + f"a{space}" * 3_000_000).encode(), key == "messages", "m", 131_072, 16)


def test_words_are_split_no_further_than_a_prompt_may_be_long() -> None:
    body = json.dumps({"prompt": "a " * 50_000}).encode()
    with pytest.raises(asked.Refused, match="maximum context length is 4096 tokens; the prompt is longer"):
        asked.read_asked(body, False, "m", 4096, 16)
    assert asked.read_asked(body, False, "m", 50_016, 16).input_tokens == 50_000


def test_a_long_text_of_a_client_is_not_sent_back() -> None:
    body = json.dumps({"prompt": "a", "model": "\u0001" * 1_000_000}).encode()
    with pytest.raises(asked.Refused) as refused:
        asked.read_asked(body, False, "m", 4096, 16)
    assert len(str(refused.value)) < 300


def test_a_client_that_leaves_frees_its_place(server: Serving) -> None:
    body = {"prompt": "a", "max_tokens": 4000, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    until(lambda: not any(value for name, value in samples(server).items() if name.startswith("vllm:num_requests")))
    label = 'engine="0",model_name="org/model"'
    assert samples(server)[f'vllm:request_success_total{{{label},finished_reason="abort"}}'] == 1


def until(true: Callable[[], bool]) -> None:
    """Wait for something that comes soon."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_first_token_does_not_wait_for_an_acknowledgement() -> None:
    """asyncio sets TCP_NODELAY only on such sockets; a client that keeps its connection acknowledges headers after 40 ms."""
    with _listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_sigterm_ends_it_in_order(tmp_path: Path, start: Start) -> None:
    """A stream under way gets an error, `record` counts it, the process ends with 0, though a body never comes."""
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,10,2\n0,10,8000\n")
    with serving(*MODEL, "--json") as own:
        command = [sys.executable, "-m", "opbyte", "record", own.url, "--trace", str(trace), "--json"]
        client = start(command, env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        running = 'vllm:num_requests_running{engine="0",model_name="llama-3-8b"}'
        until(lambda: samples(own)[running] == 1.0 and samples(own)[
            'vllm:request_success_total{engine="0",model_name="llama-3-8b",finished_reason="length"}'
        ] == 2.0)  # fmt: skip  # a question before the run, and the first
        with socket.create_connection(("127.0.0.1", int(own.url.rpartition(":")[2]))) as half:
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            until(lambda: samples(own)[running] == 1.0)  # answered later, so that the half request has been read
            code, out, err = own.end()
        told, _ = client.communicate(timeout=PATIENCE_S)
    assert (code, err) == (0, "")
    assert {k: json.loads(out)[k] for k in ("requests", "finished", "abandoned")} == {
        "requests": 3, "finished": 2, "abandoned": 1,
    }  # fmt: skip
    assert json.loads(told)["failed"] == {"error: the server ends": 1}
    assert json.loads(told)["answered"] == 1


LOAD = [(0.0, 6000, 14), (0.35, 5000, 12), (0.42, 4000, 14), (2.2, 6000, 10)]
SCALE = 0.25


def test_a_recorded_run_is_the_simulated_one(tmp_path: Path) -> None:
    """`record` of `serve` gives what `simulate` says of the trace, within 3 %.

    What a busy machine adds is late: requests sent late by d and tokens handed out late by d. At a
    quarter of the speed, first tokens take 2 s and gaps 0.1 s and more of the clock, so that 3 %
    are 60 ms. The simulation itself is never late: tokens keep their times, and a delayed one does
    not delay the next. Arrivals lie in the middle of steps of a second, so a late one joins the same
    step; the run itself says how late requests were sent, and tokens handed out.
    """
    trace = tmp_path / "t.csv"
    rows = [f"{a},{i},{o}" for a, i, o in LOAD]
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    options = {"policy": "vllm", "token_budget": 16384}
    expected = simulate("llama-3-8b", "l40s-x1", trace=str(trace), **options).run
    arguments = ("llama-3-8b", "--system", "l40s-x1", "--policy", "vllm", "--token-budget", "16384")
    with serving(*arguments, "--time-scale", str(SCALE)) as own:
        found = record(own.url, trace=str(trace), rate_scale=SCALE)
    measured = found.measured()
    assert len(found.answered) == len(LOAD)
    for name, theirs in (("ttft", "client_ttft"), ("tpot", "tpot"), ("e2e", "client_e2e")):
        simulated = getattr(expected, f"{theirs}_s").mean / SCALE
        assert measured[f"{name}_s"]["mean"] == pytest.approx(simulated, rel=0.03), name
