"""Check an installed OpByte against the tree it was built from.

Run with the Python of a clean environment, from outside the tree: ``check_wheel.py TREE``.
"""

import importlib.metadata
import sys
from pathlib import Path

FOLDERS = ["simulator", "devices", "kernels", "workloads", "analysis"]


def main(tree: Path) -> int:
    distribution = importlib.metadata.distribution("opbyte")
    installed = {file.as_posix() for file in distribution.files or []}
    top = {name.split("/")[0] for name in installed if not name.startswith("../")}
    extra = {name for name in top if name != "opbyte" and not name.endswith(".dist-info")}
    problems = [f"installed beside opbyte: {name}" for name in sorted(extra)]

    sources = {
        f"opbyte/{path.relative_to(tree).as_posix()}"
        for folder in FOLDERS
        for path in (tree / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    own = tree / "src/opbyte"  # links to the folders among them are not followed
    sources |= {
        f"opbyte/{path.relative_to(own).as_posix()}"
        for path in (*own.iterdir(), *(own / "extend").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    problems += [f"not in the wheel: {name}" for name in sorted(sources - installed)]
    package = {n for n in installed if n.startswith("opbyte/") and "__pycache__" not in n}
    problems += [f"in the wheel, not in the tree: {name}" for name in sorted(package - sources)]

    import opbyte

    if Path(opbyte.__file__).resolve().is_relative_to(tree.resolve()):
        problems.append(f"opbyte was imported from the tree: {opbyte.__file__}")
    print("\n".join(problems) or f"wheel: {len(package)} files, nothing but opbyte at top level")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
