"""Web application of a simulated deployment: OpenAI's endpoints and vLLM's metrics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..._version import __version__
from ...workloads.errors import InputError
from .asked import Events, LiveRequest, Refused, read_asked, unknown_model
from .pacer import PAGE, Answer, Pacer, page

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MOST_BODY = 64 << 20
"""Maximum size of a request's body [B]."""
ENDING = "the server ends"


class Streamed(Response):
    """A response whose tokens are sent as they are generated.

    Parameters
    ----------
    pacer : Pacer
        Called if the client leaves.
    """

    def __init__(self, answer: Answer, events: Events, pacer: Pacer) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self.answer, self.events, self.pacer = answer, events, pacer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; the client may leave at any time."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        watch = asyncio.create_task(self._gone(receive))
        try:
            await send(start)
            while self.answer.left and (came := await self.answer.more()):
                await send(_part(self.events.tokens(came), more=True))
            if self.answer.left and self.pacer.closed:
                await send(_part(self.events.failure(ENDING), more=True))
            await send(_part(b"", more=False))
        finally:
            watch.cancel()
            if self.answer.left:
                self.pacer.abandon(self.answer)

    async def _gone(self, receive: Receive) -> None:
        """Wait until the client leaves."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.answer.end()


def _part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


class Pages:
    """Handlers of the server's endpoints.

    Parameters
    ----------
    model : str
        Name of the model.
    longest : int or None
        Maximum tokens of a request, prompt and output together.
    """

    def __init__(self, pacer: Pacer, model: str, longest: int | None) -> None:
        self.pacer, self.model, self.longest = pacer, model, longest

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, chat=False)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, chat=True)

    async def _answer(self, request: Request, chat: bool) -> Response:
        """Respond to a request, or return a response with the reason for its refusal."""
        try:
            block = self.pacer.live.block_tokens
            asked = read_asked(await _body(request), chat, self.model, self.longest, block)
            answer = self._submit(asked)
        except Refused as refusal:
            self.pacer.meters.refused += 1
            return JSONResponse(refusal.body(), refusal.status)
        except ClientDisconnect:
            return Response(status_code=400)
        events = Events(answer, asked, self.model)
        if asked.stream:
            return Streamed(answer, events, self.pacer)
        while answer.left and await answer.more():
            if await request.is_disconnected():
                break
        if answer.left:
            self.pacer.abandon(answer)
            return JSONResponse(Refused(ENDING, status=503).body(), 503)
        return JSONResponse(events.whole())

    def _submit(self, asked: LiveRequest) -> Answer:
        if self.pacer.closed:
            raise Refused(ENDING, status=503)
        try:
            answer = self.pacer.submit(asked.input_tokens, asked.output_tokens, asked.content)
        except InputError as error:  # too long for the cache, even alone
            raise Refused(str(error)) from None
        self.pacer.meters.asked += 1
        return answer

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def one_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.model:
            return JSONResponse(unknown_model(name, self.model).body(), 404)
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.model, "object": "model", "created": 0, "owned_by": "opbyte",
            "root": self.model, "parent": None, "max_model_len": self.longest, "permission": [],
        }  # fmt: skip

    async def metrics(self, request: Request) -> Response:
        gauges = self.pacer.live.gauges()
        return Response(page(self.pacer.meters, gauges, self.model), media_type=PAGE)

    async def health(self, request: Request) -> Response:
        return Response(status_code=503 if self.pacer.closed else 200)

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": f"opbyte-{__version__}"})


async def _body(request: Request) -> bytes:
    """Read the body of a request; refuse it if it is longer than `MOST_BODY`."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MOST_BODY:
            raise Refused(f"the body is longer than {MOST_BODY >> 20} MiB", status=413)
    return b"".join(parts)


async def _failed(request: Request, error: Exception) -> Response:
    """Return the response for an unknown page or another HTTP error, in OpenAI's form."""
    assert isinstance(error, HTTPException)
    return JSONResponse(Refused(error.detail, status=error.status_code).body(), error.status_code)


def make_app(pacer: Pacer, model: str, longest: int | None) -> Starlette:
    """Return the web application of a running simulation."""
    pages = Pages(pacer, model, longest)
    return Starlette(
        routes=[
            Route("/v1/completions", pages.completions, methods=["POST"]),
            Route("/v1/chat/completions", pages.chat, methods=["POST"]),
            Route("/v1/models", pages.models),
            Route("/v1/models/{name:path}", pages.one_model),
            Route("/metrics", pages.metrics),
            Route("/health", pages.health),
            Route("/version", pages.version),
        ],
        exception_handlers={HTTPException: _failed},
    )
