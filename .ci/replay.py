"""Do two revisions answer alike, byte for byte? ``python .ci/replay.py OLD [LIST]``.

Every command of the list runs with ``--json`` on the tree and on an unpacked copy of OLD, each in one
process, in order, in a folder with the measured tables of the package; JSON that differs is told by command and by
the first key that does. Exit code 1 where any does. What times a machine or stays until it is ended is only refused.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ONE = """
import contextlib, io, json, sys
from opbyte.analysis.cli import main
for line in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([*line, *(["--json"] if line[0] != "init" else [])])
    except SystemExit as end:
        code = end.code
    except Exception as error:
        code = f"{type(error).__name__}: {error}"
    print(json.dumps([line, code, out.getvalue(), err.getvalue()[-300:]]), flush=True)
"""


def answers(source: Path, lines: list[list[str]], folder: Path) -> list[list[object]]:
    """Exit code and output of every command, with the library at `source`, in a folder that is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "kernels" / "measured", folder / "measured")
    env = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "100"}
    run = subprocess.run(
        [sys.executable, "-c", ONE], input=json.dumps(lines), cwd=folder, env=env, text=True,
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in run.stdout.splitlines()]


def without_version(out: object) -> object:
    """An answer without the digest of the code that made it, which differs whenever the code does."""
    try:
        found = json.loads(str(out))
        found["made_by"]["versions"].pop("opbyte")
    except (ValueError, KeyError, TypeError):
        return out
    return json.dumps(found)  # keys in their order


def first_difference(a: object, b: object, at: str = "") -> str:
    """Where two answers part."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            if a.get(key) != b.get(key) or (key in a) != (key in b):
                return first_difference(a.get(key), b.get(key), f"{at}.{key}")
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if x != y:
                return first_difference(x, y, f"{at}[{i}]")
    return f"{at or 'all'}: {a!r:.60} is {b!r:.60} now"


def main(old: str, listed: str) -> int:
    """Run both and compare."""
    text = Path(listed).read_text(encoding="utf-8")
    lines = [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]
    packed = subprocess.run(["git", "archive", old], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
            files.extractall(place / "old", filter="data")
        before = answers(place / "old" / "src", lines, place / "run")
        now = answers(ROOT / "src", lines, place / "run")
    for each in (*before, *now):
        each[2] = without_version(each[2])
    differ = 0
    for (line, code, out, said), (_, new_code, new_out, new_said) in zip(before, now, strict=True):
        command = shlex.join(map(str, line)) if isinstance(line, list) else str(line)
        if (code, out) == (new_code, new_out):
            continue
        differ += 1
        if code != new_code:
            print(f"{command}: exit code {code}, now {new_code}: {new_said or said}")
            continue
        print(f"{command}: {first_difference(json.loads(str(out)), json.loads(str(new_out)))}")
    print(f"{len(lines) - differ} of {len(lines)} commands answer alike")
    return int(bool(differ))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("usage: python .ci/replay.py OLD [LIST]")
    raise SystemExit(main(sys.argv[1], (sys.argv[2:] or [str(ROOT / ".ci" / "replay.txt")])[0]))
