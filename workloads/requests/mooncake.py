"""Mooncake traces: one JSON object a line, with the hashes of the prompt's prefix blocks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..csvfile import Column
from ..errors import InputError
from ..textfile import at_line, read_lines
from .agents import CallReader
from .block import PREFIX_BLOCK_TOKENS
from .cells import check_order, times, tokens
from .formats import request_format
from .json_lines import number_column, objects_of
from .rows import Rows
from .sessions import OTHERWISE, SessionReader, session_columns, turns_reader

KEYS = ("timestamp", "input_length", "output_length")


@request_format("mooncake", KEYS, json_lines=True)
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
        columns = [number_column(path, lines, key, objects) for key in KEYS]
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
    """Refuse keys of sessions that the first line did not have: its requests are read already."""
    late = [key for key in ("session", "predecessor", "after", "think_s") if key not in names]
    for line, item in zip(lines, objects, strict=True):
        for key in late:
            if key in item:
                raise InputError(at_line(path, line), f"has {key!r}, which the first line has not")


def _named(path: Path, lines: list[int], objects: list[dict[str, Any]], name: str) -> Column:
    """Collect one key of which a line may have none, under whichever of its names a line has it."""
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
        reason = f"{len(ids)} hash_ids for a prompt of {most} blocks of {PREFIX_BLOCK_TOKENS}"
        raise InputError(at_line(path, line), reason)
    return tuple(ids)
