"""Lines of product code by room, the change against a revision, and committed budgets.

``python .ci/lines.py [REVISION]``: lines of Python files as they stand, blank ones and comments among
them, of every room; with a revision also how many more than there. Exit code 1 where a budget is passed.
What a budget is for is written beside it: it is raised by a commit that says what came for it and what went.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("workloads", "devices", "simulator", "kernels", "analysis", "src")
APART = ("analysis/papers", "workloads/layers/published")
"""What is of single papers has a budget of its own."""
BUDGETS = {"product": 112_500, "papers": 9_150}
"""Lines of all product code but `APART`, and of `APART`. Product code grew by what serves the models, formats and
cards of 2026 (layer kinds, families of configurations, image towers, fourteen kernel families), by
`opbyte design` and by capacity that is stationary; two loops, two planners and the driver's twins went. Lines have
120 columns since; at 100 there were 3,800 more. What single papers alone use moved behind their wall (kinds of
processors, heads, orders of streams, figures: 1,040 lines), which papers' budget follows. It may only fall from here."""
GOAL = 112_500
"""Lines of product code wanted."""


def files_of(revision: str | None) -> dict[str, int]:
    """Lines of every Python file of the product, of the tree or of a revision."""
    if revision is None:
        found = [p for f in FOLDERS for p in (ROOT / f).rglob("*.py") if not p.is_symlink()]
        real = {str(p.resolve().relative_to(ROOT)): p for p in found if "egg-info" not in str(p)}
        return {name: _lines(p.read_bytes()) for name, p in real.items()}
    listed = _git("ls-tree", "-r", "--name-only", revision, "--", *FOLDERS).decode().splitlines()
    names = [name for name in listed if name.endswith(".py")]
    out = {}
    blobs = _git("cat-file", "--batch", text="".join(f"{revision}:{n}\n" for n in names))
    at = 0
    for name in names:
        end = blobs.index(b"\n", at)
        size = int(blobs[at:end].split()[2])
        out[name] = _lines(blobs[end + 1 : end + 1 + size])
        at = end + size + 2
    return out


def _lines(data: bytes) -> int:
    return data.count(b"\n")


def _git(*words: str, text: str = "") -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout


def room_of(name: str) -> str:
    """Folder and room of a file; papers' are one."""
    if name.startswith(APART):
        return "papers"
    parts = name.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def rooms(files: dict[str, int]) -> Counter[str]:
    """Lines by room."""
    out: Counter[str] = Counter()
    for name, lines in files.items():
        out[room_of(name)] += lines
    return out


def main(revision: str | None) -> int:
    """Print the table; 1 where a budget is passed."""
    now = rooms(files_of(None))
    before = rooms(files_of(revision)) if revision else now
    for room in sorted({*now, *before}):
        change = now[room] - before[room]
        print(f"{room:28}{now[room]:8,}" + (f"{change:+8,}" if revision else ""))
    held = {"product": sum(now.values()) - now["papers"], "papers": now["papers"]}
    was = {"product": sum(before.values()) - before["papers"], "papers": before["papers"]}
    print()
    for name, most in BUDGETS.items():
        change = f" ({held[name] - was[name]:+,})" if revision else ""
        print(f"{name}: {held[name]:,} lines{change}, {most:,} at most")
    if held["product"] > GOAL:
        print(f"product: {held['product'] - GOAL:,} lines above the {GOAL:,} wanted")
    over = [name for name, most in BUDGETS.items() if held[name] > most]
    if over:
        print(f"over the budget: {', '.join(over)}; take something out, or say why it must grow")
    return int(bool(over))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else None))
