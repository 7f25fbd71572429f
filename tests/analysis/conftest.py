"""The command line in this process: arguments in, exit code and both streams out."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis.cli import main


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True)
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output, read strictly."""
        assert self.code == 0, self.err
        found = json.loads(self.out, parse_constant=_refuse_constant)
        assert isinstance(found, dict)
        return found

    def refused(self) -> str:
        """The one line of a bad-input answer, after `opbyte: error: `."""
        assert self.code == 2, (self.out[-500:], self.err)
        assert self.out == ""
        assert self.err.startswith("opbyte: error: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("opbyte: error: ").rstrip("\n")


Ask = Callable[..., Answer]
Write = Callable[[str, str], Path]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run `opbyte ARGUMENTS...`."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Answer(caught.value.code, out, err)

    return run


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-in for figures and reports, which have tests of their own; names of those drawn."""
    import_module("opbyte.analysis.report.files")  # with the real figures, for tests after this one
    plots = types.ModuleType("opbyte.analysis.plots")
    names: list[str] = []

    def draw(name: str) -> Callable[..., str]:
        return lambda *a, **k: names.append(name) or name

    vars(plots).update(
        roofline=draw("roofline"), latency=draw("latency"), save=lambda figure, path: Path(path).write_text(str(figure))
    )
    monkeypatch.setitem(sys.modules, "opbyte.analysis.plots", plots)
    monkeypatch.setattr("opbyte.analysis.report.files.report", lambda result, library="": "a report")
    return names


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file into a folder of its own."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put
