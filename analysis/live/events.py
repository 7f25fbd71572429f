"""The bytes of responses: chunks of a stream, and whole ones, in OpenAI's form."""

from __future__ import annotations

import json
import time
from typing import Any

from .asked import LiveRequest
from .prompts import WORDS

DONE = b"data: [DONE]\n\n"


class Events:
    """Bytes of one response; the text is one word per token.

    Parameters
    ----------
    number : int
        Of the request.
    """

    def __init__(self, number: int, asked: LiveRequest, model: str) -> None:
        self.asked, self.sent = asked, 0
        kind = "chat.completion" if asked.chat else "text_completion"
        self.base = {
            "id": f"{'chatcmpl' if asked.chat else 'cmpl'}-{number}", "object": kind,
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
        """Events of the next tokens, and of the end after the last one."""
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

    def usage(self) -> dict[str, int]:
        """Tokens so far."""
        prompt = self.asked.input_tokens
        return {"prompt_tokens": prompt, "completion_tokens": self.sent, "total_tokens": prompt + self.sent}

    def failure(self, reason: str) -> bytes:
        """The event of a stream that ends before its end."""
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
