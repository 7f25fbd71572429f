"""How many streams at a time does a simulated server hold, and at what pace?

The client reads bytes and parses nothing, so that the server is what is measured; both have the
machine's cores. Nothing is asserted of time but that the server keeps half of the simulated pace.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opbyte import Scenario
from opbyte.simulator.scenario.play import run_scenario

pytestmark = pytest.mark.benchmark

STREAMS, INPUT, OUTPUT = 1000, 64, 200
OPTIONS = {"policy": "vllm", "max_seqs": 1024}


async def _stream(port: int, n: int) -> int:
    """Tokens of one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"prompt": [n + 1] * INPUT, "max_tokens": OUTPUT, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    tokens, done = 0, False
    while not done and (data := await reader.read(1 << 16)):
        tokens += data.count(b'"finish_reason"')
        done = b"[DONE]" in data
    writer.close()
    return tokens


async def _all(port: int) -> list[int]:
    return await asyncio.gather(*(_stream(port, n) for n in range(STREAMS)))


def test_a_thousand_streams(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    trace = tmp_path / "t.csv"
    rows = [f"0,{INPUT},{OUTPUT}"] * STREAMS
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    scenario = Scenario.of("llama-3-8b", "h100-x1", trace=str(trace), **OPTIONS)
    simulated = run_scenario(scenario).makespan_s
    command = [sys.executable, "-m", "opbyte", "serve", "llama-3-8b", "--system", "h100-x1",
               "--policy", "vllm", "--max-seqs", "1024", "--port", "0", "--json"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stderr is not None
        found = re.search(r":(\d+)/v1", server.stderr.readline())
        assert found
        began = time.perf_counter()
        tokens = asyncio.run(_all(int(found[1])))
        took = time.perf_counter() - began
        server.terminate()
        told = json.loads(server.communicate()[0])
    assert tokens == [OUTPUT] * STREAMS
    print(
        f"{STREAMS} streams: {sum(tokens) / took:,.0f} tokens/s, {took:.2f} s where {simulated:.2f} s "
        f"are simulated; tokens {told['late_mean_s'] * 1e3:.1f} ms late on average"
    )
    assert took < 2.0 * simulated
