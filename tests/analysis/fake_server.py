"""A small OpenAI-compatible server of the tests, on loopback, that fails as it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

GAP_S = 0.01
"""Between two chunks."""


@dataclass
class Fake:
    """What the server does, and what it was asked.

    Attributes
    ----------
    fails : mapping of int to str
        Of the n-th request for more than one token: "500", "die" (after its second chunk), "hang"
        (before its first), "error" (an event that says so) or "plain" (no stream).
    refuses : set of str
        Keys of a request that are answered with 400, and "ids" for prompts of token ids.
    vocab : int
        Ids from here on are answered as vLLM does: with 200 and an error event; 0 for none.
    """

    fails: dict[int, str] = field(default_factory=dict)
    refuses: set[str] = field(default_factory=set)
    vocab: int = 0
    gap_s: float = GAP_S
    port: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    most: int = 0
    open: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((int(line[15:]) for line in head.split("\r\n")
                               if line.lower().startswith("content-length:")), 0)  # fmt: skip
                body = await reader.readexactly(length)
                self.headers.append(head)
                if head.startswith("GET /v1/models"):
                    _whole(writer, "200 OK", json.dumps({"data": [{"id": "fake/model"}]}))
                elif head.startswith("GET"):
                    _whole(writer, "404 Not Found", "{}")
                elif not await self.answer(json.loads(body), writer):
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answer a completion; False where the connection is to be closed."""
        if self.refuses & set(asked) or ("ids" in self.refuses and isinstance(asked.get("prompt"), list)):
            _whole(writer, "400 Bad Request", '{"error": {"message": "no such thing"}}')
            return True
        way = ""
        if asked["max_tokens"] > 1:
            way = self.fails.get(len(self.asked), self.fails.get(-1, ""))
            self.asked.append(asked)
        else:
            self.probes.append(asked)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            return await self._stream(asked, writer, way)
        finally:
            self.open -= 1

    async def _stream(self, asked: dict[str, Any], writer: asyncio.StreamWriter, way: str) -> bool:
        if way == "500":
            _whole(writer, "500 Internal Server Error", "{}")
            return True
        if way == "plain":
            _whole(writer, "200 OK", '{"choices": [{"text": "all at once"}]}')
            return True
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        if way == "hang":
            await writer.drain()
            await asyncio.sleep(60.0)
        for i in range(asked["max_tokens"]):
            await asyncio.sleep(self.gap_s)
            if way == "die" and i == 2:
                writer.transport.abort()
                return False
            beyond = [n for n in asked.get("prompt", ()) if isinstance(n, int) and n >= self.vocab > 0]
            if beyond:
                _event(writer, {"error": {"message": f"Token id {beyond[0]} is out of vocabulary"}})
                break
            if way == "error" and i == 2:
                _event(writer, {"error": {"message": "out of\nmemory"}})
                break
            if way == "deep" and i == 2:
                _event(writer, '{"a":' * 100_000)
            last = i + 1 == asked["max_tokens"]
            part = {"delta": {"content": " a"}} if "messages" in asked else {"text": " a"}
            _event(writer, {"choices": [{**part, "finish_reason": "length" if last else None}]})
        if "stream_options" in asked:
            usage = {"prompt_tokens": 7, "completion_tokens": asked["max_tokens"]}
            _event(writer, {"choices": [], "usage": usage})
        _event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        return True


def _whole(writer: asyncio.StreamWriter, status: str, body: str) -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


def _event(writer: asyncio.StreamWriter, data: Any) -> None:
    text = data if isinstance(data, str) else json.dumps(data)
    line = f"data: {text}\n\n".encode()
    writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")


@contextmanager
def served(fake: Fake) -> Iterator[Fake]:
    """Run a server in a thread of its own."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    end = asyncio.Event()

    async def main() -> None:
        server = await asyncio.start_server(fake.talk, "127.0.0.1", 0, limit=1 << 24)
        fake.port = server.sockets[0].getsockname()[1]
        ready.set()
        await end.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # closed transports let go of their sockets

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    ready.wait()
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
