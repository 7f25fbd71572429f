"""Output of results as declared in `results.yaml` in the folder of their modules: JSON, table rows and sentences.

A JSON entry has the path of its value (default: its own name); a mapping is a nested object. Along a path, methods are
called, mappings are indexed, and any attribute of None is None. Objects of declared classes are written as declared. A
text has fields ``{PATH}`` or ``{PATH|FORM}``. A form is a Python format, `s` (a duration), `show`, or a format after a unit
of `SCALES`. A cell that is not a text is a path.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...workloads.yamlfile import read_yaml
from .text import Records, seconds, show

FORMS: Mapping[str, Callable[[Any], str]] = {"s": seconds, "show": show}
SCALES = {"GiB": 2.0**30, "MiB": 2.0**20, "MB": 1e6}
_FIELD = re.compile(r"\{([\w.]+)(?:\|([^}]*))?\}")


@cache
def _declared(module: str) -> Mapping[str, Any]:
    """Return the declarations in `results.yaml` of a module's folder, by class; empty without the file."""
    path = Path(str(sys.modules[module].__file__)).with_name("results.yaml")
    return read_yaml(path) if path.is_file() else {}


def declared(source: Any, what: str) -> Any:
    """Return an entry that an object's class or a base class declares; None without one."""
    for kind in type(source).__mro__[:-1]:
        if what in (known := _declared(kind.__module__).get(kind.__name__) or {}):
            return known[what]
    return None


def value_at(source: Any, path: str) -> Any:
    """Return the value at a dotted path of attributes and keys; None if one on the path is None."""
    for name in path.split("."):
        if source is None:
            return None
        source = source.get(name) if isinstance(source, Mapping) else getattr(source, name)
        source = source() if callable(source) else source
    return source


def record(source: Any) -> dict[str, Any]:
    """Return an object as plain data, as its class declares under `json`."""
    known = declared(source, "json")
    if known is None:
        raise NotImplementedError(f"{type(source).__name__} declares no JSON")
    return _object(source, known)


def _object(source: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _object(source, path) if isinstance(path, Mapping) else _plain(value_at(source, path or name))
        for name, path in known.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value):
        return asdict(value) if declared(value, "json") is None else record(value)  # type: ignore[arg-type]  # an object
    return value


def row(source: Any, table: str = "table") -> dict[str, Any]:
    """Return a table row of an object with formatted cells, as its class declares them."""
    return {
        label: _cell(source, label if cell is None else str(cell)) for label, cell in declared(source, table).items()
    }


def rows(sources: Iterable[Any], table: str = "table") -> Records:
    """Return the rows of a printed table, one per object."""
    return [row(source, table) for source in sources]


def _cell(source: Any, cell: str) -> Any:
    return filled(source, cell) if "{" in cell else value_at(source, cell)


def text(source: Any, name: str) -> str:
    """Return a sentence on an object, filled into the template that its class declares."""
    return filled(source, str(declared(source, name)))


def filled(source: Any, template: str) -> str:
    """Return a template with its fields filled in; a dash if a field has no value."""
    values = [(value_at(source, path), form) for path, form in _FIELD.findall(template)]
    if any(value is None for value, form in values if form not in FORMS):
        return "-"
    texts = iter([_formed(value, form) for value, form in values])
    return _FIELD.sub(lambda field: next(texts), template)


def _formed(value: Any, form: str) -> str:
    if form in FORMS:
        return FORMS[form](value)
    scale = next((unit for unit in SCALES if form.startswith(unit)), "")
    return format(value / SCALES[scale] if scale else value, form.removeprefix(scale))
