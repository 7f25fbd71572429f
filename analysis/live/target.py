"""The server to record: its address, its model, and the form of request that it supports."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock

if TYPE_CHECKING:
    import httpx


LOWEST_ID, HIGHEST_ID = 1_000, 30_000
"""Range of sampled token ids: ordinary tokens of any vocabulary of 30,000 and more (assumed: special ones are at the
ends, beyond the 32,000 of Llama-2 or below these). Of a smaller vocabulary the upper half."""

WORDS = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part",
    "place", "case", "week", "company", "system", "program", "question", "work", "number",
    "night", "point", "home", "water", "room", "mother", "area", "money", "story", "fact",
    "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side",
    "kind", "head", "house", "service", "friend", "father", "power", "hour", "game", "line",
    "end", "member", "law", "car", "city", "community", "name",
]  # fmt: skip
"""Common words, one token each in the usual vocabularies (assumed; a server's own count comes first)."""

PROBE, PROBE_TOKENS = -1, 7
"""Row of the prompt that is sent before the run: its blocks must not be in a prefix cache afterwards."""


class PromptSource:
    """Generator of a trace's prompts; the same seed gives the same prompts in any order of calls.

    Parameters
    ----------
    trace : RequestBlock
        Lengths of requests and, optionally, hashes of prompt blocks. Blocks with equal hashes are equal, all others differ.
    vocab : int, optional
        Size of the server's vocabulary: the upper limit of ids.
    """

    def __init__(self, trace: RequestBlock, seed: int, vocab: int | None = None) -> None:
        self.trace, self.seed = trace, seed
        self.high = min(HIGHEST_ID, vocab or HIGHEST_ID)
        self.low = min(LOWEST_ID, self.high // 2)

    def ids(self, row: int) -> list[int]:
        """Return a prompt's token ids; row `PROBE` is a unique short test prompt with the highest id."""
        last = [] if row != PROBE else [self.high - 1]
        return last + [int(n) for n in self.low + self._draws(row) % (self.high - self.low)]

    def words(self, row: int) -> str:
        """Return a text of the requested number of tokens, one word each."""
        return " ".join(WORDS[n] for n in self._draws(row) % len(WORDS))

    def _draws(self, row: int) -> npt.NDArray[np.int64]:
        """Return a random number for each token; prompts with equal block hashes share the block's numbers."""
        if row == PROBE:
            return _drawn((self.seed, 2), PROBE_TOKENS)
        length = int(self.trace.input_tokens[row])
        hashes = () if self.trace.hash_ids is None else self.trace.hash_ids[row]
        size = self.trace.hash_tokens
        parts = [_drawn((self.seed, 0, h), size) for h in hashes]
        known = min(len(parts) * size, self.trace.shared_tokens or length)
        parts = [np.concatenate(parts)[:known]] if parts else []
        if known < length:
            parts.append(_drawn((self.seed, 1, row), length - known))
        return np.concatenate(parts)[:length]


def _drawn(key: tuple[int, ...], count: int) -> npt.NDArray[np.int64]:
    """Return random numbers for a key of whole numbers of any size."""
    words = [n & (2**64 - 1) for n in key]
    return np.random.default_rng(words).integers(0, 2**31, count)


KEY = "OPENAI_API_KEY"
"""Environment variable of the key; it is given in no other way and written nowhere."""
PROBE_S = 60.0
"""Timeout of the test requests before the run [s]."""
PROMPTS = ("auto", "ids", "words")
POOL, MOST_CLIENTS = 16, 64
"""Maximum requests in flight of one HTTP client, and maximum number of HTTP clients."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """Address of the recorded server, and the form of the requests that it receives.

    Attributes
    ----------
    base : str
        Address up to ``/v1``.
    model : str
        Name that the server gives its model.
    chat : bool
        Chat completions instead of completions.
    ids : bool
        Prompts are token ids, not words.
    extras : bool
        ``ignore_eos`` and ``min_tokens`` are sent, so that outputs have the asked length.
    usage : bool
        The server is asked how many tokens it counted.
    version : str or None
        Of the server, where it says so.
    """

    base: str
    model: str = ""
    chat: bool = False
    ids: bool = False
    extras: bool = True
    usage: bool = True
    version: str | None = None

    @property
    def url(self) -> str:
        return f"{self.base}/{'chat/completions' if self.chat else 'completions'}"

    def body(self, prompts: PromptSource, row: int, output_tokens: int) -> bytes:
        """Return the JSON body of a request."""
        asked: dict[str, Any] = {"model": self.model, "stream": True, "max_tokens": output_tokens}
        prompt = prompts.ids(row) if self.ids else prompts.words(row)
        if self.chat:
            asked["messages"] = [{"role": "user", "content": prompt}]
        else:
            asked["prompt"] = prompt
        if self.extras:
            asked |= {"ignore_eos": True, "min_tokens": output_tokens}
        if self.usage:
            asked["stream_options"] = {"include_usage": True}
        return json.dumps(asked).encode()

    def says(self) -> str:
        """Return a text on the form of prompts and on how the output length is enforced."""
        made = "token ids" if self.ids else "words, one a token"
        note = "" if self.extras else "; ignore_eos is not taken, so outputs may end early"
        return f"prompts of {made}{note}"


def address(url: str) -> str:
    """Return a server's address with ``/v1`` at its end.

    Raises
    ------
    InputError
        No address of a server.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"URL {url!r}", "must be a server's address: http://127.0.0.1:8000")
    if parts.username or parts.password or parts.query:
        raise InputError("URL", f"must hold no credentials; the key is read from {KEY}")
    path = parts.path.rstrip("/")
    for end in ("/chat/completions", "/completions"):
        path = path.removesuffix(end)
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


@asynccontextmanager
async def open_clients(base: str, places: int) -> AsyncIterator[Sequence[httpx.AsyncClient]]:
    """Clients with the key, if there is one, for `places` requests in flight.

    A client's pool checks all of its connections for every request, so many requests need several clients. Local
    servers have no proxy.
    """
    import httpx

    headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    verify = httpx.create_ssl_context()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with AsyncExitStack() as stack:
        try:
            clients = [
                httpx.AsyncClient(
                    headers=headers, timeout=None, limits=limits, verify=verify,
                    trust_env=urlsplit(base).hostname not in LOOPBACK,
                )
                for _ in range(-(-min(places, MOST_CLIENTS * POOL) // POOL))
            ]  # fmt: skip
        except (UnicodeError, ValueError):
            raise InputError(KEY, "contains characters that are not allowed in an HTTP header") from None
        yield [await stack.enter_async_context(client) for client in clients]


async def find_out(
    client: httpx.AsyncClient, wanted: ServerTarget, prompts: str, prompt_source: PromptSource
) -> tuple[ServerTarget, PromptSource]:
    """Find out the server's model and version, and the form of request that it accepts, by test requests.

    One short request is sent for each form of prompt until one is accepted. vLLM responds to an id beyond its
    vocabulary with 200 and an error event; the returned prompts have lower ids.

    Raises
    ------
    InputError
        If the server does not respond, lists no model, or accepts no form of request.
    """
    target = wanted
    if not target.model:
        target = replace(target, model=await _listed(client, target.base))
    target = replace(target, version=await _version(client, target.base))
    refused = ""
    for ids, extras, usage in _forms(prompts, target.chat):
        form = replace(target, ids=ids, extras=extras, usage=usage)
        status, refused = await _try(client, form, prompt_source)
        while ids and prompt_source.high > 2 and _OUT_OF_VOCABULARY.search(refused):
            prompt_source = PromptSource(prompt_source.trace, prompt_source.seed, prompt_source.high // 2)
            status, refused = await _try(client, form, prompt_source)
        if status not in (400, 404, 422):
            return form, prompt_source  # a server that fails is recorded as such
        if status == 404:
            break
    raise InputError(wanted.base, f"rejected the test request: {refused}")


def _forms(prompts: str, chat: bool) -> list[tuple[bool, bool, bool]]:
    """Return the forms of requests to try, the one with the most fields first."""
    kinds = {"auto": (True, False), "ids": (True,), "words": (False,)}[prompts]
    return [
        (ids, extras, usage)
        for ids in ((False,) if chat else kinds)
        for extras, usage in ((True, True), (False, True), (False, False))
    ]


_OUT_OF_VOCABULARY = re.compile(r"oken id \d+ is out of vocab")


async def _ask(client: httpx.AsyncClient, url: str) -> tuple[int, Mapping[str, Any]]:
    """Return the HTTP status and the JSON object of a page."""
    import httpx

    try:
        answer = await client.get(url, timeout=PROBE_S)
        body = answer.json() if answer.status_code == 200 else {}
    except httpx.HTTPError as error:
        raise InputError(url, f"cannot be reached ({_why(error)}); is a server there?") from None
    except (ValueError, RecursionError):
        body = {}
    return answer.status_code, body if isinstance(body, dict) else {}


async def _listed(client: httpx.AsyncClient, base: str) -> str:
    """Return the first model that a server lists."""
    status, body = await _ask(client, f"{base}/models")
    listed = body.get("data")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict) and "id" in listed[0]:
        return str(listed[0]["id"])
    raise InputError(f"{base}/models", f"lists no model (HTTP {status}); name one with --served-model-name")


async def _version(client: httpx.AsyncClient, base: str) -> str | None:
    """Return a server's version from vLLM's ``/version`` endpoint; None if there is none."""
    status, body = await _ask(client, f"{base.removesuffix('/v1')}/version")
    version = body.get("version")
    return version if status == 200 and isinstance(version, str) else None


async def _try(client: httpx.AsyncClient, form: ServerTarget, prompt_source: PromptSource) -> tuple[int, str]:
    """Send a test request for one token; return its status and a text that describes the response."""
    import httpx

    try:
        answer = await client.post(form.url, content=form.body(prompt_source, PROBE, 1), timeout=PROBE_S)
    except httpx.ConnectError as error:
        raise InputError(form.url, f"cannot be reached ({_why(error)}); is a server there?") from None
    except httpx.HTTPError as error:
        return 500, _why(error)
    return answer.status_code, f"HTTP {answer.status_code} {answer.text[:200]}"


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
