"""Count syntax nodes by room, the change against a revision, and hold them to budgets.

``python .ci/lines.py [REVISION]``. A syntax node is what `ast.walk` yields, so formatting and comments do not
count. Exit code 1 if a budget is exceeded. Budgets may only fall: lower them in the commit that removes code.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("workloads", "devices", "simulator", "kernels", "analysis", "src")
PAPERS = ("analysis/papers", "workloads/layers/published")
"""Code that only single papers use. It counts as product code and has its own budget too."""
BUDGETS = {"product": 948_436, "papers": 64_327, "tests": 431_685, "files": 700, "docs": 8_948}
"""Nodes of product code, of `PAPERS` and of tests; files of product code; lines of ``docs/*.md``. A commit that raises one gives the reason."""
GOALS = {"product": 830_000, "tests": 385_000, "files": 700, "docs": 9_000}
"""What this round of simplification aims for."""
ENGLISH = {"docs": 18, "messages": 8, "docstrings": 258}
"""Hits of the patterns of `english.txt`, at most."""


def files_of(revision: str | None) -> dict[str, int]:
    """Syntax nodes of every Python file of the product and of the tests."""
    return {name: sum(1 for _ in ast.walk(ast.parse(data))) for name, data in _sources(revision)}


def _sources(revision: str | None) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the Python files, of the tree or of a revision."""
    folders = (*FOLDERS, "tests")
    if revision is None:
        paths = [p for f in folders for p in sorted((ROOT / f).rglob("*.py")) if not p.is_symlink()]
        real = {str(p.resolve().relative_to(ROOT)): p for p in paths if "egg-info" not in str(p)}
        yield from ((name, p.read_bytes()) for name, p in real.items())
        return
    names = _git("ls-tree", "-r", "--name-only", revision, "--", *folders).decode().splitlines()
    names = [name for name in names if name.endswith(".py")]
    blobs, at = _git("cat-file", "--batch", text="".join(f"{revision}:{n}\n" for n in names)), 0
    for name in names:
        end = blobs.index(b"\n", at)
        size = int(blobs[at:end].split()[2])
        yield name, blobs[end + 1 : end + 1 + size]
        at = end + size + 2


def _git(*words: str, text: str = "") -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout


def room_of(name: str) -> str:
    """Folder and room of a file; all papers are one room, and all tests."""
    if name.startswith(PAPERS):
        return "papers"
    parts = name.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 and parts[0] != "tests" else parts[0]


def rooms(files: dict[str, int]) -> Counter[str]:
    """Nodes by room."""
    out: Counter[str] = Counter()
    for name, nodes in files.items():
        out[room_of(name)] += nodes
    return out


def totals(files: dict[str, int]) -> dict[str, int]:
    """Counts by name of `BUDGETS`; the lines of docs are those of the tree."""
    by_room = rooms(files)
    return {
        "product": sum(by_room.values()) - by_room["tests"],
        "papers": by_room["papers"],
        "tests": by_room["tests"],
        "files": sum(not name.startswith("tests/") for name in files),
        "docs": sum(len(p.read_text().splitlines()) for p in (ROOT / "docs").glob("*.md")),
    }


def english() -> dict[str, int]:
    """Hits of the patterns of `english.txt` in docs, messages (strings of four words and more) and docstrings."""
    rows = [r for r in (ROOT / ".ci" / "english.txt").read_text().splitlines() if not r.startswith("#")]
    patterns = [re.compile(row.split(" ~ ")[0], re.IGNORECASE) for row in rows]
    texts: dict[str, list[str]] = {"docs": [], "messages": [], "docstrings": []}
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        prose = re.sub(r"```.*?```", " ", page.read_text(), flags=re.DOTALL)
        texts["docs"].append(re.sub(r"`[^`]*`", " ", re.sub(r"\]\([^)]*\)", "]", prose)))
    for name, data in _sources(None):
        if not name.startswith("tests/"):
            for is_docstring, text in _strings(ast.parse(data)):
                texts["docstrings" if is_docstring else "messages"].append(text)
    return {what: sum(len(p.findall("\n".join(found))) for p in patterns) for what, found in texts.items()}


def _strings(tree: ast.Module) -> Iterator[tuple[bool, str]]:
    """Docstrings (attributes' too), and other strings of four words and more."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for line in node.body:
                if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
                    docstrings.add(line.value)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if node in docstrings or len(node.value.split()) >= 4:
            yield node in docstrings, node.value


def main(revision: str | None) -> int:
    """Print the tables; 1 if a budget is exceeded."""
    now = files_of(None)
    before = files_of(revision) if revision else now
    for room in sorted({*rooms(now), *rooms(before)}):
        change = rooms(now)[room] - rooms(before)[room]
        print(f"{room:28}{rooms(now)[room]:9,}" + (f"{change:+9,}" if revision else ""))
    print()
    counts, was, over = totals(now), totals(before), []
    for name, most in BUDGETS.items():
        change = f" ({counts[name] - was[name]:+,})" if revision and name != "docs" else ""
        goal = f", goal {GOALS[name]:,}" if name in GOALS else ""
        print(f"{name}: {counts[name]:,}{change}, at most {most:,}{goal}")
        over += [name] * (counts[name] > most)
    for name, hits in english().items():
        print(f"unclear English in {name}: {hits:,} hits, at most {ENGLISH[name]:,}")
        over += [f"English in {name}"] * (hits > ENGLISH[name])
    if over:
        print(f"over the budget: {', '.join(over)}; remove something, or say in the commit why it must grow")
    return int(bool(over))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else None))
