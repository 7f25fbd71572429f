"""Do imports point downwards only, and does importing the package stay cheap?

Expected values are the layer table of CONTRIBUTING.md: workloads <- devices <- simulator <- analysis,
workloads <- kernels, analysis may import all.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BELOW = {
    "workloads": {"workloads"},
    "devices": {"devices", "workloads"},
    "simulator": {"simulator", "devices", "workloads"},
    "kernels": {"kernels", "workloads"},
    "analysis": {"analysis", "simulator", "kernels", "devices", "workloads"},
}

# Where a slow or optional package may be imported at the top of a module; a prefix of the path.
AT_TOP = {
    "cupy": (),
    "cupyx": (),
    "dask": (),
    "distributed": (),
    "matplotlib": ("analysis/plot", "analysis/papers/figures/"),
    "simpy": ("simulator/", "devices/dram"),
    "numba": ("workloads/", "devices/", "simulator/", "kernels/"),
    "pandas": ("workloads/", "simulator/", "kernels/", "analysis/"),
    "scipy": (),
}

LAZY = {"numba", "pandas", "matplotlib", "simpy", "pydantic", "scipy", "cupy", "dask"}

MODULES = sorted(p.relative_to(ROOT) for folder in BELOW for p in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """A file as it is parsed once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> tuple[tuple[int, str, bool], ...]:
    """Line, target and whether it runs on import, of every import of a module.

    A target inside the package is written ``.folder...``; ``.`` is the package itself.
    """
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    package = path.relative_to(ROOT).parent.parts
    later = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(path)):
        now = id(node) not in later
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, now) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or "", now
        elif isinstance(node, ast.ImportFrom):
            depth = len(package) - node.level + 1
            assert depth >= 0, f"{path}:{node.lineno} leaves the package"
            base = [*package[:depth], *(node.module or "").split(".")]
            inside = ".".join(part for part in base if part)
            names = [alias.name for alias in node.names] if not inside else [""]
            yield from ((node.lineno, f".{inside}{name}", now) for name in names)


def is_paper(module: Path) -> bool:
    """Whether a module is of the papers, which are written as anybody's package."""
    return module.is_relative_to("analysis/papers")


def test_papers_import_the_face_alone() -> None:
    """And each other; nothing of the library imports them but by their entry point."""
    inside = [
        (module, target) for module in MODULES if is_paper(module)
        for _, target, _ in imports(ROOT / module) if target.startswith((".", "opbyte"))
    ]  # fmt: skip
    assert not [t for t in inside if not t[1].startswith((".analysis.papers", "opbyte.extend"))]


def test_nothing_imports_papers() -> None:
    others = [module for module in MODULES if not is_paper(module)]
    assert not [
        (module, target)
        for module in others
        for _, target, _ in imports(ROOT / module)
        if target.startswith((".analysis.papers", "opbyte.analysis.papers", "opbyte.extend"))
    ]


def test_every_folder_is_checked() -> None:
    assert {path.parts[0] for path in MODULES} == set(BELOW)


def test_imports_point_downwards() -> None:
    wrong = []
    for module in MODULES:
        folder = module.parts[0]
        for line, target, _ in imports(ROOT / module):
            if target.startswith("."):
                top = target[1:].split(".")[0]
                if top not in BELOW[folder] and top not in ("_version", "_lazy"):
                    wrong.append(f"{module}:{line}: {folder} may not import {top}")
            elif target.split(".")[0] in {"opbyte", *BELOW} and not is_paper(module):
                wrong.append(f"{module}:{line}: {target} must be a relative import")
    assert not wrong


def test_slow_packages_are_imported_where_they_are_used() -> None:
    wrong = [
        f"{module}:{line}: import {target} inside the function that needs it"
        for module in MODULES
        for line, target, now in imports(ROOT / module)
        if now and not module.as_posix().startswith(AT_TOP.get(target.split(".")[0], ("",)))
    ]
    assert not wrong


CIRCLES = ({"simulator.fpga.engine", "simulator.fpga.schedules"},)
"""Circles that stay: a type only."""


