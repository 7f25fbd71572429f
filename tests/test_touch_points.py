"""What does an addition cost? Toys are added to a copy of the tree, and the files that were touched are counted.

Additions from outside touch none: docs/extending.md has one of each, which tests/test_extending.py runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUANTITY = (
    "analysis/answers/quantities.py",
    "COUNTS = (\n",
    'COUNTS = (\n    Quantity("toys", "Twice the steps [1].", lambda r: 2 * r.iterations, label="toys", column=True),\n',
)
SHOWN = """
import json
from opbyte import simulate
from opbyte.analysis.manual.page import page
from opbyte.analysis.studies.sweep.point import metrics_of
run = simulate("llama-3-8b", "h100-x1", rate=5.0, requests=3, input_len=20, output_len=3)
print(json.dumps([run.to_dict()["toys"], run.run.iterations, metrics_of(run)["toys"], page().count("`toys`")]))
"""


def copied(folder: Path, path: str, old: str, new: str) -> Path:
    """The package with one file changed; all others are links."""
    package = folder / "opbyte"
    package.mkdir()
    for entry in (ROOT / "src" / "opbyte").iterdir():
        (package / entry.name).symlink_to(entry.resolve())
    at, source = package, ROOT
    for part in Path(path).parts[:-1]:
        at, source = at / part, source / part
        at.unlink()
        at.mkdir()
        for entry in source.iterdir():
            (at / entry.name).symlink_to(entry)
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.count(old) == 1
    file = at / Path(path).name
    file.unlink()
    file.write_text(text.replace(old, new), encoding="utf-8")
    return folder


def test_a_number_of_a_run_is_declared_in_one_file(tmp_path: Path) -> None:
    """CONTRIBUTING says one: JSON, columns of sweeps and the reference follow."""
    where = copied(tmp_path, *QUANTITY)
    env = {**os.environ, "PYTHONPATH": str(where)}
    run = subprocess.run([sys.executable, "-c", SHOWN], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    told, steps, column, named = json.loads(run.stdout)
    assert told == column == 2 * steps > 0
    assert named >= 1
    row = next(r for r in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if "a number of a run" in r)
    assert re.search(r"one `Quantity` in `analysis/answers/quantities.py`", row)
