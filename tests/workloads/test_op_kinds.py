"""What is true of an op is said by its kind (`workloads.ops.OpKind`): who asks for it by a string instead?"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("workloads", "devices", "simulator", "analysis", "kernels")
MOST = 102
"""Comparisons with a kind, name or layer that are left, papers' 20 among them: cost models that read shapes of few
kinds, and parts of a program found by name. A new one is a property of `OpKind` or `Op` instead.
Training finds by name what modules keep and offload (11), a step the ops that run in chunks (1)."""


def is_op(node: ast.expr) -> bool:
    """Whether an expression is an op: ``op``, or ``x.op``."""
    return (isinstance(node, ast.Name) and node.id == "op") or (isinstance(node, ast.Attribute) and node.attr == "op")


def asked(node: ast.expr) -> bool:
    """Whether an expression is an op's kind, name or layer."""
    word = isinstance(node, ast.Attribute) and node.attr in ("kind", "name", "layer")
    return word and is_op(node.value)


def compares(node: ast.AST) -> bool:
    """Whether a node compares an op's kind, name or layer with words."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("startswith", "endswith") and asked(node.func.value)
    if not isinstance(node, ast.Compare) or not asked(node.left):
        return False
    other = node.comparators[0]
    text = isinstance(other, ast.Constant) and isinstance(other.value, str)
    return text or isinstance(other, (ast.Tuple, ast.Set, ast.JoinedStr, ast.Name))


def test_ops_are_asked_by_properties() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if compares(node)
    ]
    assert len(found) <= MOST, found
    assert len(found) > 50  # the counter sees some
