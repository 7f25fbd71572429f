"""Constraints such as ``input_len + output_len <= 4096``: arithmetic on names, nothing else."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ....workloads.errors import InputError, nearest

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.USub: operator.neg, ast.Not: operator.not_,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
"""Powers are left out: a short one can take all memory. So can text times a number, see `_sum`."""
MAX_LENGTH = 500
OF_RUN = "run."
"""Prefix of a number in a run's result that is not a metric: ``run.energy.dram`` as in `simulate --json`."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked condition.

    Attributes
    ----------
    text : str
        As the user wrote it.
    names : frozenset of str
        What it depends on.
    """

    text: str
    names: frozenset[str]
    tree: ast.expr

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the condition is true; an undefined (None) or absent value makes it false."""
        if any(values.get(name) is None for name in self.names):
            return False
        try:
            return bool(_value(self.tree, values))
        except (ArithmeticError, TypeError):
            return False


def parse(text: object, where: str, known: Collection[str]) -> Expression:
    """Check a condition.

    Parameters
    ----------
    where : str
        What to call it in messages.
    known : collection of str
        Names it may use.

    Raises
    ------
    InputError
        Not a condition, or an unknown name.

    Examples
    --------
    >>> parse("tp * dp <= 8", "constraints[0]", {"tp", "dp"}).holds({"tp": 4, "dp": 4})
    False
    """
    example = "; write for example 'input_len + output_len <= 4096'"
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise InputError(where, f"must be a condition in quotes, not {text!r:.60}{example}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        names = frozenset(_names(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(where, f"{text!r} is not a condition{example}") from None
    for name in sorted(names):
        if name not in known and not name.startswith(OF_RUN):
            raise InputError(where, f"unknown name {name!r} in {text!r}{nearest(name, known)}")
    if not isinstance(tree, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
        raise InputError(where, f"{text!r} compares nothing{example}")
    return Expression(text.strip(), names, tree)


def _names(node: ast.expr) -> list[str]:
    """Names below a node; ValueError for anything that is not plain arithmetic."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        (head,) = _names(node.value) or [""]
        if f"{head}.".startswith(OF_RUN):
            return [f"{head}.{node.attr}"]
        raise ValueError(head)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
        return []
    if isinstance(node, ast.BoolOp):
        parts = node.values
    elif isinstance(node, ast.Compare) and all(type(op) in OPERATORS for op in node.ops):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        parts = [node.left, node.right]
        if any(isinstance(p, ast.Constant) and isinstance(p.value, str) for p in parts):
            raise ValueError("arithmetic on text")
    elif isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        parts = [node.operand]
    else:
        raise ValueError(type(node).__name__)
    return [name for part in parts for name in _names(part)]


def _sum(node: ast.BinOp, left: Any, right: Any) -> Any:
    """Arithmetic on numbers; on text, which Python repeats and formats, a TypeError."""
    if isinstance(left, str) or isinstance(right, str):
        raise TypeError("arithmetic on text")
    return OPERATORS[type(node.op)](left, right)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, (ast.Name, ast.Attribute)):
        return values[_names(node)[0]]
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BoolOp):
        every = isinstance(node.op, ast.And)
        parts = (bool(_value(v, values)) for v in node.values)
        return all(parts) if every else any(parts)
    if isinstance(node, ast.BinOp):
        return _sum(node, _value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.UnaryOp):
        return OPERATORS[type(node.op)](_value(node.operand, values))
    assert isinstance(node, ast.Compare)
    left = _value(node.left, values)
    for op, side in zip(node.ops, node.comparators, strict=True):
        right = _value(side, values)
        if not OPERATORS[type(op)](left, right):
            return False
        left = right
    return True
