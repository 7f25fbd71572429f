"""Names that a module declares for type checkers, loaded on first use (PEP 562)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FunctionType


def declared(module: str, file: str, *, scripts: bool = False) -> tuple[list[str], Callable[[str], object]]:
    """``__all__`` and ``__getattr__`` of a module: what it imports as itself, most under ``if TYPE_CHECKING:``.

    So each name stands once, and a plug-in loads what it uses and no more.

    Parameters
    ----------
    scripts : bool
        Functions name their arguments in errors, not options, see `workloads.errors.for_scripts`.

    Raises
    ------
    AttributeError
        When asked for another name.
    """
    homes = {
        alias.name: "." * node.level + (node.module or "")
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home = import_module(homes[name], module)  # a relative import's dots count from a package
        if not hasattr(home, name):
            import_module(f"{homes[name]}.{name}", module)  # a module itself
        value: object = getattr(home, name)
        if scripts and isinstance(value, FunctionType):
            value = import_module("opbyte.workloads.errors").for_scripts(value, name)
        setattr(sys.modules[module], name, value)
        return value

    vars(sys.modules[module])["__dir__"] = lambda: sorted(homes)  # a notebook completes these
    return sorted(homes), load
