"""RAGPulse: a week of questions to a retrieval service, with what each prompt is made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..csvfile import Column
from ..errors import InputError
from ..textfile import at_line, read_lines, shown
from .block import PREFIX_BLOCK_TOKENS
from .cells import check_order, times, tokens
from .formats import request_format
from .json_lines import number_column, objects_of
from .mooncake import read_mooncake
from .rows import Rows

KEYS = ("timestamp", "input_length", "output_length", "hash_ids", "session_id")
FIRST = "sys_prompt"


@request_format("ragpulse", KEYS, json_lines=True)
def read_ragpulse(path: Path) -> Iterator[Rows]:
    """Read RAGPulse's `0_trace.jsonl`: timestamp [s], prompt and output tokens, parts of the prompt.

    The parts are in the order of `hash_ids`: system prompt, passages, history, web search, question. The first one is
    cut into pieces of 512 tokens, each with an id, of which the last is shorter and, in nearly all of the trace, unique
    to one request. So shared prefixes are leading pieces of the system prompt, and these are the prefix blocks; later
    passages, which other prompts have too, start at other tokens and are in no prefix cache. Questions of one
    `session_id` have separate timestamps.

    Source: flashserve/RAGPulse, README.md and data/ (arXiv 2511.12979). A file with Mooncake's list of
    ids and a `session_id` is read as Mooncake's.
    """
    last = -np.inf
    for chunk in read_lines(path):
        lines, objects = objects_of(path, chunk)
        if not objects:
            continue
        if last == -np.inf and isinstance(objects[0].get("hash_ids"), list):
            yield from read_mooncake(path)
            return
        stamp = Column(path, lines, "timestamp", [item.get("timestamp") for item in objects])
        at_s = times(stamp)
        last = check_order(stamp, at_s, last)
        inputs, outputs = (tokens(number_column(path, lines, key, objects)) for key in KEYS[1:3])
        blocks = tuple(
            _blocks(path, line, item, int(prompt)) for line, item, prompt in zip(lines, objects, inputs, strict=True)
        )
        yield Rows(at_s, inputs, outputs, blocks)


def _blocks(path: Path, line: int, item: dict[str, Any], prompt: int) -> tuple[int, ...]:
    """Ids of the leading pieces of 512 tokens; the last piece may be shorter, and is left out."""
    parts = item.get("hash_ids")
    if not isinstance(parts, dict):
        reason = f"hash_ids must be an object of lists, not {shown(parts)}"
        raise InputError(at_line(path, line), reason)
    first = parts.get(FIRST, [])
    is_list = isinstance(first, list) and {int}.issuperset(map(type, first))
    if not is_list or (first and not 0 <= min(first) <= max(first) < 2**63):
        raise InputError(at_line(path, line), f"hash_ids.{FIRST} must be a list of whole numbers")
    return tuple(first[:-1][: prompt // PREFIX_BLOCK_TOKENS])
