"""Do the documents tell the truth: commands run, output matches, paths exist?

Blocks fenced as ``console`` or ``bash`` hold commands on lines that start with ``$ ``; the lines
below a command are its output. All commands of one document run in order in one empty folder,
with the installed ``opbyte`` first on PATH. Not run: commands with ``make`` or ``git clone``,
those that need OPBYTE_DATA where it is unset, papers (tests/analysis runs all their rows and figures; one runs here), those that read what one of these would have written,
what an earlier page runs in the same words, without files and with the same output, and blocks below ``<!-- not run: reason -->``.

A block below ``<!-- file: NAME -->`` is a file that lies in the folder beforehand. The first line
of output must match, numbers and spacing aside; Python blocks of a document run after its
commands, in the same folder. An ``OPBYTE_BIN`` folder tests
another installation than the one that runs pytest. The commands of README.md are started as
installed, those of other pages are forks of one process that has imported it (`forked`): to start took
longer than to answer. ``OPBYTE_DOCS=files`` runs only the commands
that hand files on, for a second run without measured data: all others were in the first.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from .forked import forking

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path.exists()
]
BIN = Path(os.environ.get("OPBYTE_BIN", Path(sys.executable).parent))
BLOCKS = re.DOTALL | re.MULTILINE
TIMEOUT_S = 300


@dataclass(frozen=True)
class Command:
    line: int
    text: str
    output: list[str]
    reason: str  # why it is not run, or empty


def commands(text: str) -> list[Command]:
    """Commands of a document with the output it promises, in order."""
    found: list[Command] = []
    fence = language = reason = before = ""
    for number, line in enumerate(text.splitlines(), 1):
        opening = re.match(r"^ {0,3}(`{3,})\s*(\w*)", line)
        if not fence and opening:
            fence, language = opening[1], opening[2]
            marked = re.match(r"<!--\s*not run:\s*(.+?)\s*-->", before)
            reason = marked[1] if marked else ""
        elif fence and line.strip() == fence:
            fence = language = ""
        elif fence and language in ("console", "bash"):
            last = found[-1] if found else None
            if line.startswith("$ "):
                found.append(Command(number, line[2:], [], reason or _skipped(line)))
            elif last and not last.output and last.text.endswith("\\"):
                whole = last.text[:-1] + line.strip()
                found[-1] = Command(last.line, whole, [], reason or _skipped(whole))
            elif last:
                last.output.append(line)
        before = line if line.strip() else before
    return [*_without_what_is_not_there(found)]


def _without_what_is_not_there(found: list[Command]) -> Iterator[Command]:
    """Commands; not run are those that read a file which a command that is not run would write."""
    absent: set[str] = set()
    for command in found:
        written = _written(command)
        lacks = sorted((_heads(command.text) & absent) - written)
        if lacks and not command.reason:
            command = replace(command, reason=f"{lacks[0]} is not there")
        if command.reason:
            absent |= {name.split("/")[0] for name in written}
        else:
            absent -= written
        yield command


def new_on(document: Path, found: list[Command]) -> list[Command]:
    """Commands but those that another page runs already."""
    earlier = DOCUMENTS[: DOCUMENTS.index(document)]
    before = {
        (command.text, first_line(command.output))
        for page in earlier
        for command in commands(page.read_text(encoding="utf-8"))
        if not command.reason and not re.search(r"[>/.]\S|--out|-o\b", command.text)
    }
    return [c for c in found if (c.text, first_line(c.output)) not in before]


def handing_on(found: list[Command]) -> list[Command]:
    """Commands that write a file, and those that name one; none where all that write are run."""
    written = [_written(command) for command in found]
    if not any(own for own, command in zip(written, found, strict=True) if command.reason):
        return []
    names = {name.split("/")[0] for each in written for name in each}
    return [c for c, own in zip(found, written, strict=True) if own or names & _heads(c.text)]


def _written(command: Command) -> set[str]:
    return set(re.findall(r"(?:>|--out|-o)\s*(\S+)", command.text))


def _heads(text: str) -> set[str]:
    return {word.split("/")[0] for word in text.split()}


def files(text: str) -> dict[str, str]:
    """Files that a document shows, by name."""
    pattern = r"^<!-- file: (\S+) -->\n+```\w*\n(.*?)^```"
    return dict(re.findall(pattern, text, BLOCKS))


def scripts(text: str) -> list[str]:
    """Python blocks of a document."""
    return re.findall(r"^```python\n(.*?)^```", text, BLOCKS)


def printed(text: str) -> list[str]:
    """Blocks of a document that its commands print, with runs of white space as one."""
    return [" ".join(block.split()) for block in re.findall(r"^<!-- as printed -->\n+```text\n(.*?)^```", text, BLOCKS)]


def _skipped(command: str) -> str:
    if re.search(r"\bmake\b|\bgit clone\b", command):
        return "set-up command"
    if "OPBYTE_DATA" in command and not os.environ.get("OPBYTE_DATA"):
        return "OPBYTE_DATA is not set"
    if re.fullmatch(r"(\$ )?opbyte reproduce (?!edge-moe)[\w-]+( --seeds 1)?", command):
        return "the tests of its paper run it"
    return ""


def masked(line: str) -> str:
    """A line with numbers as ``#`` and runs of spaces as one."""
    return " ".join(re.sub(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?", "#", line).split())


def first_line(lines: list[str]) -> str:
    return next((masked(line) for line in lines if line.strip()), "")


def _marked(path: Path) -> Any:
    """A document; marked where some of its commands need measured data."""
    needs = "OPBYTE_DATA" in path.read_text(encoding="utf-8")
    return pytest.param(path, marks=[pytest.mark.data] if needs else [])


LONG = ("wide-ep.md", "moe-systems.md", "speculation.md", "kv-tiers.md", "guide.md", "layer-lists.md", "adapters.md",
        "measured-servers.md", "first-steps.md")  # fmt: skip
"""Pages that take longest come first, so that none is begun when the others are done."""
IN_ORDER = sorted(DOCUMENTS, key=lambda page: page.name not in LONG)


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of an ``opbyte`` that is the installed one, started in milliseconds."""
    with forking(tmp_path_factory.mktemp("forked"), BIN, environment()) as folder:
        yield folder


def environment() -> dict[str, str]:
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    env.pop("PYTHONPATH", None)
    if "OPBYTE_DATA" in env:  # relative names count from where pytest was started
        env["OPBYTE_DATA"] = str(ROOT / env["OPBYTE_DATA"])
    return env


@pytest.mark.docs
@pytest.mark.parametrize("document", [_marked(p) for p in IN_ORDER], ids=lambda p: p.name)
def test_commands_run(document: Path, tmp_home: Path, request: pytest.FixtureRequest) -> None:
    text = document.read_text(encoding="utf-8")
    found = new_on(document, commands(text))
    if os.environ.get("OPBYTE_DOCS") == "files":
        found = handing_on(found)
    if not [command for command in found if not command.reason]:
        pytest.skip(f"nothing to run: {sorted({c.reason for c in found}) or 'no commands'}")
    env = environment()
    if document.name != "README.md":
        env["PATH"] = f"{request.getfixturevalue('forked')}{os.pathsep}{env['PATH']}"
    for name, body in files(text).items():
        (tmp_home / name).write_text(body, encoding="utf-8")
    told = ""
    for command in (c for c in found if not c.reason):
        where = f"{document.name}:{command.line}: {command.text}"
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.text],
            cwd=tmp_home, env=env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert run.returncode == 0, f"{where}\n{run.stderr[-2000:]}"
        promised = first_line(command.output)
        if promised and not promised.startswith("..."):
            assert first_line(run.stdout.splitlines()) == promised, where
        told += " ".join(run.stdout.split()) + " "
    if os.environ.get("OPBYTE_DOCS") != "files":
        assert [block for block in printed(text) if block not in told] == []
    for script in scripts(text):
        (tmp_home / "script.py").write_text(script, encoding="utf-8")
        run = subprocess.run(
            [str(BIN / "python"), "-W", "error", "script.py"],
            cwd=tmp_home, env=env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert run.returncode == 0, f"{script}\n{run.stderr[-2000:]}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_paths_exist(document: Path) -> None:
    """Relative links, and code spans that look like a path of the repository."""
    text = re.sub(r"<!--.*?-->", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    prose = re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", prose)
    missing = [name for name in links if not (document.parent / name).exists()]
    folders = r"src|simulator|devices|kernels|workloads|analysis|notebooks|tests|docs|\.ci"
    missing += sorted(anchors(prose, document))
    spans = re.findall(rf"`((?:{folders})/[\w./*-]*)`", prose)
    missing += [name for name in spans if not list(ROOT.glob(name.rstrip("/")))]
    assert not missing


def anchors(prose: str, document: Path) -> set[str]:
    """Links to headings that are not there."""
    found = set()
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", prose):
        text = (document.parent / name if name else document).read_text(encoding="utf-8")
        heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}
        if anchor not in slugs:
            found.add(f"{name}#{anchor}")
    return found


GENERATED = ("reference.md", "calibration.md")
MOST_LINES = 250


def test_pages_are_short_and_in_the_contents_of_the_site() -> None:
    pages = {page for page in DOCUMENTS if page.parent.name == "docs"}
    contents = (ROOT / "docs" / "site" / "conf.py").read_text(encoding="utf-8")
    assert {page.stem for page in pages} <= set(re.findall(r"docs/([\w-]+)", contents))
    lines = {page.name: len(page.read_text(encoding="utf-8").splitlines()) for page in pages}
    assert not {name for name, n in lines.items() if n > MOST_LINES} - set(GENERATED)


def test_pages_begin_with_their_question() -> None:
    for page in DOCUMENTS:
        if page.parent.name == "docs":
            title, empty, question = page.read_text(encoding="utf-8").splitlines()[:3]
            assert title.startswith("# "), page.name
            assert (empty, question[:2], question[-3:]) == ("", "**", "?**"), page.name


def test_folder_map_is_complete() -> None:
    """CONTRIBUTING's table of folders names every top folder, and only what exists."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = re.search(r"^\| folder \|.*?(?=\n\n)", text, re.DOTALL | re.MULTILINE)
    assert table, "CONTRIBUTING.md has no table whose first column is headed 'folder'"
    named = set(re.findall(r"^\| `([^`]+)/` \|", table[0], re.MULTILINE))
    assert not {name for name in named if not (ROOT / name).is_dir()}
    ours = {"simulator", "devices", "kernels", "workloads", "analysis", "notebooks", "src"}
    ours |= {"tests", "docs"}
    assert {name for name in ours if (ROOT / name).is_dir()} <= named


def test_the_first_steps_are_few() -> None:
    """From an installation to a device of one's own: at most ten commands, the files among them."""
    text = (ROOT / "docs" / "first-steps.md").read_text(encoding="utf-8")
    assert len(commands(text)) + len(files(text)) <= 10
    assert set(files(text)) == {"my-h100.yaml", "my-system.yaml"}
    for word in ("pip install", "simulate", "compare", "--system my-system.yaml", "--out"):
        assert any(word in command.text for command in commands(text))


def test_reader_of_commands() -> None:
    text = (
        "```console\n$ echo a \\\n    b\na b\n$ make demo\n```\n"
        "<!-- not run: needs a GPU -->\n\n```bash\n$ false\n```\n```text\n$ no\n```\n"
    )
    assert commands(text) == [
        Command(2, "echo a b", ["a b"], ""),
        Command(5, "make demo", [], "set-up command"),
        Command(10, "false", [], "needs a GPU"),
    ]
    assert masked("x  1,234.5 s (-3e-4)") == "x # s (#)"


def test_what_a_skipped_command_would_write_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPBYTE_DATA", raising=False)
    text = (
        "```console\n$ head $OPBYTE_DATA/a.csv > small.csv\n$ wc small.csv\n$ wc other.csv\n"
        "$ opbyte x $OPBYTE_DATA/b --out run\n$ opbyte y run/a.csv --out next\n$ ls next\n"
        "$ opbyte z --out run\n$ opbyte y run\n```\n"
    )
    found = commands(text)
    assert [bool(command.reason) for command in found] == [True, True, False, True, True, True, False, False]
    assert [c.line for c in found if c not in handing_on(found)] == [4]
    monkeypatch.setenv("OPBYTE_DATA", "somewhere")
    assert not [command for command in commands(text) if command.reason]
