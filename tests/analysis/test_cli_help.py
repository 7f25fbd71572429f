"""Is ``--help`` in panels that hold everything once, and does a shell complete names?"""

from __future__ import annotations

import re

import pytest

from opbyte.analysis import cli
from opbyte.analysis.commands.app import COMMANDS, OPTIONS, OTHERS
from opbyte.simulator.option import options_of
from opbyte.simulator.scenario import Scenario

from .conftest import Ask


def panels(text: str) -> dict[str, list[str]]:
    """Title -> first words of its lines."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z][a-z -]+:", line):
            title = line[:-1]
        elif title and re.match(r"  \S", line):
            found.setdefault(title, []).append(line.split()[0])
    return found


def test_every_command_stands_in_one_panel(ask: Ask) -> None:
    shown = panels(ask("--help").out)
    assert OTHERS not in shown  # a new command belongs into one of the panels
    assert [(title, tuple(shown[title])) for title in COMMANDS] == list(COMMANDS.items())
    tops = {name.split()[0] for name in cli.names()}
    assert tops == {name for names in COMMANDS.values() for name in names}


def test_every_option_of_a_scenario_stands_in_the_panel_of_its_part(ask: Ask) -> None:
    shown = panels(ask("simulate", "--help").out)
    for title in OPTIONS.values():
        own = [p.flag for p in options_of(Scenario) if OPTIONS.get(p.group) == title]
        assert shown[title] == own
    assert shown["Output"] == ["--json", "--out", "-h,"]
    flags = [flag for rows in shown.values() for flag in rows]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("opbyte sim", {"simulate"}),
        ("opbyte simulate mixtral-8x7", {"mixtral-8x7b"}),
        ("opbyte roofline x --system duplex-x4", {"duplex-x4"}),
        ("opbyte simulate --router least", {"least-loaded"}),
        ("opbyte reproduce duple", {"duplex"}),
        ("opbyte capacity --tensor", set()),
    ],
)
def test_a_shell_completes_names(
    words: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    monkeypatch.setenv("_OPBYTE_COMPLETE", "complete_bash")
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 0
    assert set(capsys.readouterr().out.split()) == expected
