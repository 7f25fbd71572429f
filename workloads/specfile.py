"""Strict YAML descriptions: every number has a unit in its key and a source.

A number is written either ``{value: 989.4, source: datasheet}`` or plain inside a block that has a ``source:`` key,
which then covers every plain number of that block. A source is a key of the file's ``sources:`` table or a sentence.
Units are in the key (``bandwidth_GBps``) and converted to SI once, here (``bandwidth_bytes_per_s``). A value that
begins with ``=`` is an expression of the description's `parameters` (`workloads.parameters`). ``extends: NAME`` starts
from another description and replaces only the keys given; a key set to ``null`` removes the inherited one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import MOST_SHOWN, SpecError, nearest
from .formula import Formula
from .yamlfile import Sources, read_yaml

MAX_NUMBER = 1e100  # far above any quantity; in SI units it still is a finite float

UNITS: dict[str, tuple[str, float]] = {
    "TFLOPS": ("flops_per_s", 1e12),
    "GFLOPS": ("flops_per_s", 1e9),
    "TBps": ("bytes_per_s", 1e12),
    "GBps": ("bytes_per_s", 1e9),
    "MBps": ("bytes_per_s", 1e6),
    "TiB": ("bytes", float(2**40)),
    "GiB": ("bytes", float(2**30)),
    "MiB": ("bytes", float(2**20)),
    "KiB": ("bytes", float(2**10)),
    "GB": ("bytes", 1e9),
    "MB": ("bytes", 1e6),
    "kB": ("bytes", 1e3),
    "s": ("s", 1.0),
    "ms": ("s", 1e-3),
    "us": ("s", 1e-6),
    "ns": ("s", 1e-9),
    "GHz": ("Hz", 1e9),
    "MHz": ("Hz", 1e6),
    "pJ_per_bit": ("J_per_byte", 8e-12),
    "pJ_per_FLOP": ("J_per_flop", 1e-12),
    "pJ_per_MAC": ("J_per_flop", 0.5e-12),
    "W": ("W", 1.0),
}
"""Unit suffix of a YAML key -> suffix of the field in SI, and factor. 1 MAC = 2 FLOP."""


@dataclass(frozen=True, slots=True)
class SourcedNumber:
    """A number of a description with its source; `wrong` is the error that `build` raises if the source is missing."""

    value: float | int
    source: str
    wrong: SpecError | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """A parsed description file: a tree whose numbers are :class:`SourcedNumber`."""

    tree: dict[str, Any]
    path: Path


class Spec(BaseModel):
    """Base class of all schemas of descriptions: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def below(path: Path, text: str) -> Path:
    """Return the path of a description to which the file at `path` refers.

    Only YAML files are allowed: error messages of other files' parsers would show their lines to the author of `path`.
    """
    if not text.lower().endswith((".yaml", ".yml")):
        raise SpecError(path, f"{text!r} must be a YAML file")
    return path.parent / text


Find = Callable[[str, Path], Path]
"""Function that converts the text after ``extends:`` in a file to the path of the other description."""


def load_description(path: Path, find: Find | None = None, not_inherited: Sequence[str] = ()) -> Description:
    """Read a description, attach a source to every number and apply ``extends``.

    Parameters
    ----------
    path : Path
        The YAML file.
    find : callable, optional
        Turns the text after ``extends:`` into a path; without it ``extends`` is refused.
    not_inherited : sequence of str
        Top-level keys that are never inherited, such as a name and its aliases.

    Raises
    ------
    SpecError
        Bad YAML, a number without a source, a circular ``extends``.
    """
    return describe(read_yaml(path), path, find, not_inherited)


def describe(
    raw: Mapping[str, Any],
    path: Path,
    find: Find | None = None,
    not_inherited: Sequence[str] = (),
    sources: Mapping[str, str] | None = None,
) -> Description:
    """Do what :func:`load_description` does for a mapping read from the file `path`.

    `sources` is the file's ``sources:`` table if `raw` is only a part of the file.
    """
    return Description(_resolve(dict(raw), path, find, not_inherited, dict(sources or {}), ()), path)


