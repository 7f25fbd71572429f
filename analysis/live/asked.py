"""Requests to a simulated server: they are read from JSON, or refused as vLLM would refuse them."""

from __future__ import annotations

import json
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from .pacer import Answer
from .target import WORDS

DEFAULT_TOKENS = 16
"""Default output tokens of a completion, as in OpenAI's and vLLM's servers."""
MOST_TOKENS = 2**31 - 1
ROOM_COMMAS, SPACES = 10_000, 16
"""At most this number of commas outside the prompt, and of white space for each token (a body may be indented)."""
WHITE_SPACE = (
    b" ",
    b"\\",
    b"\n",
    b"\t",
    "\u0085".encode(),
    "\u00a0".encode(),
    "\u1680".encode(),
    b"\xe2\x80",
    b"\xe3\x80\x80",
)
"""What `str.split` may split at, in JSON: blanks, any escape (``\\n``, ``\\u2003``), and Unicode's white space."""


class Refused(Exception):
    """Refusal of a request, with the error response in OpenAI's form.

    Parameters
    ----------
    reason : str
        The reason, and the right form.
    key : str or None
        Key of the request that is refused.
    status : int
        HTTP status code.
    """

    def __init__(self, reason: str, key: str | None = None, status: int = 400) -> None:
        super().__init__(reason)
        self.key, self.status = key, status

    def body(self) -> dict[str, Any]:
        """Return the response in OpenAI's form."""
        kind = "NotFoundError" if self.status == 404 else "BadRequestError"
        return {"error": {"message": str(self), "type": kind, "param": self.key, "code": self.status}}


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """A completion request as read from its JSON.

    Attributes
    ----------
    chat, stream, usage : bool
        Whether it is a chat completion, whether the response is streamed, and whether token counts follow the stream.
    content : tuple
        Names of the prompt's leading whole blocks; each identifies all content up to its end.
    """

    chat: bool
    stream: bool
    usage: bool
    input_tokens: int
    output_tokens: int
    content: tuple[Hashable, ...]


def read_asked(raw: bytes, chat: bool, model: str, longest: int | None, block: int) -> LiveRequest:
    """Read a completion request from its JSON.

    Parameters
    ----------
    model : str
        Name of the served model.
    longest : int or None
        Maximum tokens of prompt and output together.
    block : int
        Tokens of a KV block.

    Raises
    ------
    Refused
        If the request is invalid or not supported.
    """
    _check_size(raw, longest)
    body = _object(raw)
    if body.get("model", model) != model:
        raise unknown_model(body["model"], model)
    if any(body.get(key) not in (1, None) for key in ("n", "best_of")):
        raise Refused("n: one output per request is simulated", "n")
    if not isinstance(body.get("stream"), bool | None):
        raise Refused(f"stream: must be true or false, not {body['stream']!r:.40}", "stream")
    most = MOST_TOKENS if longest is None else longest
    tokens = _tokens(_text(body.get("messages", [])) if chat else body.get("prompt"), most)
    if chat and not tokens and body.get("messages"):
        tokens = [""]  # a chat template adds tokens to an empty message, which engines therefore serve
    if not tokens:
        key = "messages" if chat else "prompt"
        raise Refused(f"{key}: must be {'messages' if chat else 'a text or token ids'}", key)
    room = most - len(tokens)
    if room < 0:  # the rest of a text was not split
        raise _too_long(most)
    asked = _count(body, "max_completion_tokens") or _count(body, "max_tokens")
    output = asked or min(DEFAULT_TOKENS, max(room, 1))
    if output > room:
        raise Refused(
            f"This model's maximum context length is {longest} tokens; {len(tokens)} of the prompt "
            f"and {output} of the completion are more", "max_tokens",
        )  # fmt: skip
    options = body.get("stream_options")
    if not isinstance(options, dict | None):
        raise Refused(f"stream_options: must be an object, not {options!r:.40}", "stream_options")
    usage = bool((options or {}).get("include_usage"))
    return LiveRequest(chat, bool(body.get("stream")), usage, len(tokens), output, _blocks(tokens, block))


def _check_size(raw: bytes, longest: int | None) -> None:
    """Refuse a body that is far too long before it is parsed, because parsing would delay every stream.

    Commas separate token ids, and white space separates words. More of either than a long prompt needs, however
    the body is laid out, are more tokens than fit.
    """
    if longest is not None and (
        raw.count(b",") > longest + ROOM_COMMAS or sum(map(raw.count, WHITE_SPACE)) > SPACES * longest + ROOM_COMMAS
    ):
        raise _too_long(longest)


def unknown_model(name: object, model: str) -> Refused:
    """Return the refusal of another model than the one that is served."""
    return Refused(f"The model {name!r:.200} does not exist; it is {model!r}", "model", 404)