@cache
def graph() -> dict[str, set[str]]:
    """Module -> modules it imports, in functions and for types too."""
    files = {".".join(p.with_suffix("").parts).removesuffix(".__init__"): p for p in MODULES}
    out: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        package = path.parent.parts
        for node in ast.walk(tree(ROOT / path)):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
                above = ".".join(part for part in base if part)
                for alias in node.names:
                    inner = f"{above}.{alias.name}"
                    out[name].add(inner if inner in files else above)
        out[name] = (out[name] & set(files)) - {name}
    return out


def reached(links: dict[str, set[str]], start: str) -> set[str]:
    """Everything that a module imports, through others too."""
    found: set[str] = set()
    left = [start]
    while left:
        new = links[left.pop()] - found
        found |= new
        left += new
    return found


def test_no_import_goes_in_a_circle() -> None:
    links = graph()
    within = {name: reached(links, name) for name in links}
    circles = {frozenset(other for other in found if name in within[other]) for name, found in within.items()}
    assert {c for c in circles if c} <= {frozenset(c) for c in CIRCLES}


FLOORS = {
    "simulator": (
        "limits streams quantity", "part", "registry", "option", "deploy", "step training", "engine", "results", "fleet", "frameworks", "scenario",
    ),
    "analysis": (
        "plots", "show", "parallel", "answers", "studies validate reproduce", "live reference",
        "report names",
        "commands", "cli", "manual",
    ),
}  # fmt: skip
"""Rooms of a folder from the lowest floor up. A room may import those below it; the answer's figure
is the one thing that `show` takes from `plots`."""


@pytest.mark.parametrize("folder", FLOORS)
def test_rooms_import_downwards_only(folder: str) -> None:
    floor = {room: i for i, rooms in enumerate(FLOORS[folder]) for room in rooms.split()}

    def room(module: str) -> str:
        top, _, rest = module.partition(".")
        return rest.partition(".")[0] if top == folder else ""

    links = {(m, other) for m, others in graph().items() for other in others}
    arrows = {(room(m), room(other)) for m, other in links} - {(name, name) for name in floor}
    inside = {(a, b) for a, b in arrows if a and b and a != b and "papers" not in (a, b)}
    known_by = {a for a, b in inside if b == "parts" != a}
    assert known_by <= {"frameworks", "fpga"}, "the core knows no part"  # engine files set options of some
    inside = {(a, b) for a, b in inside if "parts" not in (a, b)}
    assert {name for arrow in inside for name in arrow} == set(floor)
    assert not [(a, b) for a, b in inside if floor[a] <= floor[b]]


AMONG_PARTS = 20
"""Pairs of parts one of which imports the other; it may only fall: what several need is the core's."""


def test_parts_know_little_of_each_other() -> None:
    def part(module: str) -> str:
        return module.split(".")[2] if module.startswith("simulator.parts.") and module.count(".") > 2 else ""

    arrows = {(part(m), part(other)) for m, others in graph().items() for other in others}
    assert len({(a, b) for a, b in arrows if a and b and a != b}) <= AMONG_PARTS


def loaded_by(code: str) -> set[str]:
    """Top-level packages a fresh interpreter holds after running `code`."""
    report = "import json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n{code}\n{report}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_import_opbyte_is_light() -> None:
    assert not loaded_by("import opbyte") & LAZY


def test_help_is_light() -> None:
    code = (
        "sys.argv = ['opbyte', '--help']\n"
        "from opbyte.analysis.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert not loaded_by(code) & LAZY


def test_the_checker_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The import reader resolves levels, marks deferred imports and keeps absolute names."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "devices" / "sub" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import numpy as np\n"
        "from ..spec import A\n"
        "from ...simulator.engine import B\n"
        "from ... import analysis\n"
        "from . import y\n"
        "if TYPE_CHECKING:\n    import pandas\n"
        "def f():\n    import cupy\n"
    )
    assert sorted(imports(path)) == [
        (1, "numpy", True),
        (2, ".devices.spec", True),
        (3, ".simulator.engine", True),
        (4, ".analysis", True),
        (5, ".devices.sub", True),
        (7, "pandas", False),
        (9, "cupy", False),
    ]
