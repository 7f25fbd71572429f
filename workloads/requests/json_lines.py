"""Reader of JSON lines, with columns of numbers.

Mooncake traces: one JSON object a line, with the hashes of the prompt's prefix blocks.

RAGPulse: a week of questions to a retrieval service, with the parts of each prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..csvfile import Column
from ..errors import InputError, nearest
from ..textfile import Lines, at_line, read_lines, readable, shown
from .agents import CallReader, check_order, times, tokens
from .block import PREFIX_BLOCK_TOKENS
from .formats import request_format
from .rows import Rows
from .sessions import OTHERWISE, SessionReader, session_columns, turns_reader


def objects_of(path: Path, chunk: Lines) -> tuple[list[int], list[dict[str, Any]]]:
    """Parse a chunk; return the numbers of its lines that are not blank, and their objects."""
    lines, objects = [], []
    for number, text in enumerate(chunk.text, chunk.first):
        if not text.strip():
            continue
        try:
            item = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deep or a number too long")
            raise InputError(at_line(path, number), f"is not valid JSON ({reason})") from None
        if not isinstance(item, dict):
            raise InputError(at_line(path, number), f"must be a JSON object, not {shown(item)}")
        lines.append(number)
        objects.append(item)
    return lines, objects


def number_column(path: Path, lines: list[int], key: str, objects: list[dict[str, Any]]) -> Column:
    """Return the column of one key; refuse text and booleans, which `float` would accept."""
    cells = [item.get(key) for item in objects]
    column = Column(path, lines, key, cells)
    if not {int, float}.issuperset(map(type, cells)):
        bad = next(i for i, cell in enumerate(cells) if type(cell) not in (int, float))
        if key in objects[bad]:
            raise column.error(bad, "is not a number")
        reason = f"missing key {key!r}{nearest(key, readable(objects[bad]))}"
        raise InputError(at_line(path, lines[bad]), reason)
    return column


MOONCAKE = ("timestamp", "input_length", "output_length")


@request_format("mooncake", MOONCAKE, json_lines=True)
def read_mooncake(path: Path) -> Iterator[Rows]:
    """Read a Mooncake trace: timestamp [ms], prompt and output tokens, optional `hash_ids`.

    Timestamps are not changed; the conversation trace's are multiples of 3 s to a few milliseconds (see
    `rows.spread_stamps`). Either every line has `hash_ids` or none. A line may have the keys of `sessions` that the
    first one has (null if it has no value).

    Source: kvcache-ai/Mooncake, FAST25 traces (Apache-2.0).
    """
    last = -np.inf
    hashed: bool | None = None
    sessions: SessionReader | CallReader = SessionReader(())
    for chunk in read_lines(path):
        lines, objects = objects_of(path, chunk)
        if not objects:
            continue
        if hashed is None:
            hashed = "hash_ids" in objects[0]
            sessions = turns_reader(session_columns(objects[0], at_line(path, lines[0])))
        columns = [number_column(path, lines, key, objects) for key in MOONCAKE]
        stamp_ms = times(columns[0])
        last = check_order(columns[0], stamp_ms, last)
        inputs, outputs = tokens(columns[1]), tokens(columns[2])
        ids = None
        if hashed:
            blocks = -(-inputs // PREFIX_BLOCK_TOKENS)
            ids = tuple(
                _hash_ids(path, line, item, int(most)) for line, item, most in zip(lines, objects, blocks, strict=True)
            )
        _check_late_keys(path, lines, objects, sessions.names)
        find = partial(_named, path, lines, objects)
        yield sessions.read(find, Rows(stamp_ms / 1000, inputs, outputs, ids))
    if hashed is None:
        raise InputError(path, "is empty")


def _check_late_keys(path: Path, lines: list[int], objects: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    """Refuse session keys that the first line does not have, because its requests are read already."""
    late = [key for key in ("session", "predecessor", "after", "think_s") if key not in names]
    for line, item in zip(lines, objects, strict=True):
        for key in late:
            if key in item:
                raise InputError(
                    at_line(path, line),
                    f"has the key {key!r}, but the first line does not; use the same keys in all lines",
                )


def _named(path: Path, lines: list[int], objects: list[dict[str, Any]], name: str) -> Column:
    """Return the column of a key that lines may lack, under whichever of its names the lines use."""
    others = [other for other, usual in OTHERWISE.items() if usual == name]
    key = next((other for other in others if any(other in item for item in objects)), name)
    return Column(path, lines, key, [item.get(key, item.get(name)) for item in objects])


def _hash_ids(path: Path, line: int, item: dict[str, Any], most: int) -> tuple[int, ...]:
    ids = item.get("hash_ids")
    if not isinstance(ids, list) or not {int}.issuperset(map(type, ids)):
        raise InputError(at_line(path, line), "hash_ids must be a list of whole numbers")
    if ids and not (min(ids) >= 0 and max(ids) < 2**63):
        raise InputError(at_line(path, line), "hash_ids must be from 0 to 2**63 - 1")
    if len(ids) > most:
        reason = (
            f"{len(ids)} hash_ids are too many: blocks of the prompt, {most}; tokens per block, {PREFIX_BLOCK_TOKENS}"
        )
        raise InputError(at_line(path, line), reason)
    return tuple(ids)


RAGPULSE = ("timestamp", "input_length", "output_length", "hash_ids", "session_id")
FIRST = "sys_prompt"


@request_format("ragpulse", RAGPULSE, json_lines=True)
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
        inputs, outputs = (tokens(number_column(path, lines, key, objects)) for key in RAGPULSE[1:3])
        blocks = tuple(
            _blocks(path, line, item, int(prompt)) for line, item, prompt in zip(lines, objects, inputs, strict=True)
        )
        yield Rows(at_s, inputs, outputs, blocks)


def _blocks(path: Path, line: int, item: dict[str, Any], prompt: int) -> tuple[int, ...]:
    """Return the ids of the leading pieces of 512 tokens; a shorter last piece is dropped."""
    parts = item.get("hash_ids")
    if not isinstance(parts, dict):
        reason = f"hash_ids must be an object of lists, not {shown(parts)}"
        raise InputError(at_line(path, line), reason)
    first = parts.get(FIRST, [])
    is_list = isinstance(first, list) and {int}.issuperset(map(type, first))
    if not is_list or (first and not 0 <= min(first) <= max(first) < 2**63):
        raise InputError(at_line(path, line), f"hash_ids.{FIRST} must be a list of whole numbers")
    return tuple(first[:-1][: prompt // PREFIX_BLOCK_TOKENS])
