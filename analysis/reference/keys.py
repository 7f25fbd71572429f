"""Keys of input files as rows: block, name, units, type, default and meaning."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from ...workloads.specfile import UNITS, Spec
from ...workloads.yamlfile import read_yaml
from .kinds import written


@cache
def meanings() -> dict[str, Any]:
    """Return the meanings of keys (``block.key``) that the specs' docstrings do not describe."""
    return read_yaml(Path(__file__).parent / "templates" / "meanings.yaml")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a block.

    Attributes
    ----------
    name : str
        Without its unit.
    units : tuple of str
        Endings it may have, the usual first; empty for a number without a unit, or no number.
    kind : str
        "number", "whole number", "text", "yes or no", a list or table of these, or a block's name.
    default : str
        As written in a file; "needed" where there is none.
    text : str
        What it is; empty where its name says it.
    """

    name: str
    units: tuple[str, ...]
    kind: str
    default: str
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a file: its name, the first sentence of its spec's docstring, and its keys."""

    name: str
    text: str
    keys: tuple[Key, ...]


def blocks(spec: type[Spec]) -> Iterator[Block]:
    """Yield the block of a spec and all blocks inside it, each once, outer blocks first."""
    seen: set[type[Spec]] = set()

    def walk(one: type[Spec]) -> Iterator[Block]:
        if one in seen:
            return
        seen.add(one)
        yield Block(block_name(one), _first(one.__doc__ or ""), tuple(_keys(one)))
        for field in one.model_fields.values():
            for inner in _specs(field.annotation):
                yield from walk(inner)

    yield from walk(spec)


def block_name(spec: type[Spec]) -> str:
    """Return the block name of a spec (``ProcessorSpec`` -> ``processor``); words of longer names are separated."""
    stem = spec.__name__.removesuffix("Spec")
    return " ".join(re.findall(r"[A-Z][a-z0-9]*|[A-Z]+", stem)).lower()


def _keys(spec: type[Spec]) -> Iterator[Key]:
    # The keys of a block. A key's meaning comes from the first that has one: the table of meanings, the `Attributes`
    # of the class, the sentences of its docstring that name the key.
    said, listed = sentences(spec.__doc__ or ""), attributes(spec.__doc__ or "")
    for name, field in spec.model_fields.items():
        names = written(name)
        units = tuple(n[len(_stem(names)) :].lstrip("_") for n in names) if len(names) > 1 else ()
        spoken = (s for s in said if f"`{name}`" in s or f"`{names[0]}`" in s)
        block = f"{block_name(spec)}.{_stem(names)}"
        text = meanings().get(block) or listed.get(name) or " ".join(spoken)
        yield Key(_stem(names), units, _kind(field.annotation), _default(field), text)


def _stem(names: tuple[str, ...]) -> str:
    """Return the common beginning of all names of a key, which is the name without its unit."""
    if len(names) == 1:
        return names[0]
    units = sorted(UNITS, key=len, reverse=True)
    ending = next(u for u in units if names[0].endswith(u))
    return names[0].removesuffix(ending).rstrip("_")


def sentences(doc: str) -> list[str]:
    r"""Return the sentences of a docstring, each on one line.

    Examples
    --------
    >>> sentences("One thing. `key` says two,\n    e.g. 3.5 of them.")
    ['One thing.', '`key` says two, e.g. 3.5 of them.']
    """
    flat = " ".join(doc.split())
    return re.split(r"(?<=[.])\s+(?=[A-Z`])", flat) if flat else []


def attributes(doc: str) -> dict[str, str]:
    """Return the descriptions of the attributes in a numpydoc docstring, by attribute name."""
    matches = re.findall(r"^ *(\w+(?:, \w+)*) : [^\n]*\n((?: {8,}[^\n]*\n?)+)", doc, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in matches for name in names.split(", ")}


def _first(doc: str) -> str:
    parts = sentences(doc)
    return parts[0] if parts else ""


def _specs(annotation: Any) -> list[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [s for part in typing.get_args(annotation) for s in _specs(part)]


WORDS: Mapping[Any, str] = {float: "number", int: "whole number", str: "text", bool: "yes or no", type(None): ""}


def _kind(annotation: Any) -> str:
    """Return a type as text."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if origin is typing.Annotated:
        return _kind(parts[0])
    if origin is typing.Literal:
        return " or ".join(str(p) for p in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(k for p in parts if (k := _kind(p))))
    if origin is tuple:
        return f"list of {_kind(parts[0])}"
    if origin is dict:
        return f"name: {_kind(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return f"block [{block_name(annotation)}](#{block_name(annotation).replace(' ', '-')})"
    return str(annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True) if field.default_factory else field.default
    if value is None or value in ("", (), {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Spec):
        return "its defaults"
    return f"{value:g}" if isinstance(value, float) else str(value)
