"""Does a part from outside, one file, have its options, state and values wherever an answer is read?

The file is that of docs/extending-parts.md, laid out as an installed package with an entry point. The expected values are
counted here from the requests that the run wrote.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ..processes import environment

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending-parts.md").read_text(encoding="utf-8")
PART = PAGE.partition("<!-- file: part_with_options.py -->")[2].partition("```python\n")[2].partition("```")[0]
LOAD = ("llama-3-8b", "--system", "h100-x1", "--rate", "8", "--requests", "30", "--input-len", "256",
        "--output-len", "4", "--lengths", "lognormal")  # fmt: skip
ASK = """
import contextlib, io, json, sys
from opbyte.analysis.cli import main
out = []
for line in json.load(sys.stdin):
    text, error = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(error):
        try:
            main(line)
        except SystemExit as end:
            code = end.code or 0
    out.append([code, text.getvalue(), error.getvalue()])
from opbyte.analysis.manual.page import page
from opbyte.analysis.studies.sweep.point import metrics_of
from opbyte import simulate
found = simulate("llama-3-8b", "h100-x1", rate=8.0, requests=30, input_len=256, output_len=4, watch_tokens=1)
print(json.dumps([out, page(), metrics_of(found)]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[int, str, str]], str, dict[str, object], Path]:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "watch_part.py").write_text(PART)
    info = folder / "watch_part-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: watch_part\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[opbyte.plugins]\nwatch = watch_part\n")
    lines = [
        ["simulate", "--help"],
        ["simulate", *LOAD, "--watch-tokens", "300", "--watch-late", "0.02", "--json"],
        ["simulate", *LOAD, "--watch-tokens", "300", "--watch-late", "0.02", "--out", "out"],
        ["simulate", *LOAD, "--json"],
        ["simulate", *LOAD, "--watch-late", "1"],
        ["simulate", *LOAD, "--watch-tokens", "0"],
        ["list", "parts", "--json"],
    ]
    env = environment(str(folder))
    run = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(lines),
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    out, page, row = json.loads(run.stdout.splitlines()[-1])
    return out, page, row, folder


def test_it_is_one_short_file() -> None:
    assert len(PART.splitlines()) <= 120


def test_help_json_and_text_have_it(told: tuple[list[tuple[int, str, str]], str, dict[str, object], Path]) -> None:
    (_, usage, _), (code, text, error), (_, shown, _), (_, plain, _), needs, low, (_, listed, _) = told[0]
    assert "--watch-tokens N" in usage
    assert "Watch requests with prompts of at least so many tokens [tokens]." in " ".join(usage.split())
    assert code == 0, error
    table = pd.read_csv(told[3] / "out" / "requests.csv")
    long = table[table["input_tokens"] >= 300]
    late = (long["first_token_s"] - long["arrival_s"] > 0.02).mean()
    assert json.loads(text)["watch"] == {
        "requests": len(long), "prompt_tokens": int(long["input_tokens"].sum()), "late_share": pytest.approx(late),
    }  # fmt: skip
    assert 0 < len(long) < len(table)
    assert f"Long prompts: requests {len(long)}, prompt tokens" in shown
    assert "watch" not in json.loads(plain)
    assert needs[0] == low[0] == 2
    assert needs[2].strip() == "opbyte: error: --watch-late: needs --watch-tokens N"
    assert "--watch-tokens: must be a whole number from 1" in low[2]
    assert '"watch"' in listed


def test_report_reference_and_sweeps_have_it(
    told: tuple[list[tuple[int, str, str]], str, dict[str, object], Path],
) -> None:
    _, page, row, folder = told
    assert "Long prompts: requests" in (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "| `watch_tokens` |" in page
    assert "`watch.late_share` Share of them whose first token is late" in page
    assert "| `watched_late_share` |" in page
    assert row["watched_late_share"] is None


def test_an_unknown_hook_is_one_line() -> None:
    from opbyte.extend import InputError, Part

    with pytest.raises(InputError, match="no hook 'colect'; did you mean 'collect'"):
        Part("odd", "--odd", "odd", hooks={"colect": print})
