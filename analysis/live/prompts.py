"""Prompts of asked lengths: token ids where a server takes them, else words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...workloads.requests import RequestBlock

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
    """Prompts of a trace; same seed, same prompts, in any order of asking.

    Parameters
    ----------
    trace : RequestBlock
        Lengths, and where it says so which blocks of prompts are equal; all else is different.
    vocab : int, optional
        Size of the server's vocabulary: the upper limit of ids.
    """

    def __init__(self, trace: RequestBlock, seed: int, vocab: int | None = None) -> None:
        self.trace, self.seed = trace, seed
        self.high = min(HIGHEST_ID, vocab or HIGHEST_ID)
        self.low = min(LOWEST_ID, self.high // 2)

    def ids(self, row: int) -> list[int]:
        """Token ids of a prompt; row `PROBE` is a short one that no request has, with the highest id."""
        last = [] if row != PROBE else [self.high - 1]
        return last + [int(n) for n in self.low + self._draws(row) % (self.high - self.low)]

    def words(self, row: int) -> str:
        """As many words as tokens are asked for."""
        return " ".join(WORDS[n] for n in self._draws(row) % len(WORDS))

    def _draws(self, row: int) -> npt.NDArray[np.int64]:
        """A number for each token."""
        if row == PROBE:
            return _drawn((self.seed, 2), PROBE_TOKENS)
        length = int(self.trace.input_tokens[row])
        hashes = () if self.trace.hash_ids is None else self.trace.hash_ids[row]
        size = self.trace.hash_tokens
        parts = [_drawn((self.seed, 0, h), size) for h in hashes]
        known = len(parts) * size
        if known < length:
            parts.append(_drawn((self.seed, 1, row), length - known))
        return np.concatenate(parts)[:length]


def _drawn(key: tuple[int, ...], count: int) -> npt.NDArray[np.int64]:
    """Numbers by a key, each word of which may be any whole number."""
    words = [n & (2**64 - 1) for n in key]
    return np.random.default_rng(words).integers(0, 2**31, count)
