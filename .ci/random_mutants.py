"""Random faults in the code that decides: ``python .ci/random_mutants.py [COUNT [SEED [LIMIT_S]]]``.

Each mutant changes one place of one of `DECIDES`, drawn evenly over these files: a comparison, an operator, a number, a
condition or a statement. The tests that ``make test CHANGED=1`` selects for the file run in its order, the nearest
first, until the first that fails with the mutant and passes without it, or for ``LIMIT_S`` seconds of an idle
processor: where others share it, a second of processor time does less work, and counts by what a fixed loop takes.
The same seed draws the same mutants of the same tree.
A mutant that no compiled function holds meets the compiled code of the tree without it (`is_plain`): half a minute less.
"""

from __future__ import annotations

import ast
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import changed
import mutants

DECIDES = (
    "analysis/studies/stationary.py", "analysis/studies/backlog.py", "analysis/studies/loads.py",
    "analysis/studies/capacity.py", "analysis/studies/plan/best.py", "analysis/studies/plan/bounds.py",
    "analysis/studies/plan/candidates.py", "analysis/studies/plan/search.py", "analysis/studies/plan/spares.py",
    "analysis/studies/plan/trial.py", "analysis/answers/price.py", "simulator/results/steady.py",
    "simulator/engine/planning.py", "simulator/engine/kv.py", "simulator/engine/allocation.py",
    "simulator/engine/prefix.py", "simulator/engine/queues.py", "simulator/step/prices.py",
    "simulator/parts/kv_tiers/store.py", "devices/cost.py", "devices/collectives/exchanges.py",
    "devices/collectives/plans.py", "devices/collectives/plans.py",
)  # fmt: skip
COMPARED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is not": "is", "is": "is not",
            "not in": "in", "in": "not in"}  # fmt: skip
OPERATORS = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "+", "&": "|", "|": "&", "**": "*"}
NEVER_COMPILED = ("dataclass", "property", "cached_property", "classmethod", "staticmethod", "cache", "abstractmethod")
SMALLER = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}


class Mutant(NamedTuple):
    """Bytes ``[begin, end)`` of a file that become others."""

    path: str
    line: int
    begin: int
    end: int
    new: str


class Places(ast.NodeVisitor):
    """Places of a file where a fault may be put; annotations, decorators, refusals and texts are left out."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source, self.found = path, source, list[Mutant]()
        starts = [0, *(m.end() for m in re.finditer(rb"\n", source))]
        self.at = lambda line, column: starts[line - 1] + column
        self.visit(ast.parse(source))

    def put(self, node: ast.AST, new: str) -> None:
        """Let another text stand in the place of a node."""
        begin, end = self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)
        self.found.append(Mutant(self.path, node.lineno, begin, end, new))

    def between(self, left: ast.expr, right: ast.expr, other: dict[str, str]) -> None:
        """Exchange the operator between two operands."""
        begin, end = self.at(left.end_lineno, left.end_col_offset), self.at(right.lineno, right.col_offset)
        text = self.source[begin:end].decode()
        words = "|".join(re.escape(word) for word in sorted(other, key=len, reverse=True))
        if sign := re.search(words, text):
            begin += len(text[: sign.start()].encode())
            new = other[sign.group()]
            self.found.append(Mutant(self.path, left.end_lineno or 0, begin, begin + len(sign.group()), new))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (node.args, *node.body):
            self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:
            self.visit(part)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        pass

    visit_Raise = visit_JoinedStr = visit_Assert = visit_arg

    def visit_Compare(self, node: ast.Compare) -> None:
        self.between(node.left, node.comparators[0], COMPARED)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.between(node.left, node.right, OPERATORS)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.between(node.values[0], node.values[1], {"and": "or", "or": "and"})
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            self.put(node, f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.put(node, str(not node.value))
        elif isinstance(node.value, int):
            self.put(node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.put(node, str(2 * node.value or 1.0))

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in SMALLER:
            self.put(node.func, SMALLER[node.func.id])
        elif isinstance(node.func, ast.Attribute) and node.func.attr in SMALLER:
            self.put(node.func, f"{ast.unparse(node.func.value)}.{SMALLER[node.func.attr]}")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.put(node.test, "False")
            self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.put(node.test, f"not ({ast.unparse(node.test)})")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.put(node, "pass")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.put(node, "pass")
            self.generic_visit(node)


def drawn(count: int, seed: int) -> Iterator[Mutant]:
    """Mutants of the tree, evenly over `DECIDES`, none twice."""
    draw, left = random.Random(seed), {}
    for path in DECIDES:
        left[path] = Places(path, (mutants.ROOT / path).read_bytes()).found
        draw.shuffle(left[path])
    for i in range(count):
        if i % len(DECIDES) == 0:
            order = draw.sample(DECIDES, len(DECIDES))
        yield left[order[i % len(DECIDES)]].pop()


def is_plain(mutant: Mutant) -> bool:
    """Whether a mutant lies in a function that stays Python: nothing marks it, and nothing compiles it by its name."""
    if mutant.path.startswith("analysis/"):
        return True
    line, around, source = mutant.line, list[ast.FunctionDef | ast.ClassDef](), (mutants.ROOT / mutant.path).read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.lineno <= line <= (node.end_lineno or 0):
            around.append(node)
    names = [node.name for node in around if isinstance(node, ast.FunctionDef)]
    marks = [re.split(r"[.(]", ast.unparse(mark))[0] for node in around for mark in node.decorator_list]
    by_name = re.compile(rf"(?:compiled\w*\(|otherwise=)[^)\n]*\b(?:{'|'.join(names)})\b")
    sources = (mutants.ROOT / folder for folder in ("devices", "simulator", "workloads"))
    return (
        bool(names)
        and ({*marks} <= {*NEVER_COMPILED} or "jit" not in source)
        and not any(by_name.search(file.read_text()) for folder in sources for file in folder.rglob("*.py"))
    )


def compiled_before(tree: Path) -> str:
    """Name of the folder of a tree's compiled code."""
    asked = "from opbyte.workloads.jit import cache_dir; print(cache_dir().name)"
    said = subprocess.check_output([sys.executable, "-c", asked], cwd=tree, env=surroundings(tree), text=True)
    return said.strip()


