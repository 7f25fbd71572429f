"""Run mypy over the package and check that it saw every file.

The library folders reach the package through links in ``src/opbyte``. Where a link is lost,
mypy checks fewer files and still reports success. Its closing count also includes data folders,
so the files are compared one by one, as its log names them.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["src/opbyte", "simulator", "devices", "kernels", "workloads", "analysis"]


def main() -> int:
    # Walked without following links, and resolved: a file has one name on both sides.
    package = {p.resolve() for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")}
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--verbose"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    log = [line for line in run.stderr.splitlines() if line.startswith("LOG:")]
    print(run.stdout, end="")
    print("".join(f"{line}\n" for line in run.stderr.splitlines() if line not in log), end="")
    found = re.findall(r"Found source: +BuildSource\(path='([^']+\.py)'", "\n".join(log))
    checked = {(ROOT / name).resolve() for name in found}
    for path in sorted(package - checked):
        print(f"{path.relative_to(ROOT)}: not checked by mypy (is a link in src/opbyte lost?)")
    print(f"mypy checked {len(package & checked)} of {len(package)} files of the package")
    # As one who imports it: with a cache of its own, or each would undo the other's.
    cache = ["--cache-dir", ".mypy_cache/users"]
    script = [sys.executable, "-m", "mypy", "--strict", *cache, "docs/examples/study.py"]
    users = subprocess.run(script, cwd=ROOT, check=False).returncode
    return run.returncode or users or int(package != checked)


if __name__ == "__main__":
    sys.exit(main())
