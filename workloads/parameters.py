"""Descriptions with parameters: evaluation of their expressions for given values of `parameters`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SpecError, nearest
from .formula import NONE, SI, Amount, Dims, Formula, as_number, evaluate, solved
from .specfile import UNITS, Description, SourcedNumber, to_si

PARAMETERS = "parameters"
"""Key of a description that maps its parameters' names to their values."""
SET = "assumed: a parameter set by the search or sweep"
PLAIN = ("mm2", "USD")
"""Units of keys that are used without conversion to SI."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def unit_of(path: tuple[str, ...]) -> tuple[Dims, float]:
    """Return the unit of a key, or of the nearest key above it with one, and its factor to SI.

    Without a unit the value is a plain number.
    """
    for key in reversed(path):
        field, factor = to_si(key)
        for suffix in sorted(SI, key=len, reverse=True):
            if field.endswith(f"_{suffix}") or field == suffix:
                return SI[suffix], factor
    return NONE, 1.0


def unit_names() -> dict[str, Amount]:
    """Return the units that expressions can use by name: ``GBps``, ``MiB``, ``mm2``."""
    known = {name: Amount(factor, SI[si]) for name, (si, factor) in UNITS.items()}
    return known | {name: Amount(1.0, SI[name]) for name in PLAIN}


UNIT_NAMES = unit_names()


@dataclass(frozen=True, slots=True)
class Template:
    """A description whose expressions are not evaluated yet, so that many parameter values can be tried quickly."""

    description: Description

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the description's parameters."""
        given = self.description.tree.get(PARAMETERS, {})
        return tuple(given) if isinstance(given, dict) else ()

    def at(self, values: Mapping[str, Any] | None = None) -> Description:
        """Return the description with its expressions evaluated; `values` replace the defaults of parameters.

        Raises
        ------
        SpecError
            A parameter that it does not have, or an expression that cannot be worked out.
        """
        tree, path = dict(self.description.tree), self.description.path
        declared = tree.get(PARAMETERS, {})
        if not isinstance(declared, dict):
            raise SpecError(f"{path}: {PARAMETERS}", "must map names to numbers or expressions")
        declared = dict(declared)
        for name, value in (values or {}).items():
            if name not in declared:
                where, close = f"{path}: {PARAMETERS}", nearest(name, declared)
                raise SpecError(where, f"has no parameter {name!r}{close}")
            declared[name] = SourcedNumber(value, SET)
        amounts = solved({name: _open(name, v, path) for name, v in declared.items()}, UNIT_NAMES)
        known = {**UNIT_NAMES, **amounts}
        out = {k: _closed(v, (k,), known) for k, v in tree.items() if k != PARAMETERS}
        if declared:
            out[PARAMETERS] = {n: _shown(n, v, amounts[n], path) for n, v in declared.items()}
        return Description(out, path)


def _open(name: str, value: Any, path: Path) -> Formula | Amount:
    where = f"{path}: {PARAMETERS}.{name}"
    if NAME.fullmatch(name) is None or name in UNIT_NAMES:
        raise SpecError(where, "must have another name, because this is a unit")
    dims, factor = unit_of((name,))
    if isinstance(value, SourcedNumber):
        return Amount(float(value.value) * factor, dims)
    if isinstance(value, Formula):
        return value
    raise SpecError(where, f"must be a number or an expression, not {value!r:.40}")


def _shown(name: str, given: Any, amount: Amount, path: Path) -> SourcedNumber:
    wanted, factor = unit_of((name,))
    text = given.text if isinstance(given, Formula) else f"{given.value}"
    where = f"{path}: {PARAMETERS}.{name}"
    return SourcedNumber(as_number(amount, factor, wanted, where, text), given.source)


def _closed(node: Any, path: tuple[str, ...], known: Mapping[str, Amount]) -> Any:
    """Return a tree in which each expression is replaced by its value."""
    if isinstance(node, dict):
        return {key: _closed(value, (*path, key), known) for key, value in node.items()}
    if isinstance(node, list):
        return [_closed(value, path, known) for value in node]
    if not isinstance(node, Formula):
        return node
    wanted, factor = unit_of(path)
    value = as_number(evaluate(node, known), factor, wanted, node.where, node.text)
    return SourcedNumber(value, f"{node.source}; = {node.text}")
