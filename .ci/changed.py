"""Test files that a change may touch, by the import graph, the nearest first.

``python .ci/changed.py [REVISION]``: of what differs from a revision (the merge base with main), one path
a line. A test file counts where it, or a module that it imports however far down, in functions too, has
changed. A file that is no module (a description, a table) counts for every test that imports its folder.
Test files that import what has changed come first, then those that import what imports it, and so on: what a
change breaks is mostly seen by the first few.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("workloads", "devices", "simulator", "kernels", "analysis")
SOURCE = "src/opbyte/"
AGAINST_REFERENCES = {
    "simulator/engine/": ("uncompiled", "scheduler", "policies", "prefix_cache"),
    "simulator/parts/": ("uncompiled", "composed", "parts_together"),
    "simulator/engine/kv": ("recorded",),
    "simulator/engine/planning": ("validate_schedules",),
    "simulator/results/": ("recorded",),
    "devices/co": ("recorded",),
    "analysis/studies/": ("recorded",),
    "analysis/answers/price": ("recorded",),
}
"""Tests against slow references and recorded outcomes, by folder: they see most of what goes wrong there, and come first.
The first of all compile nothing."""
DOCTESTS = "tests/test_doctests.py"
"""Imports modules by their names; it counts where one that has changed has examples."""
EVERYTHING = ("pyproject.toml", "setup.py", "tests/conftest.py")


@cache
def modules() -> dict[str, str]:
    """Dotted name below ``opbyte`` -> path, of every module of the library."""
    out = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT)
            out[".".join(name.with_suffix("").parts).removesuffix(".__init__")] = str(name)
    for path in (ROOT / SOURCE).rglob("*.py"):
        name = path.relative_to(ROOT / SOURCE)
        if name.parts[0] not in FOLDERS:
            dotted = ".".join(name.with_suffix("").parts).removesuffix("__init__").rstrip(".")
            out[dotted] = f"{SOURCE}{name}"
    return out


@cache
def imported(path: str) -> frozenset[str]:
    """Paths of the library's modules that a file imports itself."""
    known, out = modules(), set[str]()
    text = (ROOT / path).read_text(encoding="utf-8")
    if "home=__package__" in text:  # it imports what lies there
        out |= {other for other in known.values() if Path(other).parent == Path(path).parent}
    if path == "simulator/registry.py":  # it imports parts by their place, and these name modules in texts
        out |= {other for name, other in known.items() if name.startswith("simulator.parts.")}
    if '"commands.yaml"' in text:  # each command's function is imported by its name
        listed = (ROOT / path).with_name("commands.yaml").read_text(encoding="utf-8")
        out |= {known[f"analysis.{name}"] for name in re.findall(r"call: ([\w.]+):", listed)}
    for name in _names(path):
        parts = name.split(".")
        for end in range(len(parts), 0, -1):  # the module, or what it is taken from
            if (found := known.get(".".join(parts[:end]))) is not None:
                out.add(found)
                break
        out |= {known[".".join(parts[:i])] for i in range(1, len(parts)) if ".".join(parts[:i]) in known}
    return frozenset(out)


def _names(path: str) -> Iterator[str]:
    """Dotted names below ``opbyte`` that a file imports."""
    package = Path(path.removeprefix(SOURCE)).parent.parts
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name[7:] for a in node.names if a.name.startswith("opbyte."))
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            elif node.module and node.module.split(".")[0] == "opbyte":
                base = node.module.split(".")[1:]
                if len(node.module.split(".")) == 1:  # a public name, from where the package has it
                    yield from (public()[a.name] for a in node.names if a.name in public())
            else:
                continue
            above = ".".join(part for part in base if part)
            yield from (f"{above}.{a.name}".lstrip(".") for a in node.names)


@cache
def public() -> dict[str, str]:
    """Public name of the package -> dotted name below ``opbyte`` of where it comes from."""
    tree = ast.parse((ROOT / SOURCE / "__init__.py").read_text(encoding="utf-8"))
    return {
        alias.name: f"{(node.module or '').removeprefix('opbyte.')}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opbyte.")
        for alias in node.names
    }


@cache
def below(path: str) -> dict[str, int]:
    """A file and every module of the library that it imports, however far down, with the imports in between."""
    found, level, steps = {path: 0}, {path}, 0
    while level:
        steps += 1
        level = set().union(*map(imported, level)) - found.keys()
        found |= dict.fromkeys(level, steps)
    return found


@cache
def beside(test: str) -> list[str]:
    """Helpers of a test file that lie in tests/, its folder's fixtures among them where it has the command line."""
    text = (ROOT / test).read_text(encoding="utf-8")
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = Path(test).parents[node.level - 1]
            found.append(folder / f"{(node.module or '').replace('.', '/')}.py")
    found += [Path(test).parent / name for name in re.findall(r'"(test_\w+\.py)"', text)]  # which it runs
    if "ask" in text:
        found.append(Path(test).parent / "conftest.py")
    return [str(path) for path in found if (ROOT / path).is_file()]


def chosen(changed: Iterable[str]) -> list[str]:
    """Test files that a change of some files may touch, the nearest first."""
    changed = set(changed)
    tests = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("test_*.py"))
    if changed & set(EVERYTHING):
        return tests
    code = {name for name in changed if name.endswith(".py")}
    folders = tuple(f"{name.split('/')[0]}/" for name in changed - code if name.startswith(FOLDERS))
    helpers = {str(Path(name).parent) for name in code if name.startswith("tests/") and "/test_" not in name}
    names = {word for name in code for word in _words(name)}
    out: dict[str, tuple[int, ...]] = {}
    for test in tests:
        reached: dict[str, int] = {}
        for file in (test, *beside(test)):
            for name, steps in below(file).items():
                reached[name] = min(steps, reached.get(name, steps))
        touched = [steps for name, steps in reached.items() if name in code or (folders and name.startswith(folders))]
        if test == DOCTESTS and any(_has_examples(name) for name in code):
            touched = [1]
        if touched or str(Path(test).parent) in helpers:
            first = any(
                name.startswith(f) and Path(test).stem[5:] in AGAINST_REFERENCES[f]
                for name in code
                for f in AGAINST_REFERENCES
            )
            first += Path(test).stem[5:] == "uncompiled"
            room = {Path(name).parts[0] for name in code} & {*Path(test).parts}
            out[test] = (-first, min(touched, default=0), -len(names & _words(test)), -len(room), len(reached))
    if any(name.endswith((".md", ".ipynb")) for name in changed):
        out |= dict.fromkeys(("tests/test_docs.py", "tests/test_notebooks.py"), (-1,))
    return sorted(out, key=lambda test: out[test])


def _has_examples(path: str) -> bool:
    """Return whether a module of the library has examples in its docstrings."""
    file = ROOT / path
    return path.startswith(FOLDERS) and file.is_file() and ">>> " in file.read_text(encoding="utf-8")


def _words(path: str) -> set[str]:
    """Words of a module's name: a test file that shares one is near."""
    return {*Path(path).stem.removeprefix("test_").rstrip("s").split("_")}


def main(revision: str | None) -> None:
    """Print the files."""

    def git(*words: str) -> list[str]:
        run = subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        return run.stdout.split()

    since = revision or git("merge-base", "HEAD", "main")[0]
    changed = {*git("diff", "--name-only", since), *git("ls-files", "--others", "--exclude-standard")}
    print("\n".join(chosen(changed)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
