"""Is every module of one concept short, and does every function fit a screen? Rule 6 of the style.

A docstring does not count as lines of its function: it is there for `help()`.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("workloads", "devices", "simulator", "kernels", "analysis")
MODULES = sorted(p.relative_to(ROOT) for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))

MODULE_LINES, FUNCTION_LINES = 400, 60
"""A module and a function stay below."""

LONG: dict[str, str] = {}
"""``path:function`` -> why it is longer: only what would run slower in parts, with the ratio."""


CORE = ("deploy", "step", "engine", "fleet", "results", "parts")
MOST_PARAMETERS = 8
LEAST_MODULES, MOST_MODULES = 3, 25
"""Of a room of the core, so that a reader keeps its parts in mind."""
POSITIONS = 11
"""Lists of the simulator whose columns are numbered one by one (`range(n)`): records (`workloads.records`) have names."""


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Name of every function, and its lines without those of its docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                first = node.body[0]
                assert first.end_lineno is not None
                lines -= first.end_lineno - first.lineno + 1
            yield node.name, lines


@cache
def every() -> dict[str, int]:
    """``path:function`` -> lines, of all modules; ``path`` -> those of the module."""
    found: dict[str, int] = {}
    for module in MODULES:
        text = (ROOT / module).read_text(encoding="utf-8")
        found[module.as_posix()] = len(text.splitlines())
        for name, lines in functions(text):
            key = f"{module.as_posix()}:{name}"
            found[key] = max(lines, found.get(key, 0))
    return found


def test_modules_and_functions_are_short() -> None:
    most = {name: FUNCTION_LINES if ":" in name else MODULE_LINES for name in every()}
    assert not {n: k for n, k in every().items() if k >= most[n] and n not in LONG}


def test_what_may_be_longer_is() -> None:
    """An exception that nothing needs any more goes."""
    assert not [name for name in LONG if every().get(name, 0) < FUNCTION_LINES]


SHARED = {
    "Roofline": "a cost model, and the answer to `roofline`, whose class names its file",
    "Run": "how a layer's ops are run, a name of the extension's face, and what a simulation leaves",
    "State": "what a layer keeps per sequence, a name of the extension's face, and the arrays of an engine",
}
"""Names that two classes have, in rooms of their own, papers left out, and why they stay."""


def test_class_names_mean_one_thing() -> None:
    """A name says what a class is wherever one reads it: 90 and more were shared before."""
    where: dict[str, set[Path]] = defaultdict(set)
    for module in MODULES:
        if module.parts[:2] != ("analysis", "papers"):
            for node in ast.parse((ROOT / module).read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    where[node.name].add(module)
    shared = {name: sorted(map(str, found)) for name, found in where.items() if len(found) > 1}
    assert set(shared) == set(SHARED), shared


def test_the_counter_itself() -> None:
    text = 'def f():\n    """One.\n\n    Two.\n    """\n    def g():\n        return 1\n    return g\n'
    assert dict(functions(text)) == {"f": 4, "g": 2}


def test_functions_of_the_core_take_few_parameters() -> None:
    """Those that are given by name alone do not count: a call says what they are."""
    found = {}
    for room in CORE:
        for path in sorted((ROOT / "simulator" / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef):
                    own = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
                    found[f"{room}/{path.relative_to(ROOT / 'simulator' / room)}:{node.name}"] = len(own)
    assert not {name: count for name, count in found.items() if count > MOST_PARAMETERS}


def test_rooms_of_the_core_are_small() -> None:
    modules = {room: len(list((ROOT / "simulator" / room).glob("*.py"))) - 1 for room in CORE if room != "parts"}
    assert min(modules.values()) >= LEAST_MODULES, modules
    assert max(modules.values()) <= MOST_MODULES, modules


def test_columns_have_names() -> None:
    text = [path.read_text(encoding="utf-8") for path in (ROOT / "simulator").rglob("*.py")]
    assert sum(len(re.findall(r"^[^#\n]*\) = range\(\d+\)", own, re.MULTILINE)) for own in text) <= POSITIONS
