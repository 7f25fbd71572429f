"""Are the examples in the docstrings true?"""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import opbyte


def _fail(name: str) -> None:
    raise ImportError(f"{name} cannot be imported")


def test_docstring_examples() -> None:
    names = ["opbyte"] + [
        module.name
        for module in pkgutil.walk_packages(opbyte.__path__, "opbyte.", onerror=_fail)
        if not module.name.endswith("__main__")
    ]
    ran = 0
    for name in names:
        result = doctest.testmod(importlib.import_module(name))
        assert result.failed == 0, f"{name}: {result.failed} examples fail, see the output above"
        ran += result.attempted
    assert ran, "no example was found: is the package complete?"
