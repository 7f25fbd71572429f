"""How many streams at a time does a simulated server hold, and at what pace?

The client reads bytes and parses nothing, so that the server is what is measured; both have the
machine's cores. Nothing is asserted of time but that the server keeps half of the simulated pace.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opbyte import Scenario
from opbyte.simulator.scenario.build import run_scenario

from ..processes import environment

pytestmark = pytest.mark.benchmark

STREAMS, INPUT, OUTPUT = 1000, 64, 200
OPTIONS = {"policy": "vllm", "max_seqs": 1024}


async def _stream(port: int, n: int, most: int = OUTPUT) -> int:
    """Tokens of one answer; hangs up after so many."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"prompt": [n + 1] * INPUT, "max_tokens": OUTPUT, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    tokens, done = 0, False
    while not done and (data := await reader.read(1 << 16)):
        tokens += data.count(b'"finish_reason"')
        done = b"[DONE]" in data or tokens >= most < OUTPUT
    writer.close()
    return tokens


async def _all(port: int) -> list[int]:
    return await asyncio.gather(*(_stream(port, n) for n in range(STREAMS)))


@contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server, and its port."""
    command = [sys.executable, "-m", "opbyte", "serve", "llama-3-8b", "--system", "h100-x1",
               "--policy", "vllm", "--max-seqs", "1024", "--port", "0", "--json"]  # fmt: skip
    env = environment()
    with subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        found = re.search(r":(\d+)/v1", server.stderr.readline())
        assert found
        try:
            yield server, int(found[1])
        finally:
            server.kill()


def test_a_thousand_streams(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    trace = tmp_path / "t.csv"
    rows = [f"0,{INPUT},{OUTPUT}"] * STREAMS
    trace.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    scenario = Scenario.of("llama-3-8b", "h100-x1", trace=str(trace), **OPTIONS)
    simulated = run_scenario(scenario).makespan_s
    with serving() as (server, port):
        began = time.perf_counter()
        tokens = asyncio.run(_all(port))
        took = time.perf_counter() - began
        server.terminate()
        told = json.loads(server.communicate()[0])
    assert tokens == [OUTPUT] * STREAMS
    print(
        f"{STREAMS} streams: {sum(tokens) / took:,.0f} tokens/s, {took:.2f} s where {simulated:.2f} s "
        f"are simulated; tokens {told['late_mean_s'] * 1e3:.1f} ms late on average"
    )
    assert took < 2.0 * simulated


CUT, BODY = 600, 60 << 20
"""Streams of which half hang up, and bytes of prompts that are refused."""


async def _large(port: int) -> bytes:
    """How a prompt of 60 MiB of token ids is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"prompt": [' + b"1," * (BODY // 2) + b"1]}"
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    try:
        writer.write(body)
        await writer.drain()
    except ConnectionError:
        pass  # refused before all of it was read
    answer = await reader.readline()
    writer.close()
    return answer


async def _hurt(port: int) -> tuple[list[int], list[bytes], float]:
    """Tokens of the streams, answers to large bodies, and how long all took."""
    streams = [asyncio.create_task(_stream(port, n, 20 if n % 2 else OUTPUT)) for n in range(CUT)]
    await asyncio.sleep(0.5)
    bodies = [asyncio.create_task(_large(port)) for _ in range(3)]
    began = time.perf_counter()
    tokens = await asyncio.gather(*streams)
    return tokens, await asyncio.gather(*bodies), time.perf_counter() - began


def test_streams_that_are_cut_and_bodies_that_are_refused_hurt_no_other() -> None:
    """Of 600 streams half hang up after 20 tokens while 60 MiB bodies come: the others get all of theirs, and a
    signal ends the server amid as many again."""
    pytest.importorskip("uvicorn")
    with serving() as (server, port):
        tokens, answers, took = asyncio.run(_hurt(port))
        assert tokens[::2] == [OUTPUT] * (CUT // 2)
        assert min(tokens[1::2]) >= 20
        assert all(b" 400 " in answer or b" 413 " in answer for answer in answers), answers

        async def ended() -> float:
            again = [asyncio.create_task(_stream(port, n)) for n in range(CUT)]
            await asyncio.sleep(1.0)
            server.terminate()
            at = time.perf_counter()
            while server.poll() is None:
                await asyncio.sleep(0.01)
            await asyncio.gather(*again, return_exceptions=True)
            return time.perf_counter() - at

        late = asyncio.run(ended())
        assert server.returncode in (0, 143)
    print(f"{CUT} streams, half cut, beside 60 MiB bodies: {took:.1f} s; SIGTERM answered in {late:.1f} s")