def surroundings(tree: Path) -> dict[str, str]:
    """Environment of a tree's tests, whose modules are compiled to bytecode once."""
    kept = {name: x for name, x in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(tree / "src"), "OPBYTE_CACHE": str(mutants.ROOT / ".cache")}


anyway: list[str] = []
"""Tests that fail without a mutant too: they catch none."""
loops: list[float] = []
"""Seconds of a processor of every fixed loop so far; the shortest is an idle processor's."""


def slowness() -> float:
    """How many times as long as on an idle processor work takes now."""
    begun = time.process_time()
    sum(i * i for i in range(2_000_000))
    loops.append(time.process_time() - begun)
    return loops[-1] / min(loops)


def tests_of(tree: Path, tests: list[str], cpu_s: float, others: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run tests of a tree until the first that fails, for some seconds of a processor; `others` change its surroundings."""
    return subprocess.run(
        ["prlimit", f"--cpu={int(cpu_s) + 1}", sys.executable, "-m", "pytest", "-q", "-x", "-n", "0",
         "-p", "no:cacheprovider", "--no-header", *tests],
        cwd=tree, env=surroundings(tree) | others, capture_output=True, text=True, check=False,
    )  # fmt: skip


@cache
def fails_anyway(tests: str) -> bool:
    """Whether tests fail in the committed tree too, where no mutant is."""
    with tempfile.TemporaryDirectory() as name:
        return tests_of(mutants.copy(Path(name)), tests.split(), 1200.0, {}).returncode not in (0, 5)


def catch(tree: Path, mutant: Mutant, limit_s: float, plain: bool) -> str:
    """What ends the tests of a mutant, which `is_plain` or not: the first that it fails, their end, or the limit of their work."""
    left = [t for t in changed.chosen([mutant.path]) if "/benchmarks/" not in t]
    own = {} if plain else {"OPBYTE_CACHE": str(tree / ".cache")}
    spent, passed, size = 0.0, 0, 1
    before = slowness()
    while left and spent < limit_s:
        some, left, size = left[:size], left[size:], min(2 * size, 8)
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        without = [f"--deselect={test}" for test in anyway]
        run = tests_of(tree, [*without, *some], 2 * before * (limit_s - spent), own)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        after = slowness()
        spent += (ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime) / ((before + after) / 2)
        before = after
        if run.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            break
        if run.returncode not in (0, 5):
            failed = [*re.findall(r"^(?:FAILED|ERROR) ([^\s[]+)", run.stdout, re.MULTILINE), " ".join(some)][0]
            if not fails_anyway(failed):
                return f"caught after {spent:.0f} s by {failed}, exit code {run.returncode}"
            print(f"{failed} fails without a mutant too", flush=True)
            anyway.append(failed)
            left = [t for t in some if t not in failed.split()] + left
            continue
        passed += len(some)
    return f"{'? ' if left else ''}ALIVE after {spent:.0f} s, {passed} files of tests pass, then {left[:1]}"


def main(count: int = 60, seed: int = 0, limit_s: float = 150.0) -> None:
    """Try random mutants one after another, and say which test catches each."""
    with tempfile.TemporaryDirectory() as name:
        tree = mutants.copy(Path(name))
        folder, jit = compiled_before(tree), tree / "workloads/jit.py"
        asis = jit.read_text()
        caught = undecided = 0
        for i, mutant in enumerate(drawn(count, seed), 1):
            file = tree / mutant.path
            source = file.read_bytes()
            file.write_bytes(source[: mutant.begin] + mutant.new.encode() + source[mutant.end :])
            plain = is_plain(mutant)
            jit.write_text(asis.replace("digest.hexdigest()[:16]", repr(folder)) if plain else asis)
            said = catch(tree, mutant, limit_s, plain)
            caught += said.startswith("caught")
            undecided += said.startswith("?")
            line = source.splitlines()[mutant.line - 1].decode().strip()
            old = source[mutant.begin : mutant.end].decode()
            print(f"{i} {mutant.path}:{mutant.line} {old!r} -> {mutant.new!r} in `{line}`: {said}", flush=True)
            file.write_bytes(source)
    print(f"{caught} of {count} caught, {undecided} undecided")


if __name__ == "__main__":
    print(__doc__) if "--help" in sys.argv else main(*map(int, sys.argv[1:]))