def source_table(raw: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Return the ``sources:`` table of a mapping after checking it."""
    table = raw.get("sources", {})
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise SpecError(f"{path}: sources", "must map short names to sentences")
    return {str(name): text for name, text in table.items()}


def _resolve(
    raw: dict[str, Any],
    path: Path,
    find: Find | None,
    not_inherited: Sequence[str],
    sources: dict[str, str],
    below: tuple[Path, ...],
) -> dict[str, Any]:
    """Attach sources to `raw`, and merge it into the description that it extends."""
    table = sources | source_table(raw, path)
    raw.pop("sources", None)
    parent = raw.pop("extends", None)
    tree = _attach(raw, "", None, table, path)
    if not isinstance(tree, dict):
        raise SpecError(path, "must be a mapping of keys to values, not a single value")
    if parent is None:
        return tree
    if find is None:
        raise SpecError(f"{path}: extends", "is not possible for this kind of description")
    if not isinstance(parent, str):
        raise SpecError(f"{path}: extends", "must be the name or path of a description")
    target = find(parent, path)
    inherited = read_yaml(target)
    below = (*below, path.resolve())
    if target.resolve() in below:
        raise SpecError(f"{path}: extends", f"{parent!r} leads back to this file; remove the cycle")
    base = _resolve(inherited, target, find, not_inherited, {}, below)
    return merge({k: v for k, v in base.items() if k not in not_inherited}, tree)


def _attach(node: Any, key: str, source: str | SpecError | None, table: dict[str, str], path: Path) -> Any:
    """Replace every number below `node` by a `SourcedNumber` with the nearest source."""
    if isinstance(node, dict):
        node = {str(k): v for k, v in node.items()}
        source_own = node.pop("source", None)
        if source_own is not None:
            source = _source(source_own, f"{path}: {key}", table)
        if set(node) == {"value"}:
            return _attach(node["value"], key, source, table, path)
        out, wrong = {}, list[SpecError]()
        for k, v in node.items():
            try:
                out[k] = _attach(v, f"{key}.{k}" if key else k, source, table, path)
            except SpecError as error:
                wrong.append(error)
        if wrong:
            raise together(wrong)
        return out
    if isinstance(node, list):
        return [_attach(v, f"{key}[{i}]", source, table, path) for i, v in enumerate(node)]
    if key.endswith("dram.standard") and isinstance(node, str) and node.endswith(".yaml"):
        return str(path.parent / node)  # a file lies relative to the one that names it
    if isinstance(node, str) and node.startswith("="):
        where = f"{path}: {key}"
        if not isinstance(source, str):
            raise source or SpecError(where, f"'{node}' has no source; write {{value: '{node}', source: ...}}")
        return Formula(node[1:].strip(), source, where)
    if isinstance(node, bool) or node is None or isinstance(node, str):
        return node
    if not isinstance(node, (int, float)):
        raise SpecError(f"{path}: {key}", f"must be a number or text, not {node!r}")
    if not abs(node) < MAX_NUMBER:  # NaN too
        raise SpecError(f"{path}: {key}", f"must be a finite number below {MAX_NUMBER:g}")
    if not isinstance(source, str):
        reason = f"{node} has no source; write {{value: {node}, source: ...}}"
        return SourcedNumber(node, "", source or SpecError(f"{path}: {key}", reason))
    return SourcedNumber(node, source)


class SeveralErrors(SpecError):
    """Several errors of one file; the message gives the first in full."""

    errors: tuple[SpecError, ...] = ()


def together(wrong: Sequence[SpecError]) -> SpecError:
    """Combine errors into one message of at most `MOST_SHOWN` characters; the first error is given in full."""
    every = [e for one in wrong for e in (one.errors if isinstance(one, SeveralErrors) else (one,))]
    first, *others = {(e.subject, e.reason): e for e in every}.values()
    if not others:
        return first
    told = [first.reason, *(f"{e.subject.rpartition(': ')[2]}: {e.reason}" for e in others)]
    while len(told) > 1 and len(f"{first.subject}: {'; '.join(told)}; and 999 more") > MOST_SHOWN:
        told.pop()
    left = len(others) + 1 - len(told)
    error = SeveralErrors(first.subject, "; ".join(told) + (f"; and {left} more" if left else ""))
    error.errors = tuple(every)
    return error


def _source(given: Any, where: str, table: dict[str, str]) -> str | SpecError:
    if isinstance(given, str) and given in table:
        return table[given]
    if isinstance(given, str) and " " in given.strip():
        return given
    text = f"source {given!r} is neither a sentence nor a key of sources{nearest(str(given), table)}"
    return SpecError(where, f'{text}; name the document, or write "assumed: why"')


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `over` replaced; mappings are merged key by key.

    A key replaces one that gives the same quantity in another unit (``capacity_GB`` over
    ``capacity_GiB``), and ``None`` drops the key.
    """
    out = dict(base)
    named = {to_si(key)[0]: key for key in base}
    for key, value in over.items():
        inherited = named.get(to_si(key)[0], key)
        old = out.pop(inherited, None)
        if isinstance(old, dict) and isinstance(value, dict):
            out[key] = merge(old, value)
        elif value is not None:
            out[key] = value
    return out


@lru_cache(1 << 12)
def to_si(key: str) -> tuple[str, float]:
    """Split a unit off a key: ``bandwidth_GBps`` -> (``bandwidth_bytes_per_s``, 1e9)."""
    for suffix in sorted(UNITS, key=len, reverse=True):
        if key.endswith(f"_{suffix}") or key == suffix:
            field, factor = UNITS[suffix]
            stem = key.removesuffix(suffix).rstrip("_")
            return (f"{stem}_{field}" if stem else field), factor
    return key, 1.0


S = TypeVar("S", bound=Spec)


def build(schema: type[S], description: Description) -> tuple[S, dict[str, str]]:
    """Check a description against its schema.

    Returns
    -------
    spec : Spec
        The validated, frozen description in SI units.
    sources : dict[str, str]
        Key path as written in the file -> source of that number.

    Raises
    ------
    SpecError
        Unknown, missing or wrong key; the message names the key as written.
    """
    sources, wrong = Sources(), list[SpecError]()
    written: dict[tuple[str, ...], str] = {}

    def plain(node: Any, at: tuple[str, ...], label: str, factor: float) -> Any:
        written[at] = label
        if isinstance(node, dict):
            out: dict[str, Any] = {}
            for key, value in node.items():
                field, si_field = to_si(key)
                if field in out:
                    raise SpecError(f"{description.path}: {label}", f"{field} is given in two units; keep one")
                below = f"{label}.{key}" if label else key
                out[field] = plain(value, (*at, field), below, si_field if si_field != 1.0 else factor)
            return out
        if isinstance(node, list):
            return tuple(plain(v, (*at, str(i)), f"{label}[{i}]", factor) for i, v in enumerate(node))
        if isinstance(node, Formula):
            reason = f"'= {node.text}': expressions are supported only in descriptions of devices"
            raise SpecError(node.where, reason)
        if isinstance(node, SourcedNumber):
            sources[label] = node.source
            if node.wrong is not None:
                wrong.append(node.wrong)
            return node.value * factor if factor != 1.0 else node.value
        return node

    tree = plain(description.tree, (), "", 1.0)
    try:
        spec = schema.model_validate(tree)
    except ValidationError as error:
        # An unknown key explains a missing one better than the other way round: a typo causes both.
        every = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        entry: dict[str, SpecError] = {}
        for error_each in every:  # one a key, the first
            complaint = _complaint(schema, description, error_each, written)
            entry.setdefault(complaint.subject, complaint)
        raise together([*entry.values(), *wrong]) from None
    if wrong:
        raise together(wrong)
    return spec, sources


def _complaint(
    schema: type[Spec], description: Description, first: Any, written: dict[tuple[str, ...], str]
) -> SpecError:
    """Return a validation error of pydantic as an error that names the key as written in the file."""
    at = tuple(str(part) for part in first["loc"] if part != "[key]")
    label = written.get(at, ".".join(at))
    where = f"{description.path}: {label}" if label else str(description.path)
    if first["type"] == "missing":
        parent = written.get(at[:-1], ".".join(at[:-1]))
        key = f"{parent}.{_in_units(at[-1])}" if parent else _in_units(at[-1])
        return SpecError(f"{description.path}: {key}", "is missing")
    if first["type"] == "extra_forbidden":
        known = [_in_units(field) for field in _fields_at(schema, at[:-1])]
        return SpecError(where, f"unknown key{nearest(label.rpartition('.')[2], known)}")
    if first["type"] == "value_error":
        return SpecError(where, first["msg"].removeprefix("Value error, "))
    typed: Any = description.tree  # the number in the file's unit, not in SI
    for part in label.split("."):
        typed = typed.get(part) if isinstance(typed, dict) else None
    got = typed.value if isinstance(typed, SourcedNumber) else first["input"]
    return SpecError(where, f"{first['msg']}, got {shorten(repr(got), 80)}{_dotted(got)}")


def _dotted(got: object) -> str:
    """Return advice for a number with an exponent but without a point, which YAML 1.1 reads as text.

    "" for other values.
    """
    if not isinstance(got, str) or not re.fullmatch(r"[-+]?[0-9]+[eE][-+]?[0-9]+", got):
        return ""
    digits, exponent = got.lower().split("e")
    sign = "" if exponent[0] in "+-" else "+"
    return f"; write {digits}.0e{sign}{exponent}"


def _in_units(field: str) -> str:
    """Return a field's name in the units of YAML files: ``latency_s`` -> ``latency_us``."""
    usual = {"flops_per_s": "TFLOPS", "bytes_per_s": "GBps", "bytes": "GiB", "s": "us",
             "Hz": "GHz", "J_per_byte": "pJ_per_bit", "J_per_flop": "pJ_per_FLOP"}  # fmt: skip
    for si in sorted(usual, key=len, reverse=True):
        if field.endswith(f"_{si}"):
            return field.removesuffix(si) + usual[si]
    return field


def _fields_at(schema: type[Spec], at: tuple[str, ...]) -> list[str]:
    """Return the known keys of the (possibly nested) schema at the place of an error."""
    current: Any = schema
    for part in at:
        field = current.model_fields.get(part) if _is_spec(current) else None
        annotation = field.annotation if field else current
        current = next((a for a in _flatten(annotation) if _is_spec(a)), current)
    return list(current.model_fields) if _is_spec(current) else []


def _is_spec(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, Spec)


def _flatten(annotation: Any) -> list[Any]:
    args = getattr(annotation, "__args__", ())
    return [annotation, *(inner for arg in args for inner in _flatten(arg))]
