"""Lines of JSON objects, and columns of numbers in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..csvfile import Column
from ..errors import InputError, nearest
from ..textfile import Lines, at_line, readable, shown


def objects_of(path: Path, chunk: Lines) -> tuple[list[int], list[dict[str, Any]]]:
    """Parse a chunk: the lines that are not blank, and their objects."""
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
    """Collect one key; only numbers pass, though `float` would also take text and booleans."""
    cells = [item.get(key) for item in objects]
    column = Column(path, lines, key, cells)
    if not {int, float}.issuperset(map(type, cells)):
        bad = next(i for i, cell in enumerate(cells) if type(cell) not in (int, float))
        if key in objects[bad]:
            raise column.error(bad, "is not a number")
        reason = f"missing key {key!r}{nearest(key, readable(objects[bad]))}"
        raise InputError(at_line(path, lines[bad]), reason)
    return column
