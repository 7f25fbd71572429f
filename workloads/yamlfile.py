"""Strict YAML: one mapping a file, without duplicate keys, tags or references.

Quoting of text for YAML files, such that it is read back unchanged.

Display of descriptions: as tables in a notebook, and in short.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from contextlib import suppress
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer

from .errors import InputError, SpecError
from .own_folder import cache_folder, write_whole
from .textfile import read_regular

MAX_SPEC_BYTES = 4 << 20


class _Strict(Composer):
    """Refuses duplicate keys, tags, and references to other nodes.

    Tags ask for conversions that fail in their own ways, and references make a small file
    unfold without bound; a description needs neither.
    """

    name: str
    peek_event: Any  # of the parser that it is put before

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        where = f"{self.name}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise SpecError(where, f"references such as *{event.anchor} are not supported; write the value")
        if getattr(event, "tag", None) is not None:
            raise SpecError(where, f"tags such as {event.tag!r} are not supported; write a plain number or text")
        return super().compose_node(parent, index)


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Hashable, Any]:
    """Build a mapping; refuse keys that are not plain words or appear twice."""
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        line = key_node.start_mark.line + 1
        merges = key_node.tag == "tag:yaml.org,2002:merge"
        if key is None or merges or not key.isprintable():
            raise SpecError(f"{loader.name}:{line}", "keys must be plain words")
        if key in seen:
            raise SpecError(f"{loader.name}:{line}", f"duplicate key {key!r}; keep one")
        seen.add(key)
    out: dict[Hashable, Any] = loader.construct_mapping(node, deep=True)
    if len({str(key) for key in out}) < len(node.value):  # 10 and 0xA: one number, two spellings
        raise SpecError(f"{loader.name}:{node.start_mark.line + 1}", "duplicate key; keep one")
    return out


class _SlowLoader(_Strict, yaml.SafeLoader):
    """Safe loader in pure Python, which has better error messages."""


LOADERS: list[Any] = [_SlowLoader]
"""Loaders in the order in which they are tried; the error of the last one is reported."""

if yaml.__with_libyaml__:

    class _QuickLoader(_Strict, yaml.CSafeLoader):
        """Safe loader based on libyaml, which reads the catalog three times as fast."""

        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            Composer.__init__(self)

    LOADERS.insert(0, _QuickLoader)

for _loader in LOADERS:
    _loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; duplicate keys, tags, references and non-mappings are refused.

    The mappings and lists inside are shared between calls: treat them as read-only.
    """
    try:
        text = read_regular(path, MAX_SPEC_BYTES, "a description").decode("utf-8")
    except InputError as error:
        raise SpecError(error.subject, error.reason) from None
    except UnicodeDecodeError:
        raise SpecError(path, "is not UTF-8 text") from None
    return dict(_parse(str(path), text))


SHIPPED = Path(__file__).parent.parent
"""The package's folder; its own descriptions are parsed once and then read from the cache folder as JSON, thirty times as fast."""


def _stored(path: Path, text: str) -> tuple[Path | None, Any]:
    """Return the file that has the parsed text of a shipped description, and its content; None where there is none."""
    folder = cache_folder("yaml") if path.is_relative_to(SHIPPED) else None
    place = folder and folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    with suppress(OSError, ValueError):  # not stored yet, or damaged
        return place, json.loads(place.read_text("utf-8")) if place else None
    return place, None


def _store(place: Path | None, tree: Any) -> None:
    """Store parsed text if JSON returns the same data."""
    with suppress(OSError, TypeError, ValueError):  # a date
        data = json.dumps(tree)
        if place and json.loads(data) == tree:
            write_whole(place, data.encode())


@lru_cache(maxsize=128)
def _parse(name: str, text: str) -> dict[str, Any]:
    """Parse YAML text; results are cached by content, so an edited file is read again."""
    place, tree = _stored(Path(name), text)
    if isinstance(tree, dict):
        return tree
    try:
        tree = _tree(name, text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        reason = getattr(error, "problem", None) or getattr(error, "reason", "unreadable")
        raise SpecError(where, f"not valid YAML: {reason}") from None
    except RecursionError:
        raise SpecError(name, "nested too deeply") from None
    except SpecError:
        raise
    except ValueError as error:  # a date of month 13, an integer of 5000 digits
        raise SpecError(name, f"not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise SpecError(name, "must be a mapping of keys to values")
    _store(place, tree)
    return tree


def _tree(name: str, text: str) -> Any:
    for kind in LOADERS[:-1]:
        with suppress(yaml.YAMLError):
            return _read_as(kind, name, text)
    return _read_as(LOADERS[-1], name, text)


def _read_as(kind: Any, name: str, text: str) -> Any:
    loader = kind(text)
    loader.name = name
    return loader.get_single_data()


def quoted(text: str) -> str:
    r"""Return a text in double quotes, with unprintable characters escaped.

    Examples
    --------
    >>> print(quoted('Intel "Xeon"'))
    "Intel \"Xeon\""
    """
    special = {'"': '\\"', "\\": "\\\\"}
    shown = (special.get(c, c) if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(shown)}"'


def scalar(text: str) -> str:
    """Return a text unchanged if YAML reads it back as this text, else quoted.

    Examples
    --------
    >>> scalar("h100"), scalar("no"), scalar("a: b")
    ('h100', '"no"', '"a: b"')
    """
    try:
        plain = yaml.safe_load(f"[{text}]") == [text] and yaml.safe_load(f"a: {text}") == {"a": text}
    except (yaml.YAMLError, ValueError):
        plain = False
    return text if plain else quoted(text)


class Sources(dict[str, str]):
    """Source of each number by its key path; `repr` only counts them, because there are hundreds."""

    def __repr__(self) -> str:
        return f"<Sources of {len(self)} numbers>"


def table_of(tree: Mapping[str, Any]) -> str:
    """Return plain data as an HTML table of key paths and values, with everything escaped."""
    rows: list[str] = []

    def add(node: Any, path: str) -> None:
        if isinstance(node, Mapping):
            for key, below in node.items():
                add(below, f"{path}.{key}" if path else str(key))
        elif node not in ("", (), []):
            value = ", ".join(map(str, node)) if isinstance(node, (tuple, list)) else f"{node}"
            rows.append(f"<tr><td>{escape(path)}</td><td>{escape(value)}</td></tr>")

    add(tree, "")
    return f"<table><tbody>{''.join(rows)}</tbody></table>"
