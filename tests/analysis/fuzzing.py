"""Seeded spoiling of files and options, for the tests that no bad input is a traceback.

Files are spoilt as text (cut, lines lost, doubled or exchanged, odd characters) and as what they mean:
a cell, a key or a value is replaced by what does not belong there.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from typing import Any

import yaml

LONG = "x" * 5000
SCALARS: list[Any] = [
    "", " ", "zzz", "-1", "0", "-0.0", "1e999", "nan", "inf", "-inf", "1_0", "0x1", "None", "null", "true",
    "9" * 400, "2147483648", "9223372036854775808", "1e308", "1e-320", "0.5", "é\x1b[31m", "\u202e", "'", '"',
    "[]", "{}", "[1, x]", "&a", "*a", "!!python/object/apply:os.getcwd []", "a: b", "# a", "../../etc/passwd",
    "file:/", "x:y:z", ",,", ";", LONG, "\x00", "-", "%s", "{0}",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 5, 0.5, -0.5, 1e30, 2**31, 2**63, 10**40, "", "zzz", "0x1", [], {}, [1, "x"],
    {"a": 1}, {5: 1}, [[]], LONG, float("nan"), float("inf"), "é\x1b[31m",
]  # fmt: skip
"""Of YAML and JSON."""
Draw = random.Random


def text(rng: Draw, whole: str) -> str:
    """The text with one of its parts spoilt, whatever it means."""
    lines = whole.splitlines(keepends=True)
    way, i = rng.randrange(7), rng.randrange(len(lines))
    if way == 0:
        return whole[: rng.randrange(len(whole))]
    if way == 1:
        del lines[i]
    elif way == 2:
        lines.insert(i, lines[rng.randrange(len(lines))])
    elif way == 3:
        j = rng.randrange(len(lines))
        lines[i], lines[j] = lines[j], lines[i]
    elif way == 4:
        at = rng.randrange(len(lines[i]) + 1)
        lines[i] = lines[i][:at] + str(rng.choice(SCALARS)) + lines[i][at:]
    elif way == 5:
        lines[i] = str(rng.choice(SCALARS)) + "\n"
    else:
        at = rng.randrange(len(whole))
        return whole[:at] + chr(rng.randrange(0x250)) + whole[at + 1 :]
    return "".join(lines)


def table(rng: Draw, whole: str) -> str:
    """A CSV file with a cell, a name or the width of a row spoilt."""
    rows = [row for row in csv.reader(io.StringIO(whole)) if row and not row[0].startswith("#")]
    way, i = rng.randrange(6), rng.randrange(len(rows))
    j = rng.randrange(len(rows[i]))
    if way <= 2:
        rows[i][j] = str(rng.choice(SCALARS))
    elif way == 3:
        for row in rows:
            del row[j : j + 1]
    elif way == 4:
        rows[i].append("1")
    else:
        rows = rows[: 1 + rng.randrange(2)]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def tree(rng: Draw, whole: Any) -> Any:
    """Plain data with one value replaced, one key renamed or one entry lost."""
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(whole)
    node, key = rng.choice(places)
    way = rng.randrange(4)
    if way <= 1:
        node[key] = rng.choice(VALUES)
    elif way == 2:
        del node[key]
    elif isinstance(node, dict):
        node[rng.choice([5, None, True, "zzz", LONG, "", 1.5])] = node.pop(key)
    else:
        node.insert(key, rng.choice(VALUES))
    return whole


def as_yaml(rng: Draw, whole: str) -> str:
    """A YAML file whose data are spoilt."""
    return yaml.safe_dump(tree(rng, yaml.safe_load(whole)), sort_keys=False, allow_unicode=True)


def as_json(rng: Draw, whole: str) -> str:
    """A JSON file, or one of an object a line, whose data are spoilt."""
    lines = [json.loads(line) for line in _objects(whole)]
    i = rng.randrange(len(lines))
    lines[i] = tree(rng, lines[i])
    return "".join(json.dumps(_with_text_keys(line)) + "\n" for line in lines)


def _objects(whole: str) -> list[str]:
    try:
        json.loads(whole)
    except ValueError:
        return whole.splitlines()
    return [whole]


def _with_text_keys(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(key): _with_text_keys(value) for key, value in node.items()}
    return [_with_text_keys(value) for value in node] if isinstance(node, list) else node


MEANT: dict[str, Callable[[Draw, str], str]] = {".csv": table, ".yaml": as_yaml, ".json": as_json, ".jsonl": as_json}


def spoilt(rng: Draw, name: str, whole: str) -> str:
    """A file that is not what it should be; one of four may still be good."""
    suffix = "." + name.rpartition(".")[2]
    return text(rng, whole) if rng.randrange(3) == 0 else MEANT.get(suffix, text)(rng, whole)
