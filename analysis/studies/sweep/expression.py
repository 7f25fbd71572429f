"""Constraints such as ``input_len + output_len <= 4096``: arithmetic on names, nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from ....workloads.errors import InputError, errors_in, nearest
from ....workloads.latencies import column_of

NODES = (
    ast.Name, ast.Load, ast.Constant, ast.BoolOp, ast.And, ast.Or, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div,
    ast.FloorDiv, ast.Mod, ast.UnaryOp, ast.USub, ast.Not, ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq,
    ast.NotEq,
)  # fmt: skip
"""What a condition may consist of. Powers are left out: a short one can take all memory. So can text times a number."""
MAX_LENGTH = 500
DECIMAL, WRITTEN = re.compile(r"(_p\d+)\.(?=\d)"), re.compile(r"(_p\d+)__(?=\d)")
"""The decimal point of a percentile, which is not allowed in a Python name, and its replacement."""
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
    numbers : frozenset of str
        Those in arithmetic, which must be numbers.
    code : CodeType
        The compiled condition.
    """

    text: str
    names: frozenset[str]
    numbers: frozenset[str]
    code: CodeType

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the condition is true; an undefined (None) or absent value makes it false."""
        if any(values.get(name) is None for name in self.names):
            return False
        if any(isinstance(values[name], str) for name in self.numbers):
            return False
        try:
            return bool(eval(self.code, {"__builtins__": {}}, dict(values)))  # only `NODES`
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
        plain = ast.parse(DECIMAL.sub(r"\1__", text.strip()), mode="eval")
        with errors_in(where):
            tree = ast.fix_missing_locations(_Dotted().visit(plain))
        names = _names(tree.body)
        numbers = frozenset(n for node in ast.walk(tree) if isinstance(node, ast.BinOp) for n in _names(node, False))
        code = compile(tree, "condition", "eval")
    except InputError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(where, f"{text!r} is not a condition{example}") from None
    for name in sorted(names):
        if name not in known and not name.startswith(OF_RUN):
            raise InputError(where, f"unknown name {name!r} in {text!r}{nearest(name, known)}")
    if not isinstance(tree.body, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
        raise InputError(where, f"{text!r} compares nothing{example}")
    return Expression(text.strip(), names, numbers, code)


class _Dotted(ast.NodeTransformer):
    """Makes one name of the path of a number of a run, and writes names of latencies as tables do."""

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Return ``ttft_p99.9`` as one name."""
        return ast.Name(column_of(WRITTEN.sub(r"\1.", node.id)), ast.Load())

    def visit_Attribute(self, node: ast.Attribute) -> ast.Name:
        """Return ``run.energy.dram`` as one name."""
        head = self.visit(node.value)
        if not isinstance(head, ast.Name) or not f"{head.id}.".startswith(OF_RUN):
            raise ValueError(node.attr)
        return ast.Name(f"{head.id}.{node.attr}", ast.Load())


def _names(tree: ast.expr, text: bool = True) -> frozenset[str]:
    """Names below a node; ValueError for anything that is not plain arithmetic, or for text unless it is allowed."""
    kinds = (int, float, str) if text else (int, float)
    nodes = [*ast.walk(tree)]
    if not all(isinstance(n, NODES) and (not isinstance(n, ast.Constant) or isinstance(n.value, kinds)) for n in nodes):
        raise ValueError(ast.unparse(tree))
    return frozenset(node.id for node in nodes if isinstance(node, ast.Name))