def _too_long(longest: int) -> Refused:
    return Refused(f"This model's maximum context length is {longest} tokens; the prompt is longer")


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refused("The body is not JSON") from None
    if not isinstance(body, dict):
        raise Refused("The body must be a JSON object")
    return body


def _count(body: Mapping[str, Any], key: str) -> int | None:
    """Return the number of tokens under a key, or None if the body does not have the key."""
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TOKENS:
        raise Refused(f"{key}: must be a whole number from 1, not {value!r:.40}", key)
    return value


def _text(messages: object) -> str:
    """Return all text of a chat's messages, joined by blanks."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Refused("messages: must be a list of objects", "messages")
    parts: list[str] = []
    for content in (message.get("content") for message in messages):
        pieces = content if isinstance(content, list) else [{"text": content}]
        parts += [str(p["text"]) for p in pieces if isinstance(p, dict) and p.get("text")]
    return " ".join(parts)


def _tokens(prompt: object, most: int) -> list[Hashable]:
    """Return a prompt's tokens: its ids, or the words of a text, which is split into at most `most` + 2 words."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return list(prompt.split(maxsplit=most + 1))
    if isinstance(prompt, list):
        if all(isinstance(n, int) and not isinstance(n, bool) for n in prompt):
            return list(prompt)
        raise Refused("prompt: must be one text, or the token ids of one", "prompt")
    return []


def _blocks(tokens: list[Hashable], size: int) -> tuple[Hashable, ...]:
    """Return a name for each whole block of a prompt; it depends on all tokens up to the block's end."""
    names: list[Hashable] = []
    before: Hashable = None
    for start in range(0, len(tokens) - size + 1, size):
        before = hash((before, *tokens[start : start + size]))
        names.append(before)
    return tuple(names)


DONE = b"data: [DONE]\n\n"


class Events:
    """Generator of the bytes of one response, whose text is one word per token.

    Parameters
    ----------
    answer : Answer
        Tokens of the request.
    """

    def __init__(self, answer: Answer, asked: LiveRequest, model: str) -> None:
        self.answer, self.asked, self.sent = answer, asked, 0
        kind = "chat.completion" if asked.chat else "text_completion"
        self.base = {
            "id": f"{'chatcmpl' if asked.chat else 'cmpl'}-{answer.number}", "object": kind,
            "created": int(time.time()), "model": model,
        }  # fmt: skip
        if asked.chat and asked.stream:
            self.base["object"] = "chat.completion.chunk"
        text = self._event(self._choice("\0"))  # a text that JSON spells in a way of its own
        self._before, self._after = text.split(b"\\u0000")

    def _choice(self, text: str, ends: bool = False) -> dict[str, Any]:
        part: dict[str, Any] = {"delta": {"content": text}} if self.asked.chat else {"text": text}
        reason = "length" if ends else None
        return {"index": 0, **part, "logprobs": None, "finish_reason": reason}

    def _event(self, *choices: dict[str, Any], **more: Any) -> bytes:
        data = json.dumps({**self.base, "choices": choices, **more}, separators=(",", ":"))
        return f"data: {data}\n\n".encode()

    def opening(self) -> bytes:
        """Return the content before the first token: a chat's role."""
        if not self.asked.chat:
            return b""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return self._event(choice)

    def tokens(self, count: int) -> bytes:
        """Return the events of the next `count` tokens, and the end of the stream after the last token."""
        parts: list[bytes] = [] if self.sent else [self.opening()]
        for n in range(self.sent, self.sent + count):
            word = f" {WORDS[n % len(WORDS)]}"
            if n + 1 == self.asked.output_tokens:
                parts.append(self._event(self._choice(word, ends=True)))
            else:
                parts += (self._before, word.encode(), self._after)
        self.sent += count
        if self.sent == self.asked.output_tokens:
            parts += [self._event(usage=self.usage()) if self.asked.usage else b"", DONE]
        return b"".join(parts)

    def usage(self) -> dict[str, Any]:
        """Return the token counts of the prompt, its cached tokens and the response up to now, in vLLM's form."""
        prompt = self.asked.input_tokens
        return {
            "prompt_tokens": prompt, "total_tokens": prompt + self.sent, "completion_tokens": self.sent,
            "prompt_tokens_details": {"cached_tokens": self.answer.cached_tokens},
        }  # fmt: skip

    def failure(self, reason: str) -> bytes:
        """Return the error event of a stream that ends early."""
        error = {"message": reason, "type": "InternalServerError", "param": None, "code": 503}
        return f"data: {json.dumps({'error': error})}\n\n".encode()

    def whole(self) -> dict[str, Any]:
        """Return a whole response without a stream."""
        self.sent = self.asked.output_tokens
        text = "".join(f" {WORDS[n % len(WORDS)]}" for n in range(self.sent))
        choice = self._choice(text, ends=True)
        if self.asked.chat:
            del choice["delta"]
            choice["message"] = {"role": "assistant", "content": text}
        return {**self.base, "choices": [choice], "usage": self.usage()}
