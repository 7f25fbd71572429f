"""What does an addition cost? Toys are added to a copy of the tree, and the files that were touched are counted.

Additions from outside touch none: docs/extending.md has one of each, which tests/test_extending.py runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
Change = tuple[str, ...]
"""What stands once in a file, and what stands there then; "" for a new file. More such pairs may follow."""

QUANTITY: Mapping[str, Change] = {
    "analysis/answers/part_answers.py": (
        "COUNTS = (\n",
        'COUNTS = (\n    Quantity("toys", "Twice the steps [1].", lambda r: 2 * r.iterations, label="toys", column=True),\n',
    )
}
SHOWN = """
from opbyte.analysis.studies.sweep.point import metrics_of
run = simulate("llama-3-8b", "h100-x1", **ASKED)
print(json.dumps([run.to_dict()["toys"], run.run.iterations, metrics_of(run)["toys"], PAGE.count("`toys`")]))
"""
ANSWER = '''"""How many letters a word has."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from ..show.result import Result

@dataclass(frozen=True, slots=True)
class Letters(Result):
    """A word's letters."""

    word: str

    def to_dict(self) -> dict[str, Any]:
        return {"word": self.word, "letters": len(self.word)}

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [self.to_dict()]

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        return [f"{self.word}: {len(self.word)} letters", self.rows()]
'''
COMMAND: Mapping[str, Change] = {
    "analysis/answers/toy.py": ("", ANSWER),
    "analysis/commands/commands.yaml": (
        "  Catalog and files:\n",
        (
            "  Catalog and files:\n    toy:\n      help: Count the letters of a word.\n      call: answers.toy:Letters\n"
            "      options:\n        word: {is: WORD, argument: true, needed: true, help: What is counted.}\n"
            "        as_json:\n        out:\n"
        ),
    ),
}
CALLED = """
import contextlib, io, pathlib, sys
from opbyte.analysis.cli import main
def said(*words):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main(list(words))
    return text.getvalue()
listed = said("--help").partition("Catalog and files")[2].split()[1]
counted = json.loads(said("toy", "abc", "--json"))["letters"]
said("toy", "abcd", "--out", sys.argv[1])
report = (pathlib.Path(sys.argv[1]) / "report.html").read_text()
print(json.dumps([listed, counted, "4 letters" in report, PAGE.count("### opbyte toy")]))
"""
POLICY: Mapping[str, Change] = {
    "simulator/engine/policies.py": (
        "\ndef make_policy(",
        '\nPOLICIES.register("toy", "eight tokens a step")(Policy("toy", 8, 4, chunked=True, reserve=False))\n\n\ndef make_policy(',
    )
}
SCHEDULED = """
own, usual = (simulate("llama-3-8b", "h100-x1", policy=p, **ASKED).run for p in ("toy", "chunked"))
print(json.dumps([own.policy.name, own.iterations > usual.iterations, PAGE.count("eight tokens a step")]))
"""
OP_KIND: Mapping[str, Change] = {
    "workloads/ops.csv": ("\nelementwise,", "\ntoy,A toy.,vector,,,,\nelementwise,"),
    "workloads/layers/ffn.py": (
        'elementwise(f"{prefix}activation", layer, tokens, width, matrices, run),',
        'replace(elementwise(f"{prefix}activation", layer, tokens, width, matrices, run), kind="toy"),',
    ),
}  # fmt: skip
RUN = """
from opbyte import roofline
told = []
for costs in ("roofline", "auto"):
    step = roofline("llama-3-8b", "h100-x1", batch=4, context=100, costs=costs).to_dict()
    (own,) = [op for op in step["ops"] if op["kind"] == "toy"]
    run = simulate("llama-3-8b", "h100-x1", **{**ASKED, "costs": costs, "token_budget": 32, "max_seqs": 8}, steps="0:2")
    told.append([own["seconds"], len([bar for bar in run.steps.bars if bar.op == "activation"])])
print(json.dumps([told, PAGE.count("A toy.")]))
"""

ENERGY: Mapping[str, Change] = {
    "devices/cost.py": (
        'PATHS = {"dram": "memory",', 'PATHS = {"toy": "buffers", "dram": "memory",',
        '"dram": op.stream_bytes * self.streamed_J_per_byte(op) + op.act_bytes * op.moved * self.act_J_per_byte,',
        '"dram": op.stream_bytes * self.streamed_J_per_byte(op), "toy": op.act_bytes * op.moved * self.act_J_per_byte,',
    ),
    "simulator/step/step_totals.py": (
        '"dram": through_memory * (tally[:, :, T_STREAM] * params["j_stream"] + act),',
        '"dram": through_memory * tally[:, :, T_STREAM] * params["j_stream"], "toy": through_memory * act,',
    ),
}  # fmt: skip
SPENT = """
from opbyte.analysis.plots import breakdown
from opbyte.analysis.report.simulation import layer_rows
run = simulate("llama-3-8b", "h100-x1", **ASKED)
ops = run.ops()
legends = [axes.get_legend() for axes in breakdown(ops, "").axes]
drawn = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
held = float(ops.filter(like="_joules").sum().sum())
print(json.dumps([float(ops["toy_joules"].sum()), held, run.run.joules, "buffers" in drawn, len(layer_rows(run.run))]))
"""


STARTS = """
import json
from opbyte import simulate
from opbyte.analysis.manual.page import page
PAGE = page()
ASKED = dict(rate=50.0, requests=5, input_len=20, output_len=3, costs="roofline")
"""
"""What all scripts use; rooflines, or few tokens a step, because curves of fitted kernels are slow to tabulate in plain Python."""
SCRIPTS = {
    "number": (QUANTITY, SHOWN), "command": (COMMAND, CALLED), "policy": (POLICY, SCHEDULED), "op kind": (OP_KIND, RUN),
    "energy": (ENERGY, SPENT),
}  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script of each toy says, in one process of a package with all of them."""
    changes = {path: change for toy, _ in SCRIPTS.values() for path, change in toy.items()}
    assert len(changes) == sum(len(toy) for toy, _ in SCRIPTS.values())
    script = STARTS + "".join(script for _, script in SCRIPTS.values())
    return dict(zip(SCRIPTS, asked(tmp_path_factory.mktemp("toys"), changes, script), strict=True))


def asked(folder: Path, changes: Mapping[str, Change], script: str) -> list[Any]:
    """The lines that a script says of the package with some files changed; all others are links."""
    package = folder / "opbyte"
    package.mkdir()
    for entry in (ROOT / "src" / "opbyte").iterdir():
        (package / entry.name).symlink_to(entry.resolve())
    for path, change in changes.items():
        at, source = package, ROOT
        for part in Path(path).parts[:-1]:
            at, source = at / part, source / part
            if at.is_symlink():
                at.unlink()
                at.mkdir()
                for entry in source.iterdir():
                    (at / entry.name).symlink_to(entry)
        file, text = at / Path(path).name, ""
        if change[0]:
            text = (ROOT / path).read_text(encoding="utf-8")
            file.unlink()
        for old, new in zip(change[::2], change[1::2], strict=True):
            assert not old or text.count(old) == 1
            text = text.replace(old, new) if old else new
        file.write_text(text, encoding="utf-8")
    # As plain Python: a changed tree would be compiled anew, for runs of three requests.
    env = {**os.environ, "PYTHONPATH": str(folder), "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", script, str(folder / "out")]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize(
    ("changes", "row", "places"),
    [
        (QUANTITY, "a number of a run", r"one `Quantity` in `analysis/answers/part_answers.py`"),
        (COMMAND, "a command", r"in `analysis/`, its entry in `analysis/commands/commands.yaml`"),
        (POLICY, "a batching policy", r"one entry or one function in `simulator/engine/policies.py`"),
        (OP_KIND, "a kind of op", r"one row in `workloads/ops.csv`, and the layer kind"),
        (
            ENERGY,
            "a path of a step's energy",
            r"one name in `PATHS` .* `devices/cost.py`, its joules in `simulator/step/step_totals.py`",
        ),
    ],
)
def test_the_table_says_as_many_places(changes: Mapping[str, Change], row: str, places: str) -> None:
    """CONTRIBUTING names each file that a toy touches, and no other."""
    (line,) = [r for r in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if r.startswith(f"| {row}")]
    found = re.search(places, line)
    assert found is not None, line
    assert len(changes) == 1 + found[0].count(",")


def test_a_number_of_a_run_is_declared_in_one_file(told: dict[str, Any]) -> None:
    """JSON, columns of sweeps and the reference follow."""
    shown, steps, column, named = told["number"]
    assert shown == column == 2 * steps > 0
    assert named >= 1


def test_a_command_is_three_files(told: dict[str, Any]) -> None:
    """Help, JSON, a report and the reference follow."""
    assert told["command"] == ["toy", 3, True, 1]


def test_a_policy_is_one_file(told: dict[str, Any]) -> None:
    """Runs and the reference follow."""
    name, more, named = told["policy"]
    assert (name, more) == ("toy", True)
    assert named >= 1


def test_a_kind_of_op_is_an_entry_and_who_makes_it(told: dict[str, Any]) -> None:
    """Both paths price it, on a roofline and by measured kernels (the rest of a device's), and a run shows it."""
    costs, named = told["op kind"]
    for seconds, bars in costs:
        assert seconds > 0.0
        assert bars >= 1
    assert named <= 1


def test_a_path_of_energy_is_two_files(told: dict[str, Any]) -> None:
    """Tables, figures, reports and all joules of a run follow, which are as many as before."""
    toy, held, whole, drawn, layers = told["energy"]
    assert 0.0 < toy < held
    assert held == pytest.approx(whole)
    assert drawn
    assert layers
