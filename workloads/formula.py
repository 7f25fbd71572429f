"""Expressions in descriptions: ``= modules * macs * 2 * clock_MHz``, arithmetic on named parameters.

A parameter's name contains its unit like every key (``sram_MiB``, ``clock_GHz``), and so do numbers (``4 * GBps``).
Units are propagated, and the result must have the unit of its key. FLOPs, MACs and other counts have none.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import SpecError, nearest

MOST = 500
"""Maximum length of an expression [characters]."""
Dims = tuple[int, int, int, int, int]
"""Unit of an amount as powers of bytes, seconds, joules, mm2 and USD."""
NONE: Dims = (0, 0, 0, 0, 0)
BASES = ("bytes", "s", "J", "mm2", "USD")
SI: dict[str, Dims] = {
    "bytes": (1, 0, 0, 0, 0), "s": (0, 1, 0, 0, 0), "Hz": (0, -1, 0, 0, 0),
    "flops_per_s": (0, -1, 0, 0, 0), "bytes_per_s": (1, -1, 0, 0, 0), "W": (0, -1, 1, 0, 0),
    "J_per_byte": (-1, 0, 1, 0, 0), "J_per_flop": (0, 0, 1, 0, 0), "mm2": (0, 0, 0, 1, 0),
    "USD": (0, 0, 0, 0, 1), "op_per_byte": (-1, 0, 0, 0, 0),
}  # fmt: skip
"""Units at the end of a key, in SI, as powers of `BASES`."""
POWERS = (2, 3, 4)


@dataclass(frozen=True, slots=True)
class Formula:
    """An expression of a description file that is not evaluated yet."""

    text: str
    source: str
    where: str


@dataclass(frozen=True, slots=True)
class Amount:
    """A number in SI units with its unit as powers of `BASES`."""

    value: float
    dims: Dims = NONE


FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "ceil": math.ceil, "floor": math.floor, "round": round,
    "sqrt": math.sqrt, "log2": math.log2,
}  # fmt: skip
UNITLESS = ("ceil", "floor", "round", "sqrt", "log2")


def in_words(dims: Dims) -> str:
    """Return a unit as text.

    Examples
    --------
    >>> in_words((1, -1, 0, 0, 0)), in_words(NONE)
    ('bytes/s', 'a plain number')
    """
    above = [f"{b}^{n}" if n > 1 else b for b, n in zip(BASES, dims, strict=True) if n > 0]
    below = [f"{b}^{-n}" if n < -1 else b for b, n in zip(BASES, dims, strict=True) if n < 0]
    if not above and not below:
        return "a plain number"
    return "*".join(above or ["1"]) + "".join(f"/{name}" for name in below)


def evaluate(formula: Formula, names: Mapping[str, Amount]) -> Amount:
    """Evaluate an expression with the given parameters and units.

    Raises
    ------
    SpecError
        No arithmetic, an unknown name, units that do not go together, a result that is not a number.
    """
    try:
        return _value(_tree(formula), formula, names)
    except (ArithmeticError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(formula.where, f"'= {formula.text}' has no value ({error})") from None


def names_in(formula: Formula) -> set[str]:
    """Return the names that an expression uses, including units and functions."""
    return {node.id for node in ast.walk(_tree(formula)) if isinstance(node, ast.Name)}


def _tree(formula: Formula) -> ast.expr:
    if len(formula.text) > MOST:
        raise SpecError(formula.where, f"is longer than {MOST} characters")
    try:
        return ast.parse(formula.text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        reason = f"'= {formula.text}' is not an expression; write for example '= modules * 512'"
        raise SpecError(formula.where, reason) from None


def _value(node: ast.expr, formula: Formula, names: Mapping[str, Amount]) -> Amount:
    """Return the value and unit of a node of an expression; refuse anything but arithmetic."""
    if isinstance(node, ast.Name):
        if node.id not in names:
            close = nearest(node.id, names)
            raise SpecError(formula.where, f"unknown name {node.id!r} in '= {formula.text}'{close}")
        return names[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return Amount(float(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand, formula, names)
        return Amount(-inner.value, inner.dims)
    if isinstance(node, ast.BinOp):
        return _both(node, formula, names)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _called(node.func.id, [_value(a, formula, names) for a in node.args], formula)
    reason = f"'= {formula.text}' may contain only arithmetic and {', '.join(FUNCTIONS)}"
    raise SpecError(formula.where, reason)


def _both(node: ast.BinOp, formula: Formula, names: Mapping[str, Amount]) -> Amount:
    a, b = _value(node.left, formula, names), _value(node.right, formula, names)
    if isinstance(node.op, (ast.Add, ast.Sub)):
        _alike(a, b, formula)
        return Amount(a.value + b.value if isinstance(node.op, ast.Add) else a.value - b.value, a.dims)
    if isinstance(node.op, ast.Mult):
        return Amount(a.value * b.value, _dims(a.dims, b.dims, 1))
    if isinstance(node.op, ast.Div):
        return Amount(a.value / b.value, _dims(a.dims, b.dims, -1))
    if isinstance(node.op, ast.Pow) and b.dims == NONE and b.value in POWERS:
        n = int(b.value)
        return Amount(a.value**n, _dims(NONE, a.dims, n))
    reason = f"'= {formula.text}' may use + - * / and powers of 2 to 4"
    raise SpecError(formula.where, reason)


def _dims(a: Dims, b: Dims, times: int) -> Dims:
    dims = tuple(x + times * y for x, y in zip(a, b, strict=True))
    return (dims[0], dims[1], dims[2], dims[3], dims[4])


def _alike(a: Amount, b: Amount, formula: Formula) -> None:
    if a.dims != b.dims:
        reason = f"'= {formula.text}' puts {in_words(a.dims)} and {in_words(b.dims)} together"
        raise SpecError(formula.where, reason)


def _called(name: str, given: list[Amount], formula: Formula) -> Amount:
    if name not in FUNCTIONS or not given or (name in UNITLESS and len(given) > 1):
        raise SpecError(formula.where, f"'= {formula.text}': known functions are min(a, b), "
                        f"max(a, b) and {', '.join(UNITLESS)} of one number")  # fmt: skip
    for other in given[1:]:
        _alike(given[0], other, formula)
    if name in UNITLESS:
        _alike(given[0], Amount(0.0), formula)
    return Amount(float(FUNCTIONS[name](*(g.value for g in given))), given[0].dims)


def solved(formulas: Mapping[str, Formula | Amount], units: Mapping[str, Amount]) -> dict[str, Amount]:
    """Evaluate parameters that may refer to each other.

    Raises
    ------
    SpecError
        Expressions that lead back to themselves.
    """
    done = {name: value for name, value in formulas.items() if isinstance(value, Amount)}
    open_ = {name: f for name, f in formulas.items() if isinstance(f, Formula)}

    def solve(name: str, chain: tuple[str, ...]) -> None:
        if name in done:
            return
        if name in chain:
            around = " -> ".join((*chain[chain.index(name) :], name))
            raise SpecError(open_[name].where, f"the expressions form a cycle: {around}")
        for inner in sorted(names_in(open_[name]) & set(formulas)):
            solve(inner, (*chain, name))
        done[name] = evaluate(open_[name], {**units, **done})

    for name in open_:
        solve(name, ())
    return done


def as_number(amount: Amount, factor: float, wanted: Dims, where: str, text: str) -> Any:
    """Return a result in the unit of its key; values that are whole numbers become integers.

    Raises
    ------
    SpecError
        The result has another unit.
    """
    if amount.dims != wanted:
        raise SpecError(where, f"must be {in_words(wanted)}, but '= {text}' is {in_words(amount.dims)}")
    value = amount.value / factor
    near = round(value)
    is_integer = abs(value - near) <= 1e-9 * max(abs(value), 1.0)
    return near if is_integer else value
